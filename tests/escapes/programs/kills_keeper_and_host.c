/* A daemon kills the keeper and the host at one stroke. */
#define HOST_TOO true
#include "kills_keepers.c"

/* The same, and the host at the same stroke. */
#define HOST_TOO true
#include "kills_keepers.c"

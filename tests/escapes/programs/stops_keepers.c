/* The same, but it stops them. */
#define SIGNAL SIGSTOP
#include "kills_keepers.c"

/* Lowers the hard limit that is its tag, then kills the keeper. */
#define NO_TAG true
#include "kills_keepers.c"

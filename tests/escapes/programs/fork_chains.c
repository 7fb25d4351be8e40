/* Four chains of forks at a time, each faster than a scan. */
#define CHAINS 4
#include "fork_chain.c"

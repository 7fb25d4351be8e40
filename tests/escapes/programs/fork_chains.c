/* Four of those chains at a time. */
#define CHAINS 4
#include "fork_chain.c"

/* A daemon traces the keeper and holds it in a stop that SIGCONT does not end. */
#define DOES TRACES
#include "kills_keepers.c"

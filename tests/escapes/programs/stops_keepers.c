/* A daemon stops the keeper again and again; in a tight loop where the host is going to die. */
#define DOES STOPS
#include "kills_keepers.c"

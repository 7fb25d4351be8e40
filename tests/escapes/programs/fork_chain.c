/* Moves on faster than a scan: each process forks its successor and exits. */
#include "escape.h"

#ifndef CHAINS
#define CHAINS 1
#endif

static int full_speed = 1000; /* ms; for longer, one that escapes would fill the process table */

_Noreturn static void run_away(void) {
    while (!over()) {
        if (split())
            _exit(0);
        if (age() > full_speed)
            usleep(10000);
    }
    _exit(0);
}

int main(int count, char **argv) {
    if (count > 2) /* where it is known to escape */
        full_speed = 0;
    for (int chain = 0; chain < CHAINS; chain++)
        if (!split()) {
            setsid();
            run_away();
        }
    finish(argv);
}

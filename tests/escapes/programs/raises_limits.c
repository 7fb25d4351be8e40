/* A daemon that takes off every resource limit it may, the one that tags it included. */
#include "escape.h"

int main(int, char **argv) {
    if (daemonized()) {
        for (int number = 0; number < RLIM_NLIMITS; number++)
            setrlimit(number, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY});
        if (!split())
            setsid();
        hold();
    }
    finish(argv);
}

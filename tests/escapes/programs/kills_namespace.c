/* Kills whatever it may in its namespace (kill -9 -1), where that is its own; and daemonizes. */
#include "escape.h"

int main(int, char **argv) {
    if (daemonized())
        while (apart("pid") && !over()) {
            kill(-1, SIGKILL);
            if (!split())
                setsid();
            usleep(5000);
        }
    if (daemonized())
        hold();
    finish(argv);
}

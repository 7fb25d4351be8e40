/* A subreaper of its own collects daemons and replaces those that die. */
#include "escape.h"

int main(int, char **argv) {
    if (!split()) {
        setsid();
        signal(SIGTERM, SIG_IGN);
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        for (int daemons = 0; daemons < 20; daemons++) {
            if (daemonized())
                hold();
            wait(NULL); /* the go-between */
            if (daemons > 3)
                wait(NULL); /* a daemon that has died */
        }
        hold();
    }
    finish(argv);
}

/* An init in a user and PID namespace of its own, with a daemon; without the right, a daemon. */
#include "escape.h"

int main(int, char **argv) {
    if (daemonized()) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0 && split())
            hold();
        signal(SIGTERM, SIG_IGN);
        daemonized();
        hold();
    }
    finish(argv);
}

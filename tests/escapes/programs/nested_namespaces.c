/* Three PID namespaces within each other, each with an init that ignores all and a daemon. */
#include "escape.h"

int main(int, char **argv) {
    if (daemonized()) {
        for (int depth = 0; depth < 3; depth++) {
            if (unshare(CLONE_NEWUSER | CLONE_NEWPID) && unshare(CLONE_NEWPID))
                break; /* without the right, the daemon that it is by now */
            if (split())
                hold();
            for (int number = 1; number < NSIG; number++)
                signal(number, SIG_IGN);
            if (daemonized())
                hold();
        }
        hold();
    }
    finish(argv);
}

/* A vfork child that never executes anything; its parent cannot act on TERM before it does. */
#include "escape.h"

int main(int, char **argv) {
    if (!split()) {
        setsid();
        if (!vfork()) {
            signal(SIGTERM, SIG_IGN);
            enlist();
            hold();
        }
        _exit(0);
    }
    finish(argv);
}

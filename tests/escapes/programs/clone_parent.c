/* A child that is the keeper's own from birth: clone(CLONE_PARENT). */
#include "escape.h"
#include <sys/syscall.h>

int main(int, char **argv) {
    if (!syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)) {
        enlist();
        setsid();
        hold();
    }
    finish(argv);
}

/* A small fork bomb: 31 processes, each of which replaces a child that dies; 250 forks at most. */
#include "escape.h"
#include <sys/mman.h>

static int *forks; /* of the whole bomb */

_Noreturn static void grow(int depth) {
    pid_t children[2] = {0, 0};
    while (!over()) {
        for (int i = 0; depth && i < 2; i++) {
            bool dead = !children[i] || waitpid(children[i], NULL, WNOHANG) == children[i];
            if (dead && __atomic_add_fetch(forks, 1, __ATOMIC_RELAXED) <= 250 &&
                !(children[i] = split()))
                grow(depth - 1);
        }
        usleep(5000);
    }
    _exit(0);
}

int main(int, char **argv) {
    forks = mmap(NULL, sizeof *forks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    signal(SIGTERM, SIG_IGN);
    if (!split())
        grow(4);
    finish(argv);
}

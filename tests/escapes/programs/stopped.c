/* A tree that is stopped, the main process too. */
#include "escape.h"

int main(int, char **argv) {
    pid_t child = split();
    if (!child) {
        if (!split())
            setsid();
        raise(SIGSTOP);
        hold();
    }
    waitpid(child, NULL, WUNTRACED);
    if (!argv[1] || strcmp(argv[1], "exit")) {
        ready();
        raise(SIGSTOP);
    }
    finish(argv);
}

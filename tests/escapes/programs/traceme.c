/* Daemons, and at last the main process, have their parent, the keeper, trace them. */
#include "escape.h"
#include <sys/ptrace.h>

int main(int, char **argv) {
    if (daemonized()) {
        while (getppid() != 1 && !over() && ptrace(PTRACE_TRACEME, 0, 0, 0))
            usleep(1000);
        signal(SIGTERM, SIG_IGN);
        if (split())
            raise(SIGTRAP); /* stopped by its tracer, who knows nothing of it */
        hold();
    }
    usleep(50000);
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    signal(SIGTERM, SIG_IGN);
    if (argv[1] && !strcmp(argv[1], "exit")) {
        finish(argv);
    }
    ready();
    raise(SIGTRAP);
    hold();
}

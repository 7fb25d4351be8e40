/* One daemon traces another and holds it in a stop. */
#include "escape.h"
#include <sys/ptrace.h>

int main(int, char **argv) {
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    pid_t sibling = split();
    if (!sibling) {
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
        setsid();
        hold();
    }
    if (!split()) {
        setsid();
        signal(SIGTERM, SIG_IGN);
        ptrace(PTRACE_SEIZE, sibling, 0, PTRACE_O_TRACEEXIT);
        ptrace(PTRACE_INTERRUPT, sibling, 0, 0);
        ready();
        hold();
    }
    while (!over() && access(in_cell("ready"), F_OK))
        usleep(1000);
    finish(argv);
}

/* A child traces the main process, and holds a child of its own at its exec and at its exit. */
#include "escape.h"
#include <sys/ptrace.h>

static void trace_a_child(void) {
    pid_t traced = split();
    if (!traced) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execl(in_cell("hold"), "hold", NULL);
    }
    waitpid(traced, NULL, 0);
    ptrace(PTRACE_SETOPTIONS, traced, 0, PTRACE_O_TRACEEXIT);
}

int main(int, char **argv) {
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    pid_t main_process = getpid();
    if (!split()) {
        setsid();
        signal(SIGTERM, SIG_IGN);
        trace_a_child();
        ptrace(PTRACE_SEIZE, main_process, 0, 0);
        ready();
        hold();
    }
    while (!over() && access(in_cell("ready"), F_OK))
        usleep(1000);
    finish(argv);
}

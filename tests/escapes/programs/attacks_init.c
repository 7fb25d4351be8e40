/* Signals, stops, traces and kills PID 1 where that is the init of its own call; and daemonizes. */
#include "escape.h"
#include <sys/ptrace.h>

int main(int, char **argv) {
    if (daemonized()) {
        signal(SIGTERM, SIG_IGN);
        for (; apart("pid") && !over(); usleep(5000)) {
            kill(1, SIGSTOP);
            for (int number = 1; number < NSIG; number++)
                kill(1, number);
            if (!ptrace(PTRACE_SEIZE, 1, 0, 0))
                ptrace(PTRACE_INTERRUPT, 1, 0, 0); /* and never continued */
        }
        hold();
    }
    finish(argv);
}

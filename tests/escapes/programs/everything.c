/* Many of these at once: stopped, traced, namespaced, bare, orphaned, forking; without limits. */
#include "escape.h"
#include <sys/ptrace.h>

static void stopped(void) {
    raise(SIGSTOP);
}

static void forks_on(void) {
    while (!over()) {
        if (split())
            _exit(0);
        setsid();
        usleep(2000);
    }
}

static void in_a_new_namespace(void) {
    if (!unshare(CLONE_NEWUSER | CLONE_NEWPID))
        daemonized();
}

static void bare(void) {
    closefrom(0);
    execve(in_cell("hold"), (char *[]){"x", NULL}, (char *[]){NULL});
}

static void without_limits(void) {
    setrlimit(RLIMIT_RTTIME, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY});
    setrlimit(RLIMIT_RTTIME, &(struct rlimit){1 << 30, 1 << 30});
}

static void traces(void) {
    pid_t traced = split();
    if (!traced)
        hold();
    ptrace(PTRACE_SEIZE, traced, 0, PTRACE_O_TRACEEXIT);
}

static void reaps(void) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (daemonized())
        hold();
}

int main(int, char **argv) {
    void (*ways[])(void) = {stopped, forks_on, in_a_new_namespace, bare,
                            without_limits, traces, reaps};
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_IGN);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (daemonized()) {
            ways[i]();
            hold();
        }
    finish(argv);
}

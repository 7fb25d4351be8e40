/* A daemon keeps every descriptor that it was given, and all that it can take from keeper and host. */
#include "escape.h"
#include <dirent.h>
#include <sys/syscall.h>

/* Their copies stay open in here: whoever waits for the end of one of them waits for ever. */
static void take_all(pid_t pid) {
    int process = syscall(SYS_pidfd_open, pid, 0);
    for (int fd = 0; fd < 64; fd++)
        syscall(SYS_pidfd_getfd, process, fd, 0);
    close(process);
}

int main(int, char **argv) {
    if (daemonized()) {
        signal(SIGTERM, SIG_IGN);
        setrlimit(RLIMIT_NOFILE, &(struct rlimit){1024, 1024});
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; proc && (entry = readdir(proc));) {
            pid_t pid = atoi(entry->d_name);
            if (pid > 1 && pid != getpid() && of_this_cell(pid))
                take_all(pid);
        }
        ready();
        hold();
    }
    while (!over() && access(in_cell("ready"), F_OK))
        usleep(1000);
    finish(argv);
}

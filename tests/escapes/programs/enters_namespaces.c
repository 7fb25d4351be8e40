/* Looks below its /proc, enters every namespace that it finds there, and leaves a child in each. */
#include "escape.h"
#include <dirent.h>
#include <sys/mount.h>
#include <sys/ioctl.h>
#include <linux/nsfs.h>

static const int KINDS[] = {CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNS, CLONE_NEWCGROUP};
static const char *NAMES[] = {"user", "pid", "mnt", "cgroup"};

static void enter(int namespace, int kind) {
    if (setns(namespace, kind) == 0 && !split()) {
        setsid();
        hold();
    }
}

/* The namespaces of a process, and those that these lie in. */
static void enter_those_of(pid_t pid) {
    for (int i = 0; i < 4; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, NAMES[i]);
        for (int fd = open(path, O_RDONLY | O_CLOEXEC); fd >= 0;) {
            enter(fd, KINDS[i]);
            int above = i < 2 ? ioctl(fd, NS_GET_PARENT) : -1;
            close(fd);
            fd = above;
        }
    }
}

int main(int, char **argv) {
    if (daemonized()) {
        signal(SIGTERM, SIG_IGN);
        if (apart("pid"))
            umount2("/proc", MNT_DETACH); /* what it covered, if anything, is the host's */
        enter_those_of(1);
        enter_those_of(getppid());
        if (!split()) { /* a new process, for one in a changed PID namespace cannot see itself */
            DIR *proc = opendir("/proc");
            for (struct dirent *entry; proc && (entry = readdir(proc));) {
                pid_t pid = atoi(entry->d_name);
                if (pid > 1 && of_this_cell(pid))
                    enter_those_of(pid);
            }
        }
        hold();
    }
    finish(argv);
}

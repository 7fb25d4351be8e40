/* A daemon kills each process of its cell that is neither from the cell's folder nor the host. */
#include "escape.h"
#include <dirent.h>

#ifndef HOST_TOO
#define HOST_TOO false
#endif
#ifndef SIGNAL
#define SIGNAL SIGKILL
#endif

static bool is_host(pid_t pid) {
    char path[64], line[4096];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    size_t size = read_file(path, line, sizeof line);
    return memmem(line, size, "host.py", 7);
}

static bool from_cell(pid_t pid) {
    char path[64], exe[sizeof cell + 64] = "";
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return readlink(path, exe, sizeof exe - 1) < 0 || !strncmp(exe, cell, strlen(cell));
}

/* All at one stroke: found first, then stopped, so that none can act on the others' end. */
static int kill_them(void) {
    pid_t found[64];
    int count = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; count < 64 && (entry = readdir(proc));) {
        pid_t pid = atoi(entry->d_name);
        if (pid > 1 && of_this_cell(pid) && !from_cell(pid) && (HOST_TOO || !is_host(pid)))
            found[count++] = pid;
    }
    closedir(proc);
    for (int i = 0; i < count; i++)
        kill(found[i], SIGSTOP);
    for (int i = 0; i < count; i++)
        kill(found[i], SIGNAL);
    return count;
}

int main(int, char **argv) {
#ifdef NO_TAG
    setrlimit(RLIMIT_RTTIME, &(struct rlimit){1 << 30, 1 << 30});
#endif
    if (daemonized())
        hold();
    if (daemonized())
        for (int rounds = 0, killed = 0; !over(); rounds++, usleep(5000)) {
            killed += kill_them();
            if (HOST_TOO && killed)
                hold(); /* the next host may live */
            if (SIGNAL == SIGSTOP ? killed : rounds > 100 && !killed)
                ready(); /* a killed keeper ends the call without that */
        }
    if (argv[1] && !strcmp(argv[1], "exit"))
        usleep(300000);
    else
        hold();
}

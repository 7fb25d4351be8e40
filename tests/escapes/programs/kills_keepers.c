/* A daemon kills each process of its cell that is neither from the cell's folder nor the host. */
#include "escape.h"
#include <dirent.h>
#include <sys/ptrace.h>

#ifndef HOST_TOO
#define HOST_TOO false
#endif
#ifndef NO_TAG
#define NO_TAG false
#endif
enum { KILLS, STOPS, TRACES };
#ifndef DOES
#define DOES KILLS
#endif

static pid_t found[64];

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

static int find_them(void) {
    int count = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; count < 64 && (entry = readdir(proc));) {
        pid_t pid = atoi(entry->d_name);
        if (pid > 1 && of_this_cell(pid) && !from_cell(pid) && (HOST_TOO || !is_host(pid)))
            found[count++] = pid;
    }
    closedir(proc);
    return count;
}

/* All at one stroke: stopped before the first is killed, so that none acts on another's end. */
static void act_on(int count) {
    for (int i = 0; i < count; i++)
        if (DOES == TRACES) {
            ptrace(PTRACE_SEIZE, found[i], 0, 0);
            ptrace(PTRACE_INTERRUPT, found[i], 0, 0);
        } else {
            kill(found[i], SIGSTOP);
        }
    for (int i = 0; DOES == KILLS && i < count; i++)
        kill(found[i], SIGKILL);
}

_Noreturn static void attack(bool host_will_die) {
    for (int rounds = 0, total = 0; !over(); rounds++, usleep(10000)) {
        int count = find_them();
        act_on(count);
        total += count;
        if (HOST_TOO && total)
            hold(); /* the next host may live */
        if (total ? DOES != KILLS : rounds > 10)
            ready(); /* a killed keeper ends the call without that */
        while (DOES == STOPS && host_will_die && count && !over())
            for (int i = 0; i < 100000; i++)
                act_on(count); /* no time for anything between two stops */
    }
    _exit(0);
}

int main(int, char **argv) {
    if (NO_TAG)
        setrlimit(RLIMIT_RTTIME, &(struct rlimit){1 << 30, 1 << 30});
    if (daemonized())
        hold();
    if (daemonized())
        attack(argv[1] && !strncmp(argv[1], "host", 4));
    if (argv[1] && !strcmp(argv[1], "exit"))
        usleep(300000);
    else
        hold();
}

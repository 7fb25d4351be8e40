/* What every program needs: to be counted, to last, and to end by itself if nobody ends it. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const int LIFESPAN = 120000; /* ms: a failure does not last for ever */
static char cell[4096];         /* the folder of the executable, whatever is left of the rest */
static long long born; /* ms */

static const char *in_cell(const char *name) {
    static char path[sizeof cell + 64];
    snprintf(path, sizeof path, "%s/%s", cell, name);
    return path;
}

static long long age(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000 - born;
}

static bool over(void) {
    return age() > LIFESPAN || !access(in_cell("stop"), F_OK);
}

static size_t read_file(const char *path, char *buffer, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got, total = 0;
    while (fd >= 0 && (got = read(fd, buffer + total, size - 1 - total)) > 0)
        total += got;
    if (fd >= 0)
        close(fd);
    buffer[total] = 0;
    return total;
}

/* "starttime pid namespace" to the registry, as /proc has them, whatever that is mounted for. */
static void enlist(void) {
    char stat[1024], line[128], namespace[64] = "";
    if (!read_file("/proc/self/stat", stat, sizeof stat))
        return;
    char *field = strrchr(stat, ')');
    for (int number = 2; number < 22 && field; number++)
        field = strchr(field + 1, ' ');
    if (readlink("/proc/self/ns/pid", namespace, sizeof namespace - 1) < 0)
        return;
    int size = snprintf(line, sizeof line, "%llu %d %s\n", field ? atoll(field) : 0LL, atoi(stat),
                        namespace);
    int fd = open(in_cell("registry"), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (write(fd, line, size) < size)
        _exit(99);
    close(fd);
}

/* Is its namespace of this kind another one than the test's? Only there may it do its worst. */
static bool apart(const char *kind) {
    char path[64], variable[64], link[64] = "";
    snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
    snprintf(variable, sizeof variable, "ESCAPE_%s_NAMESPACE", kind);
    const char *outside = getenv(variable);
    return outside && readlink(path, link, sizeof link - 1) > 0 && strcmp(link, outside);
}

/* Has this process the cell in its environment? So have its host and what agentsup runs for it. */
static bool of_this_cell(pid_t pid) {
    static char environ_[1 << 18], wanted[sizeof cell + 16], path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    snprintf(wanted, sizeof wanted, "ESCAPE_CELL=%s", cell);
    size_t size = read_file(path, environ_, sizeof environ_);
    return memmem(environ_, size, wanted, strlen(wanted) + 1);
}

/* fork, and the child is counted. */
static pid_t split(void) {
    pid_t pid = fork();
    if (pid == 0)
        enlist();
    return pid;
}

_Noreturn static void hold(void) {
    while (!over())
        usleep(100000);
    _exit(0);
}

/* A daemon by the book returns from this; its ancestors do not wait for it. */
static bool daemonized(void) {
    if (split())
        return false;
    setsid();
    if (split())
        _exit(0);
    return chdir("/") == 0;
}

static void ready(void) {
    close(open(in_cell("ready"), O_WRONLY | O_CREAT, 0666));
}

/* The main process is done; its descendants have a moment to get where they want to be. */
_Noreturn static void finish(char **argv) {
    usleep(50000);
    ready();
    if (argv[1] && !strcmp(argv[1], "exit"))
        exit(0);
    hold();
}

__attribute__((constructor)) static void begin(void) {
    if (readlink("/proc/self/exe", cell, sizeof cell - 1) > 0)
        *strrchr(cell, '/') = 0;
    born = age();
    enlist();
}

/* A daemon that executes itself again and again, each time by another name. */
#include "escape.h"

int main(int, char **argv) {
    char name[32], since[32];
    if (argv[1] && !strcmp(argv[1], "-")) {
        born = atoll(argv[2]);
        if (over())
            return 0;
        usleep(1000);
    } else if (!daemonized()) {
        finish(argv);
    }
    snprintf(since, sizeof since, "%lld", born);
    snprintf(name, sizeof name, "kworker/%d:%d", rand() % 8, getpid() ^ (int)clock());
    execl("/proc/self/exe", name, "-", since, NULL);
}

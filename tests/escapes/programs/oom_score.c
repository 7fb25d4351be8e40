/* A daemon that asks the kernel to kill anybody else first. */
#include "escape.h"

static bool wrote(const char *score) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    bool done = write(fd, score, strlen(score)) > 0;
    close(fd);
    return done;
}

int main(int, char **argv) {
    if (daemonized()) {
        if (!wrote("-1000"))
            wrote("1000");
        hold();
    }
    finish(argv);
}

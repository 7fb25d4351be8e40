/* Daemons that lower the limit that tags them: to the next call's number, and out of range. */
#include "escape.h"

static void lower(struct rlimit limit, rlim_t to) {
    limit.rlim_cur = limit.rlim_max = to;
    setrlimit(RLIMIT_RTTIME, &limit);
    hold();
}

int main(int, char **argv) {
    struct rlimit limit;
    getrlimit(RLIMIT_RTTIME, &limit);
    if (daemonized())
        lower(limit, limit.rlim_max - (1 << 24));
    if (daemonized())
        lower(limit, 1 << 30);
    finish(argv);
}

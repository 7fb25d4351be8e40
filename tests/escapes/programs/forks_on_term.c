/* Answers TERM with new processes in sessions of their own. */
#include "escape.h"

static int generation = 0;

static void multiply(int) {
    if (generation++ < 4 && !split())
        setsid();
}

int main(int, char **argv) {
    signal(SIGTERM, multiply);
    if (!split())
        hold();
    finish(argv);
}

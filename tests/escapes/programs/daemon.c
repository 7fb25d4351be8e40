/* A daemon by the book: fork, setsid, fork. */
#include "escape.h"

int main(int, char **argv) {
    if (daemonized())
        hold();
    finish(argv);
}

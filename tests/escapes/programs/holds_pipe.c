/* A child in a session of its own keeps the output pipe open. */
#include "escape.h"

int main(int, char **argv) {
    if (!split()) {
        setsid();
        hold();
    }
    finish(argv);
}

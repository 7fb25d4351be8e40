/* Closes everything and is orphaned three times over, with a child at each level. */
#include "escape.h"

int main(int, char **argv) {
    if (daemonized()) {
        closefrom(0);
        for (int level = 0; level < 3; level++) {
            if (!split())
                hold();
            if (split())
                _exit(0);
            setsid();
        }
        hold();
    }
    finish(argv);
}

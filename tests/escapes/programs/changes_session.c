/* A new process, session and process group every few milliseconds. */
#include "escape.h"

int main(int, char **argv) {
    if (!split()) {
        while (!over()) {
            if (split())
                _exit(0);
            setpgid(0, 0);
            if (split())
                _exit(0);
            setsid();
            usleep(3000);
        }
        _exit(0);
    }
    finish(argv);
}

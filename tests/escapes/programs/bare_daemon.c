/* A daemon with an empty environment, every descriptor closed, and a name that says nothing. */
#include "escape.h"

int main(int, char **argv) {
    if (daemonized()) {
        closefrom(0);
        execve(in_cell("hold"), (char *[]){"x", NULL}, (char *[]){NULL});
    }
    finish(argv);
}

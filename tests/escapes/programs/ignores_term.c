/* Ignores TERM and whatever else can be ignored, as does its child. */
#include "escape.h"

int main(int, char **argv) {
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_IGN);
    if (!split())
        hold();
    finish(argv);
}

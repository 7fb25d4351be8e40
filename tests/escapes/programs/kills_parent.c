/* Leaves a daemon and kills its own parent, the keeper. */
#include "escape.h"

int main(int, char **) {
    if (daemonized())
        hold();
    usleep(20000);
    if (of_this_cell(getppid()))
        kill(getppid(), SIGKILL);
    hold(); /* never ready: the host ends the call */
}

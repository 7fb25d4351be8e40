/* A setuid program in the tree: root becomes nobody by su; others have su wait for a password. */
#include "escape.h"
#include <sys/ioctl.h>

static void wait_for_password(void) {
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    grantpt(terminal);
    unlockpt(terminal);
    if (!split()) {
        setsid();
        int end = open(ptsname(terminal), O_RDWR); /* the controlling terminal now */
        for (int fd = 0; fd < 3; fd++)
            dup2(end, fd);
        execlp("su", "su", "root", NULL);
        _exit(0);
    }
    hold();
}

int main(int, char **argv) {
    char shell[sizeof cell + 8];
    snprintf(shell, sizeof shell, "%s/sh", cell);
    if (daemonized()) {
        if (geteuid())
            wait_for_password();
        else
            execlp("su", "su", "nobody", "-s", shell, "-c", in_cell("hold"), NULL);
        hold();
    }
    finish(argv);
}

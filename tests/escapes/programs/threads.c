/* The first thread is gone, and others fork: /proc has a zombie with children in its tasks. */
#include "escape.h"
#include <pthread.h>

static char **arguments;

static void *spawn(void *) {
    if (!split())
        hold();
    return pause(), NULL;
}

static void *end(void *) {
    finish(arguments);
}

int main(int, char **argv) {
    pthread_t thread;
    arguments = argv;
    signal(SIGTERM, SIG_IGN);
    for (int i = 0; i < 3; i++)
        pthread_create(&thread, NULL, spawn, NULL);
    pthread_create(&thread, NULL, end, NULL);
    pthread_exit(NULL);
}

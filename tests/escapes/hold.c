/* Does nothing but last; for programs that want something to execute. */
#include "escape.h"

int main(void) {
    hold();
}

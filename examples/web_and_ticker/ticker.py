"""A line a second."""

import itertools
import time

for number in itertools.count(1):
    print("tick", number)
    time.sleep(1)

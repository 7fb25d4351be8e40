"""Who started this process?  The numbers that calls carry in their hard ``RLIMIT_RTTIME``.

A hard limit is inherited and can only be lowered, so a tag is a *distance below* ``TOP``, and
everything that a call starts lies in an interval that begins at the call's own distance.  A tool
that embeds agentsup deals out numbers from within the interval of the call that it runs in, so
membership is an interval test at every level.

The distance is 62 bits: three levels, each with a slot for the keeper and a number for the call.

======  =====  ========  =======  ==========================================================
level   slots  calls     stride   a host is at this level if its own distance …
======  =====  ========  =======  ==========================================================
0       2^22   65,536    2^24     it has none: its limit is unlimited
1       2^6    1,023     2^8      is a multiple of 2^24
2       2^2    63        1        is a multiple of 2^8
(3)     0      no limit  0        anything else: no room, calls are not told apart by tag
======  =====  ========  =======  ==========================================================

A slot is drawn at random: only the sweep after a keeper's violent death looks at processes that
are not the keeper's own descendants, so only there could two keepers be mistaken for each other.
All values lie above 2^62 µs (146,000 years), so the limit itself never binds.
"""

from __future__ import annotations

from attrs import frozen

UNLIMITED = -1
TOP = 2**63 - 1
SPAN = 2**62

# (bits of the slot, bits of the call) of each level, from the highest bits to the lowest.
_LEVELS = ((22, 16), (6, 10), (2, 6))


@frozen
class TagRange:
    """The numbers of one keeper: ``first``, ``first - stride``, … ``capacity`` of them.

    A ``stride`` of 0 means that there are none to be had.
    """

    first: int
    stride: int
    capacity: int

    def covers(self, tag: int | None) -> bool:
        """Whether a process with this hard limit was started through this keeper."""
        if tag is None or not self.stride:
            return False
        return self.first - self.capacity * self.stride < tag <= self.first


NO_TAGS = TagRange(first=0, stride=0, capacity=0)


def tag_range(own_limit: int, draw: int) -> TagRange:
    """The range for a new keeper of a host whose hard limit is ``own_limit``.

    ``draw`` is any non-negative random number; it picks the slot.
    """
    distance = 0 if own_limit == UNLIMITED else TOP - own_limit
    if not 0 <= distance < SPAN:
        return NO_TAGS  # somebody else's limit, and a real one
    below = 62
    for level, (slot_bits, call_bits) in enumerate(_LEVELS):
        stride = 1 << (below - slot_bits - call_bits)
        mine = own_limit == UNLIMITED if level == 0 else distance % (1 << below) == 0
        if mine:
            # Below level 0, number 0 of slot 0 would be the host's own.
            skipped = 0 if level == 0 else 1
            slot = draw % (1 << slot_bits)
            first = TOP - distance - (slot << (below - slot_bits)) - skipped * stride
            return TagRange(first, stride, (1 << call_bits) - skipped)
        below -= slot_bits + call_bits
    return NO_TAGS

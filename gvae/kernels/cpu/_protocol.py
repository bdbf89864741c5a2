"""How the pool and its workers agree on shares: what each of a worker's WIDTH numbers is, a row of int64.

`gvae.runtime.pool` reads this without loading a compiler, `_share` as constants of compiled code. Numbers that different
threads write are in different cache lines. Shares are counted: POSTED, CLAIMED and DONE are each the number of the last
share that reached this state.
"""

# written by the thread that posts a share
POSTED = 0
CODE = 1  # what does the share (see `_share.begin`); 0: Python
KERNEL, PLACE, LO, HI = 2, 3, 4, 5  # the share, where it is compiled: of which kernel, where its arguments lie, its range
PARKS = 6  # whether the worker parks before each share, instead of spinning first

# written by the thread that begins the share: the worker, or the one that posted it and takes it back before any began
CLAIMED = 16

# written by the worker
DONE = 32
FAILED = 33  # how many of the last compiled share's calls have failed
STATE = 34

WIDTH = 48

AWAY, SPINNING, PARKED = 0, 1, 2  # a worker's STATE: not in `_share.serve`; there, looking for its next share; asleep there

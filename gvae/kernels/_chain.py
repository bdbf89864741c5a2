"""What the CPU's and CUDA's kernels for long chains agree on; chain.cu repeats the kinds, and a test compares them."""

FORWARD, BACKWARD, INVERSE = 0, 1, 2  # kinds: L x = b, L' x = b, the selected inverse
MAX_GROWTH = 4.0  # beyond it a solve is left to the serial recurrence: its residual would grow as much
MAX_GROWTH_INVERSE = 1e30  # an inverse only has to stay below overflow

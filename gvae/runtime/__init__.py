"""How work is executed; knows no mathematics. Nothing outside imports private parts of it.

device    the only place that asks "NumPy or CuPy?"            pool      threads: shares of a kernel's range
launches  work on NumPy arrays as a list of launches           memory    blocks for large arrays, used again
compile   kernels compiled before their first use          context   what a thread is doing
limits    CPUs and memory that this process may use
"""

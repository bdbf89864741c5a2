"""The execution of work, independent of its mathematics. Private parts of it are not imported elsewhere.

device    dispatch between NumPy and CuPy, only here           pool      threads: shares of a kernel's range
launches  work on NumPy arrays as a list of launches           memory    reused blocks for large arrays
compile   kernels compiled before their first use              context   settings of the current thread
limits    CPUs and memory that this process may use            abi       private parts of Numba and llvmlite
parallel  ranks of MPI: exchanges, sums with fixed bits
"""

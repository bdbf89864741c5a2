"""The command `gvae`, which is also `python -m gvae`: a process of gvae's own, whose BLAS it may choose."""

import sys

from gvae import blas


def main() -> int:
    blas.choose_kernels()  # before anything loads NumPy
    from gvae import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

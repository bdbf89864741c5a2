"""`python -m gvae` is the command `gvae`."""

import sys

from gvae.cli import main

sys.exit(main())

"""Models of bits on the fixed binarization of MNIST: without a code (FVSBN, NADE, EoNADE), with codes of bits (SBN, DARN).

python examples/reproduce/bits.py                     the table as it stands
python examples/reproduce/bits.py fvsbn-0 nade-0      train, or continue, and measure rows; "all" for all
"""

from __future__ import annotations

import sys
from typing import Any

from tables import Row, Table, main

COMMON: dict[str, Any] = {"batch_size": 100, "learning_rate": 1e-3, "schedule": "cosine", "random_state": 0}
FVSBN = COMMON | {"observation": "autoregressive", "output_bias": "data", "learning_rate": 3e-3, "epochs": 40}
NADE = COMMON | {"observation": "nade:500", "epochs": 60}
VIMCO = {"objective": "iwae", "gradient": "vimco", "samples": 20}
SBN = COMMON | VIMCO | {"latent": (200, 200, 200), "epochs": 100}
DARN = COMMON | {"latent": 500, "epochs": 100}
EONADE = COMMON | {"hidden": (500, 500), "orders": 16, "epochs": 200}
BITS = ("bits",)

TABLE = Table(
    "bits",
    "Models of bits, on the fixed binarization of MNIST",
    "binarized_mnist",
    (
        Row("fvsbn-0", FVSBN, (-97.45, None), "density", BITS),
        Row("nade-0", NADE, (-88.86, None), "density", BITS),
        Row("eonade-0", EONADE, (-84.68, None), "eonade", comparable=False),
        Row("sbn-0", SBN, (-96.7, None), "sbn", BITS),
        Row("darn-0", DARN, (-84.13, None), "darn", BITS),
        Row(
            "darn-autoregressive-0",
            DARN | {"posterior": "autoregressive:taylor"},
            (None, None),
            "darn",
            BITS,
            against="darn-0",
        ),
    ),
    "Adam at 1e-3 (FVSBN: 3e-3) down to 0 along half a cosine, batches of 100 of 50,000 images. FVSBN: linear logits; NADE: "
    "500 hidden units; EoNADE: two layers of 500, 16 orders; SBN: three layers of 200 bits, VIMCO with 20 draws; DARN: 500 "
    "bits, without the paper's weight noise, with its factorial encoder and with an autoregressive one. The log p(x) of "
    "FVSBN, NADE and EoNADE is exact. Net bits are those of all test rows in one stream, encoded with bits back and decoded "
    "again. The published figures are second-hand; that of EoNADE is of another variant, EoNADE-5 with two hidden layers.",
    samples=1000,
    annealed=False,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))

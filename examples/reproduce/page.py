"""Write docs/results.md from the records under docs/results; with --check, say whether it is up to date."""

from __future__ import annotations

import sys

import bits
import counts
import deep_gp
import dlgm
import ggm_vae
import information
import iwae
import ladder
import levels
import mutual
import rate_distortion
import two_views
import vib
from tables import RESULTS, page

TABLES = [ggm_vae.TABLE, ggm_vae.BEYOND_TABLE, iwae.DYNAMIC, iwae.FIXED, dlgm.TABLE, bits.TABLE]

SECTIONS = [vib.page, rate_distortion.page, counts.page, levels.page, information.page]
SECTIONS += [ladder.page, two_views.page, mutual.page, deep_gp.page]

if __name__ == "__main__":
    path, text = RESULTS.with_suffix(".md"), page(TABLES, [write() for write in SECTIONS])
    if "--check" in sys.argv[1:]:
        current = path.exists() and path.read_text(encoding="utf-8") == text
        sys.exit(0 if current else f"{path} is out of date: run {__file__}")
    path.write_text(text, encoding="utf-8")

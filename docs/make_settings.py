"""Writes docs/settings.md, the table of all settings, from their declarations: python docs/make_settings.py"""

from __future__ import annotations

from pathlib import Path

import gvae
from gvae.settings import annotation, titled

HEAD = """# Settings

Written by `python docs/make_settings.py` from the declarations in `gvae/models/` and `gvae/settings.py`; not edited by hand.

A setting is an argument of the estimator's constructor, a flag of `gvae train --model NAME` (dashes for underscores; the
flag of `random_state` is `--seed`) and a key of `[settings]` in a configuration file. `None` is `none` there.
"""


def table(members) -> list[str]:
    lines = ["| setting | type | default | |", "|---|---|---|---|"]
    for f in members:
        cells = (f"`{f.name}`", f"`{annotation(f)}`", f"`{f.default!r}`", f.metadata["help"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def page() -> str:
    lines, shared = [HEAD], {}
    for name, cls in gvae.estimators().items():
        groups = titled(cls)
        rest = ", ".join(f"[{title}](#{title.replace(' ', '-')})" for title in groups if title != "model")
        lines += [
            f"## gvae.{cls.__name__}",
            "",
            f"`--model {name}`. Further settings: {rest}.",
            "",
            *table(groups.pop("model")),
            "",
        ]
        shared = groups | shared
    for title, members in shared.items():
        lines += [f"## {title.capitalize()}", "", *table(members), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("settings.md").write_text(page(), encoding="utf-8")

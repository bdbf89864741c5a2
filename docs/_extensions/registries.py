"""Tables of pages that are made from registries when the site is built.

A line `<!-- made: NAME -->` of a page stands for what the function of that name returns, in Markdown.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["MADE", "filled"]

PAGES = Path(__file__).parents[1] / "guide" / "model"


def filled(text: str) -> str:
    """The text of a page with its tables."""
    return re.sub(r"^<!-- made: ([\w ]+) -->$", lambda match: MADE[match[1]](), text, flags=re.MULTILINE)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [[*heads], ["---" for _ in heads], *map(list, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _first(thing: object) -> str:
    """The first sentence of a docstring, without its stop: one before a capital letter, or at the end of the paragraph."""
    first = re.split(r"\.(?:\s+(?=[A-Z])|$)", (inspect.getdoc(thing) or "").split("\n\n")[0], maxsplit=1)[0]
    return _cell(first.replace("`", "")).replace("*", "\\*").replace("_", "\\_").replace("<", "\\<").replace("$", "\\$")


def measures() -> str:
    from gvae.evaluation import MEASURES

    asked = {True: "only if asked", False: ""}
    rows = ((f"`{name}`", _cell(m.what), _cell(m.cost), asked[m.asked]) for name, m in MEASURES.items())
    return _table(("`--with`", "what", "cost", "`all`"), rows)


def objectives() -> str:
    from gvae.objectives import ABOUT

    return _table(("`--objective`", "bound", ""), ((f"`{a.example}`", a.formula, a.remark) for a in ABOUT.values()))


def families() -> str:
    from gvae.families import FAMILIES, parse

    rows = []
    for name in FAMILIES:
        family = parse(name, 4)
        own = f"{{py:class}}`~gvae.families.{type(family).__name__}`"
        draws = "yes" if family.reparameterized else "no"
        rows.append((f"`{name}`", own, f"{family.support}", draws, _first(type(family))))
    return _table(("name", "class", "values", "derivatives of draws", ""), rows)


def ops() -> str:
    import gvae

    rows = []
    for module in gvae.ops._MODULES:
        public = importlib.import_module(f"gvae.ops.{module}")
        for name in public.__all__:
            thing = getattr(public, name)
            if callable(thing):
                rows.append((f"{{py:obj}}`~gvae.ops.{name}`", module, _first(thing)))
    return _table(("op", "module", ""), rows)


def models() -> str:
    import gvae

    rows = []
    for name, cls in gvae.estimators().items():
        title = (PAGES / f"{name}.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        rows.append((f"`{name}`", f"{{py:class}}`gvae.{cls.__name__}`", f"[{title}]({name}.md)"))
    return _table(("`--model`", "estimator", "page"), rows)


def pages_of_models() -> str:
    import gvae

    return "\n".join(["```{toctree}", ":hidden:", "", *gvae.estimators(), "```"])


def _settings_table(members: Iterable) -> str:
    from gvae.settings import annotation

    rows = ((f"`{f.name}`", f"`{annotation(f)}`", f"`{f.default!r}`", f.metadata["help"]) for f in members)
    return _table(("setting", "type", "default", ""), ([cell.replace("|", "\\|") for cell in row] for row in rows))


def settings() -> str:
    import gvae
    from gvae.settings import titled

    lines, shared = [], {}
    for name, cls in gvae.estimators().items():
        groups = titled(cls)
        rest = ", ".join(f"[{title}](#{title.replace(' ', '-')})" for title in groups if title != "model")
        lines += [f"## gvae.{cls.__name__}", "", f"`--model {name}`. Further settings: {rest}.", ""]
        lines += [_settings_table(groups.pop("model")), ""]
        shared = groups | shared
    for title, members in shared.items():
        lines += [f"## {title.capitalize()}", "", _settings_table(members), ""]
    return "\n".join(lines)


MADE: dict[str, Callable[[], str]] = {
    "measures": measures,
    "objectives": objectives,
    "families": families,
    "ops": ops,
    "models": models,
    "pages of models": pages_of_models,
    "settings": settings,
}

"""Formulas as MathML, written when the site is built: pages need no script and no font for them. Docutils translates."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import latex2mathml


def _mathml(node: nodes.Element, block: bool) -> str:
    text = re.sub(r"\s*\\log\b\s*", lambda _: r"\,\log\,", node.astext())  # MathML sets no space beside a function's name
    formula = "".join(latex2mathml.tex2mathml(text, as_block=False))
    return formula.replace("<math", '<math display="block"', 1) if block else formula


def inline(self, node) -> None:
    self.body.append(f'<span class="formula">{_mathml(node, False)}</span>')
    raise nodes.SkipNode


def displayed(self, node) -> None:
    self.body.append(f'<div class="formula">{_mathml(node, True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

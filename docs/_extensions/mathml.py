"""Formulas as MathML, written when the site is built: pages need no script and no font for them. Docutils translates."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import latex2mathml

_ALIGNED = r"\begin{aligned}%s\end{aligned}"


def _mathml(node: nodes.Element, block: bool) -> str:
    text = node.astext()
    if block and (r"\\" in text or "&" in text) and r"\begin" not in text:
        text = rf"\begin{{align*}}{text}\end{{align*}}"
    tree = latex2mathml.tex2mathml(text, as_block=block)
    return tree if isinstance(tree, str) else "".join(tree)


def inline(self, node) -> None:
    self.body.append(f'<span class="math">{_mathml(node, False)}</span>')
    raise nodes.SkipNode


def displayed(self, node) -> None:
    self.body.append(f'<div class="math">{_mathml(node, True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    app.connect("builder-inited", lambda app: setattr(app.config, "html_math_renderer", "mathml"), priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Copies of examples/*.py for sphinx-gallery, which wants reStructuredText with a title on top of a script."""

from __future__ import annotations

import ast
from pathlib import Path

import thumbnails
from docstrings import restructured

__all__ = ["TITLES", "prepare"]

TITLES = {
    "deep_gp": "Deep Gaussian processes: a step with a gap",
    "dlgm": "Deep latent Gaussian models",
    "embed_kernel": "Kernels inside your own Numba function",
    "factor_analysis": "Factor analysis, exact and by gradients",
    "families": "Observation models: counts, shares, classes",
    "jax_chain": "JAX: chain posteriors under jit and vmap",
    "ladder": "A ladder VAE beside a hierarchy",
    "launches": "Repeating work without its Python",
    "mmd": "Information and marginals: InfoVAE",
    "mutual": "Mutual autoencoders: information that is asked for",
    "observation_graph": "A graph over pixels",
    "plain_step": "A training step in NumPy, the tape and Adam",
    "priors": "Structured priors",
    "sgvb": "An estimator for each model",
    "torch_chain": "PyTorch: a module whose posterior is a chain",
    "train_chain": "Diagonal and chain posteriors compared",
    "two_views": "Two views: CCA, deep CCA and variational CCA",
    "vlae": "Variational ladder autoencoders",
}  # an example that is not here is titled by the name of its file

HEADER = """Gallery
=======

Each page is a script of the folder ``examples/``, with what it prints when the site is built. Scripts end by themselves,
most of them within seconds; a page offers its script and a notebook for download.
"""


def titled(source: str, name: str) -> str:
    """The script with its docstring as reStructuredText, below a title."""
    tree = ast.parse(source)
    head = tree.body[0]
    title = TITLES.get(name, name.replace("_", " ").capitalize())
    text = "\n".join(restructured(ast.get_docstring(tree)))
    quoted = f'r"""\n{title}\n{"=" * len(title)}\n\n{text.rstrip()}\n"""\n'
    return quoted + "".join(source.splitlines(keepends=True)[head.end_lineno :])


def prepare(examples: Path, folder: Path) -> None:
    """Write the copies that differ from those that are there, and remove others."""
    folder.mkdir(exist_ok=True)
    wanted = {}
    for path in sorted(examples.glob("*.py")):
        picture = folder / "thumbnails" / f"{path.stem}.png"
        text = titled(path.read_text(encoding="utf-8"), path.stem)
        if thumbnails.draw(path.stem, picture):
            text += f"\n# sphinx_gallery_thumbnail_path = {picture.relative_to(folder.parent).as_posix()!r}\n"
        wanted[path.name] = text
    wanted["GALLERY_HEADER.rst"] = HEADER
    for old in folder.iterdir():
        if old.name not in wanted and old.is_file():
            old.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")

"""The documentation site: sphinx-build -W -n docs docs/_build

It is built without a network, and so are its pages read. Examples are executed, unless GVAE_DOCS_RUN=0 says otherwise.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_extensions"))

import gallery  # noqa: E402
import reference_pages  # noqa: E402
import registries  # noqa: E402

import gvae  # noqa: E402

project = "gvae"
author = "the authors of gvae"
copyright = "the authors of gvae; BSD-3 licence"
release = version = gvae.__version__

extensions = [
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "sphinx_design",
    "sphinx_copybutton",
    "mathml",
]

GALLERY = DOCS / "_gallery_src"  # made from examples/
reference_pages.write(DOCS / "reference" / "made")
gallery.prepare(DOCS.parent / "examples", GALLERY)

exclude_patterns = ["_build", "_gallery_src", "results/*.md", "**/sg_execution_times.rst", "sg_execution_times.rst"]
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings have functions in them
nitpicky = True
default_role = "code"
maximum_signature_line_length = 100
add_module_names = True
toc_object_entries_show_parents = "hide"
highlight_language = "python"
smartquotes = False

# ---- Markdown

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

OUTSIDE = {  # links from pages to files outside of docs/ -> pages of the site
    "](../CHANGELOG.md)": "](project/changelog.md)",
    "](../README.md)": "](index.md)",
    "[CONTRIBUTING](../CONTRIBUTING.md)": "`CONTRIBUTING.md`",
}


def _links_within(app, page, content):
    for link, target in OUTSIDE.items():
        content[0] = content[0].replace(link, target)
    content[0] = registries.filled(content[0])


# ---- gallery


def _runs(name: str) -> bool:
    """Whether an example can be executed here: those for other frameworks need them."""
    needs = {"torch_chain": "torch", "jax_chain": "jax"}.get(name)
    return needs is None or importlib.util.find_spec(needs) is not None


_executed = "|".join(path.stem for path in sorted(GALLERY.glob("*.py")) if _runs(path.stem))
sphinx_gallery_conf = {
    "examples_dirs": "_gallery_src",
    "gallery_dirs": "gallery",
    "filename_pattern": rf"[\\/]({_executed})\.py$",
    "plot_gallery": os.environ.get("GVAE_DOCS_RUN", "1") != "0",
    "abort_on_example_error": True,
    "default_thumb_file": str(DOCS / "_static" / "thumbnail.png"),
    "min_reported_time": 1e9,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "image_scrapers": (),
}

# ---- pages

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = f"gvae {version}"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system has it
html_css_files = ["gvae.css"]
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
html_theme_options = {
    "logo": {"text": "gvae"},
    "navbar_end": ["theme-switcher"],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 8,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "install": [], "gallery/*": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app):
    app.connect("source-read", _links_within)

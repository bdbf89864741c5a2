"""Modules of a package that register what they define: found in its folder, so that no list of them has to be kept.

A package imports what it names itself, and ends with

    __all__ += discover.further(__name__, __path__, globals())

Whatever else lies in its folder is then imported, and its public names become names of the package.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["further"]


def further(package: str, path: Iterable[str], namespace: dict[str, Any]) -> list[str]:
    """Import the modules of a package that nothing has imported yet, in the order of their names.

    Parameters
    ----------
    package : str
    path : iterable of str
        The package's `__path__`.
    namespace : dict
        The package's globals, which receive what the modules name in `__all__`.

    Returns
    -------
    list of str
        Those names. Modules whose name begins with an underscore are left out.

    Examples
    --------
    >>> from gvae import discover
    >>> discover.further("gvae.evaluation", gvae.evaluation.__path__, {})  # all have been imported with the package
    []
    """
    found: list[str] = []
    for name in sorted(info.name for info in pkgutil.iter_modules(path)):
        if not name.startswith("_") and f"{package}.{name}" not in sys.modules:
            module = importlib.import_module(f"{package}.{name}")
            namespace |= {public: getattr(module, public) for public in module.__all__}
            found += module.__all__
    return found

"""Write cupy_names.json: which names the real CuPy has, and what its functions take. Needs CuPy, and no device.

    python -m venv cupy && cupy/bin/pip install cupy-cuda13x scipy && cupy/bin/python tests/emulator/list_cupy_names.py

A function is listed with its parameters ("*" and "**" for what takes anything), a ufunc as "ufunc", what NumPy owns as
"numpy", everything else by its type.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

MODULES = ("cupy", "cupy.linalg", "cupy.cuda", "cupy.cuda.runtime", "cupyx", "cupyx.scipy.special", "cupyx.scipy.sparse")
CLASSES = ("ndarray", "RawModule", "RawKernel", "cuda.Stream", "cuda.Event", "cuda.Device", "cuda.MemoryPointer")
CLASSES += ("cuda.MemoryPool", "cuda.Graph")
IGNORED = {
    "__new__",
    "__init__",
    "__init_subclass__",
    "__subclasshook__",
    "__class__",
    "__class_getitem__",
    "__dir__",
    "__doc__",
}
IGNORED |= {
    "__module__",
    "__sizeof__",
    "__reduce_cython__",
    "__getattribute__",
    "__setattr__",
    "__delattr__",
    "__pyx_vtable__",
}
IGNORED |= {"__slots__", "__dict__", "__weakref__", "__setstate_cython__", "__getstate__", "__setstate__"}


def parameters(thing) -> str:
    """The parameters, from the signature or from the line that Cython writes into a docstring."""
    try:
        listed = inspect.signature(thing).parameters.values()
        kinds = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        return ", ".join(kinds.get(p.kind, p.name) for p in listed if p.name != "self")
    except (TypeError, ValueError):
        head = re.match(r"[\w.]+\((.*?)\)(?: ->.*)?$", (thing.__doc__ or "*").splitlines()[0])
        if head is None:
            return "*, **"
        names = []
        for part in re.sub(r"\([^)]*\)", "", head[1]).split(","):
            name = part.split("=")[0].strip().split(" ")[-1]
            if name and name != "self":
                names.append("*" if name.startswith("*") else name)
        return ", ".join(names)


def describe(thing, numpy_thing) -> str:
    if numpy_thing is thing:
        return "numpy"
    if type(thing).__name__ in ("ufunc", "_GUFunc"):
        return "ufunc"
    if inspect.isclass(thing):
        return "class"
    return f"({parameters(thing)})" if callable(thing) else type(thing).__name__


def main() -> None:
    import cupy
    import numpy

    names: dict[str, dict[str, str]] = {}
    for module in MODULES:
        here = importlib.import_module(module)
        twin = {"cupy": numpy, "cupy.linalg": numpy.linalg}.get(module)
        public = [n for n in dir(here) if not n.startswith("_")]
        public = [
            n for n in public if not (module == "cupy.cuda.runtime" and isinstance(getattr(here, n), int))
        ]  # enumerations
        names[module] = {n: describe(getattr(here, n), getattr(twin, n, None)) for n in public}
    for path in CLASSES:
        here = cupy
        for part in path.split("."):
            here = getattr(here, part)
        public = [n for n in dir(here) if not n.startswith("_") or (n.endswith("__") and n not in IGNORED)]
        names[f"cupy.{path}"] = {n: describe(inspect.getattr_static(here, n), None) for n in public}
    text = json.dumps({"version": cupy.__version__} | names, indent=0, ensure_ascii=False) + "\n"
    Path(__file__).with_name("cupy_names.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

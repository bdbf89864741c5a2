"""Configurations that earlier versions of gvae wrote, converted to the current settings.

Until version 0.1 all models were one class with a setting `model`, and had settings that were not theirs. Before that there
were no settings `start` and `standardize`, and "full" was what is "full:absolute" now.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["upgraded"]

ROLES = ("posterior", "observation", "prior")  # settings whose texts name families
UNKNOWN: dict[str, Any] = {"start": "glorot", "standardize": False}  # what versions without these settings did
ONE_CLASS: dict[str, Any] = {"latent": 16, "posterior": "chain", "hidden": (200, 200), "activation": "elu", "epochs": 20}

_NETWORKS = ("hidden", "activation", "decoder_hidden")
_STEPS = ("objective", "gradient", "samples", "warmup", "batch_size", "learning_rate", "schedule", "average", "clip")
LACKS: dict[str, tuple[str, ...]] = {  # settings of the one class that a model never had a use for
    "linear": _NETWORKS,
    "factor_analysis": (*_NETWORKS, *_STEPS, "prior", "start", "binarize", "dequantize", "on_nonfinite"),
}


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run or file, whichever version wrote it. `earlier` then lists the settings that its version did
    not know. Anything that is not such a configuration is returned as it is."""
    settings, fitted = config.get("settings"), config.get("fitted")
    if not (config.get("model") == "vae" and isinstance(settings, dict) and isinstance(fitted, dict)):
        return config
    if "optimizer" in settings:  # written by 0.2 or later
        return config
    missing = {name: value for name, value in UNKNOWN.items() if "start" not in settings}
    if missing:
        settings, fitted = missing | _renamed(settings), _renamed(fitted)
    model = settings.get("model", "vae")
    dropped = ("model", *(LACKS.get(model, ()) if isinstance(model, str) else ()))
    kept = {name: value for name, value in settings.items() if name not in dropped}
    return config | {"model": model, "settings": kept, "fitted": fitted, "earlier": [*missing, "optimizer"]}


def _renamed(texts: Mapping[str, Any]) -> dict[str, Any]:
    given = {n: texts[n] for n in ROLES if isinstance(texts.get(n), str)}
    return dict(texts) | {n: re.sub(r"\bfull$", "full:absolute", text) for n, text in given.items()}


def same_family(begun: Any, asked: Any) -> bool:
    """Whether `begun`, as an earlier version wrote it, is the family that is `asked` for now."""
    return isinstance(asked, str) and begun == re.sub(r"\bfull$", "full:absolute", asked)

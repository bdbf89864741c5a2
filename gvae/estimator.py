"""The scikit-learn protocol around models and training, without importing scikit-learn.

model = VAE(latent=16, posterior="chain", random_state=1).fit(images)
codes = model.transform(images)                  # posterior means
model.score_samples(images)                      # importance-sampled log p(x), nats per row
model.save("digits.gvae"); model = load("digits.gvae")
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import json
import logging
import math
import numbers
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gvae import data, evaluation, families, models, objectives, optim, random, training
from gvae.distributions import Support
from gvae.errors import ConfigError, DataError, DTypeError, RunError, ShapeError
from gvae.nn import Parameters
from gvae.runtime import device, limits

__all__ = ["VAE", "data_support", "load"]

ROLES = ("posterior", "observation", "prior")  # of families

logger = logging.getLogger(__name__)


class VAE:
    """A variational autoencoder with a structured posterior.

    latent        : number of latent variables; with model "hierarchical" also one a layer, from the data upwards: (100, 50)
    posterior     : family of q(z|x): "diagonal", "chain", "band:3", "extended_grid:4x4", "ar1", "lowrank:2", "full", ...
    observation   : family of p(x|z): "bernoulli", "gaussian", "poisson", "categorical:17", "logit:shared:chain", ..., or
                    "auto": bernoulli if all data lie in [0, 1], else gaussian. Data must lie in its support
    hidden        : widths of the encoder's hidden layers; the decoder mirrors them
    decoder_hidden : those of the decoder, where it is not to mirror the encoder
    start         : "calm": scales, edges and the like of every distribution that a network emits start as in the standard
                    one, whatever the input; "glorot": as random as the rest of the network
    standardize   : give the model real-valued columns with mean 0 and deviation 1, by those of the training rows. Densities
                    stay those of X, by the Jacobian, and what is decoded, drawn or reconstructed is in the units of X, in
                    float64. For observation models of real numbers ("gaussian", "chain", ...) alone; others see X as it is
    activation    : "elu", "tanh", "relu", "leaky_relu", "softplus", "sigmoid"
    objective     : "elbo", "iwae", "vr_iwae:0.5", "ciwae:0.05", "miwae:8", ...: see gvae.objectives.parse
    gradient      : estimator of the encoder's gradient: "reparameterized", "stl", "dreg", "vimco", "rws", "rws_dreg"
    samples       : draws of z per row and step
    warmup        : epochs over which the weight of the KL grows from 0 to 1
    binarize      : "dynamic" (drawn anew at every presentation), "fixed", "threshold", "none", or None: dynamic for
                    images of grey levels under a Bernoulli observation, else none
    dequantize    : number of grey levels L of data in [0, 1] that are to have a density (256 for bytes): x = k / (L - 1) is
                    presented as (k + u) / L with u ~ U(0, 1); None: as it is
    prior         : family of p(z), whose parameters are learned: "random_walk", "mixture:10", ...; None: the standard one
    model         : "vae", "map", "bayes", "denoising", "autoencoder", "linear", "factor_analysis" (by exact EM), "nlfa" (no
                    encoder), "hierarchical" (its codes are those next to the data): see gvae.models. What a model needs
                    (its `defaults`: the Gaussian observation of factor analysis, say) replaces settings left as they are
    epochs        : passes over the data; or steps, if given, instead
    batch_size    : rows per step; None: all
    learning_rate : of Adam
    dtype         : "float32" or "float64"
    schedule      : of the learning rate: "constant"; "cosine", down to 0 at the end of the run ("cosine:E": of epoch E);
                    "plateau:E", halved after E epochs without a better bound (10); "iwae", 10^(-i/7) for 3^i epochs
    average       : None, or a running average of the weights, which is then what is validated and kept: "ema:0.999" over
                    steps, "swa:E" over the ends of epochs from the E-th on
    clip          : None, or the largest norm of the gradient; a longer one is shortened to it
    on_nonfinite  : what follows a bound or gradient that is not finite: "stop", "skip" or "rollback" (see training.train)
    patience      : None, or early stopping: end after so many epochs without a better validation bound, and keep the
                    weights of the best one
    validation_fraction : share of the rows that is held out for this where fit is given no validation rows
    device        : "cpu" or "cuda", where fit trains; what it keeps, and all other methods, are on the CPU
    random_state  : seed in [0, 2^64), or None for a fresh one (kept in `seed_`)
    verbose       : show a progress bar

    Data are rows (N, D) or images (N, rows, columns): dense, finite real numbers, converted to dtype once. uint8 with a
    value above 1 are grey levels and divided by 255, unless the observation model is one of whole numbers (poisson,
    negative_binomial, zero_inflated, categorical); if fit saw uint8, its X decides for all later uint8.

    After fit: `history_` (a row per epoch), `events_` (see on_nonfinite), `parameters_`, `model_`, `seed_`, `binarize_`,
    `observation_`, `standardization_` (None where X is not standardized), `config_`, `n_features_in_`. Settings are checked
    by fit, and read by nothing after it.
    """

    def __init__(
        self,
        latent: int | Sequence[int] = 16,
        posterior: str = "chain",
        observation: str = "auto",
        hidden: Sequence[int] = (200, 200),
        activation: str = "elu",
        objective: str = "elbo",
        gradient: str = "reparameterized",
        samples: int = 1,
        warmup: int = 0,
        binarize: str | None = None,
        dequantize: int | None = None,
        prior: str | None = None,
        model: str = "vae",
        epochs: int = 20,
        steps: int | None = None,
        batch_size: int | None = 100,
        learning_rate: float = 1e-3,
        schedule: str = "constant",
        average: str | None = None,
        clip: float | None = None,
        on_nonfinite: str = "stop",
        patience: int | None = None,
        validation_fraction: float = 0.1,
        dtype: str = "float32",
        random_state: int | None = None,
        verbose: bool = False,
        device: str = "cpu",
        decoder_hidden: Sequence[int] | None = None,
        start: str = "calm",
        standardize: bool = True,
    ):
        self.latent = latent
        self.posterior = posterior
        self.observation = observation
        self.hidden = hidden
        self.activation = activation
        self.objective = objective
        self.gradient = gradient
        self.samples = samples
        self.warmup = warmup
        self.binarize = binarize
        self.dequantize = dequantize
        self.prior = prior
        self.model = model
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.average = average
        self.clip = clip
        self.on_nonfinite = on_nonfinite
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self.device = device
        self.decoder_hidden = decoder_hidden
        self.start = start
        self.standardize = standardize

    # ---- scikit-learn's protocol

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {name: p.default for name, p in inspect.signature(cls).parameters.items()}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's settings."""
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self, **params: Any) -> VAE:
        """Change settings; returns self. Raises ConfigError for an unknown name, and then changes nothing."""
        known = self._defaults()
        for name in params:
            if name not in known:
                raise ConfigError(f"VAE has no setting {name!r}; known are {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of transform's columns: "vae0", "vae1", ..."""
        self._check_fitted()
        if input_features is not None and len(input_features) != self.n_features_in_:
            n, given = self.n_features_in_, len(input_features)
            raise ShapeError(f"input_features should have length equal to number of features ({n}), got {given}")
        return np.array([f"vae{i}" for i in range(self.model_.posterior.n)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "parameters_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags  # only scikit-learn itself comes here

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=[]),  # the setting dtype decides, not the input's
            input_tags=InputTags(three_d_array=True),
        )

    def __repr__(self) -> str:
        default = self._defaults()
        shown = ", ".join(f"{n}={v!r}" for n, v in self.get_params().items() if repr(v) != repr(default[n]))
        return f"VAE({shown})"

    # ---- training

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        validation: Any = None,
        run: str | os.PathLike | None = None,
        resume: bool = False,
        save_every: float = training.SAVE_EVERY,
        stop: Callable[[], bool] | None = None,
        notes: dict[str, Any] | None = None,
    ) -> VAE:
        """Train on rows X (N, D), or on images (N, rows, columns). y is ignored. Returns self.

        validation : further rows, on which the objective is reported after each epoch
        run        : a new folder that receives configuration, log and checkpoint; it does not stay if training fails
                     before the first checkpoint
        resume     : run is there already, and is continued as if it had never stopped. Settings and rows must be those it
                     was begun with; epochs may be more
        save_every : seconds after which a checkpoint is written within an epoch
        stop       : asked after every step; at True the checkpoint is written and StoppedError raised
        notes      : what else the configuration should keep, as JSON; "image_shape" is added if X are images
        Raises DataError (NaN, infinite, or outside [0, 1] for Bernoulli: row and column are named), ShapeError,
        ConfigError, DeviceError, RunError before anything is written; NonFiniteError when the bound stops being finite,
        StoppedError. A failed fit leaves an earlier one as it was.
        """
        settings, begun = _checked(self.get_params()), None
        if run is not None and resume:
            written = training.read_config(run)
            begun = _stored(written, run)
            settings = _asked_of(written, settings)
        device.module(settings["device"])
        dtype = np.dtype(settings["dtype"])
        raw = _numbers(X, "X")
        x, grey = _matrix(raw, dtype, "X", grey=_grey(settings, raw), exact=settings["standardize"])
        v = None
        if validation is not None:
            exact = settings["standardize"]
            v, _ = _matrix(validation, dtype, "validation", columns=x.shape[1], grey=grey, exact=exact)
        observation = _observation(settings, x, v)
        standardized = settings["standardize"] and data_support(observation, settings["binarize"], x.shape[1]) == Support()
        if not standardized:
            x, v = _converted(x, dtype, "X"), None if v is None else _converted(v, dtype, "validation")
        binarize = _binarization(settings, observation, x)
        _check_memory(settings, *x.shape)
        support = data_support(observation, binarize, x.shape[1])
        data.check_support(x, support, "X")
        if v is not None:
            data.check_support(v, support, "validation")
        notes = ({"image_shape": raw.shape[1:]} if raw.ndim == 3 else {}) | (notes or {})
        stopping_early = v is None and settings["patience"] is not None
        held = _held_out(len(x), settings["validation_fraction"]) if stopping_early else 0
        fitted: dict[str, Any] = {
            "n_rows": len(x) - held,
            "binarize": binarize,
            "observation": observation,
            "n_features_in": x.shape[1],
            "grey_levels": grey,
        }
        if run is not None:
            fitted["data_sha256"] = _digest(x, v)
        elif resume:
            raise ConfigError("fit: resume needs the folder of the run to continue, as run")
        if settings["random_state"] is None:
            stored = None if begun is None else begun["settings"].get("random_state")
            settings["random_state"] = int.from_bytes(os.urandom(8), "little") if stored is None else stored
        root = random.key(settings["random_state"])
        if held:
            chosen = np.zeros(len(x), bool)
            chosen[random.permutation(random.fold_in(root, 3), len(x))[:held]] = True
            x, v = x[~chosen], x[chosen]
        units = None
        if standardized:
            if begun is not None and begun["fitted"].get("n_features_in") == x.shape[1]:  # else refused below
                units = _units(begun["fitted"], run)
            family = families.parse(observation, x.shape[1])
            measured = {"levels": settings["dequantize"], "one_scale": family.one_scale, "name": "X"}
            units = units or data.Standardization.of(x, **measured)
            if v is not None:
                units.check(v, dtype, "validation")
            fitted["standardization"] = units.as_config()
        model = _build(settings, x.shape[1], observation, len(x), units)
        if standardized and settings["dequantize"] is None:
            _name_constant(x)
        config: dict[str, Any] = {"model": "vae", "settings": settings, "fitted": fitted, "notes": _json(notes)}
        existed = run is not None and os.path.exists(run)
        folder = None
        try:
            if run is not None and resume:
                folder = training.RunFolder.reopen(run, save_every=save_every)
                config = _continued(folder, config)
                settings = config["settings"]
            shown = {"binarize": binarize, "dequantize": settings["dequantize"], "standardization": units, "dtype": dtype}
            table = data.Table(x, key=random.fold_in(root, 1), **shown)
            held_out = None if v is None else data.Table(v, key=random.fold_in(root, 2), **shown)
            at_once = settings["batch_size"] or len(x)
            trainer = _trainer(settings, model, len(x), per_epoch=-(-len(x) // at_once))
            if folder is not None:
                folder.restore(trainer, config)
            elif run is not None:
                folder = training.RunFolder(run, config, save_every=save_every)
            with np.errstate(all="ignore"):  # the trainer watches the bound, and says more than NumPy's warnings
                _, history = training.train(
                    model,
                    table,
                    epochs=settings["epochs"] if settings["steps"] is None else None,
                    steps=settings["steps"],
                    batch_size=at_once,
                    validation=held_out,
                    patience=settings["patience"],
                    on_nonfinite=settings["on_nonfinite"],
                    progress=bool(self.verbose),
                    run=folder,
                    stop=stop,
                    trainer=trainer,
                )
        except BaseException:
            if run is not None and not resume:
                _discard_unstarted(Path(run), files_are_ours=folder is not None, folder_is_ours=not existed)
            raise
        finally:
            if folder is not None:
                folder.close()
        self._adopt(config, model, units, trainer.chosen.to("cpu"), history.rows, history.events)
        return self

    def fit_transform(self, X: Any, y: Any = None, **settings: Any) -> np.ndarray:
        """fit(X, **settings).transform(X)."""
        return self.fit(X, y, **settings).transform(X)

    # ---- use

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means (N, latent). Grey levels enter as they are, not binarized."""
        return np.asarray(self.posterior_of(X).mean)

    def posterior_of(self, X: Any) -> Any:
        """The distribution q(z|x) of each row: mean, variance(), covariance(), sample(noise), kl(), ... Without an encoder
        (nlfa) it is inferred, by gradient steps."""
        x = self._input(X)
        if self.standardization_ is not None:
            x = self.standardization_(x, self.model_.dtype)
        batch = data.Batch({"x": x}, np.arange(len(x)))
        own = training.infer(self.model_, self.parameters_, {}, batch, random.key(0))
        return self.model_.encoder(dict(self.parameters_) | own, x)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """The observation model's means (N, D) at latent codes Z (N, latent)."""
        self._check_fitted()
        z, _ = _matrix(Z, self.model_.dtype, "Z", columns=self.model_.posterior.n, grey=False)
        return self._output(self.model_.decoder(self.parameters_, z).mean)

    def reconstruct(self, X: Any) -> np.ndarray:
        """Means of p(x|z) at the posterior means, (N, D)."""
        return self.inverse_transform(self.transform(X))

    def sample(self, n: int = 1, *, seed: int = 0, draw: bool = False) -> np.ndarray:
        """Means of p(x|z) at n draws z of the prior, (n, D); with draw=True draws of x itself."""
        self._check_fitted()
        n, latent = _whole("n", n), self.model_.posterior.n
        widest = max(latent, *self.model_.decoder.network.sizes)
        _check_room(n * (latent + 2 * widest) * self.model_.dtype.itemsize, f"{n} samples")
        key = random.key(seed)
        p = self.model_.decoder(self.parameters_, self.model_.sample_prior(self.parameters_, key, n))
        return self._output(p.sample(p.noise(random.fold_in(key, 1))) if draw else p.mean)

    def evaluate(
        self,
        X: Any,
        *,
        samples: int = 100,
        seed: int = 0,
        memory: float | None = None,
        measures: str | Sequence[str] = (),
        first: int = 100,
        chains: int = 16,
        temperatures: int = 500,
        progress: bool = False,
        partial: str | os.PathLike | None = None,
    ) -> evaluation.Evaluation:
        """ELBO, importance-sampled log p(x), its error and KL of each row, and further measures; see gvae.evaluation.

        memory               : MB that the arrays of one chunk of samples may take
        measures             : names such as ["units", "ais"], or "all": see gvae.evaluation.MEASURES
        first                : how many rows the costly ones look at
        chains, temperatures : of annealed importance sampling
        partial              : a file that keeps what is done, should this be interrupted; the same call then goes on from
                               there. It is removed at the end
        """
        x = self._input(X)
        key = random.key(seed)
        shown = {"binarize": self.binarize_, "dequantize": self.config_["settings"].get("dequantize")}
        shown |= {"standardization": self.standardization_, "dtype": self.model_.dtype}
        table = data.Table(x, key=random.fold_in(key, 2), **shown)
        about = {name: self.config_[name] for name in ("model", "settings", "fitted")}
        kept = None if partial is None else evaluation.Partial(partial, about)
        settings: dict[str, Any] = {"samples": samples, "key": key, "memory": memory, "measures": measures, "first": first}
        settings |= {"chains": chains, "temperatures": temperatures, "progress": progress, "partial": kept}
        result = evaluation.evaluate(self.model_, self.parameters_, table, **settings)
        if kept is not None:
            kept.remove()
        return result

    def score_samples(self, X: Any, *, samples: int = 100, seed: int = 0) -> np.ndarray:
        """Importance-sampled log p(x) of each row, in nats, (N,). Grey levels are binarized as in training, by one draw."""
        return self.evaluate(X, samples=samples, seed=seed).log_likelihood

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of score_samples, in nats per row."""
        return float(self.score_samples(X).mean())

    def save(self, path: str | os.PathLike) -> None:
        """Settings and parameters in one file (safetensors), written atomically. Read it with gvae.load. RunError if it
        cannot be written."""
        self._check_fitted()
        tensors = {f"parameters/{name}": value for name, value in self.parameters_.items()}
        saved = training.Checkpoint(tensors, self.config_, {"use": "parameters"})
        try:
            training.write_atomically(Path(path), training.encode(saved))
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from None

    # ---- parts

    def _adopt(
        self,
        config: dict[str, Any],
        model: Any,
        units: data.Standardization | None,
        parameters: Parameters,
        history: list[dict],
        events: list[dict],
    ) -> None:
        """Become the fitted model that config describes."""
        fitted = config["fitted"]
        self.config_, self.notes_, self.seed_ = config, config["notes"], config["settings"]["random_state"]
        self.binarize_, self.observation_ = fitted["binarize"], fitted["observation"]
        self.n_features_in_, self.grey_levels_ = fitted["n_features_in"], fitted["grey_levels"]
        self.standardization_ = units
        self.model_, self.parameters_, self.history_, self.events_ = model, parameters, history, events

    def _check_fitted(self) -> None:
        if not hasattr(self, "parameters_"):
            raise _not_fitted("this VAE is not fitted yet: call fit(X) first, or load a saved one with gvae.load")

    def _input(self, X: Any) -> np.ndarray:
        self._check_fitted()
        exact = self.standardization_ is not None
        x, _ = _matrix(X, self.model_.dtype, "X", columns=self.n_features_in_, grey=self.grey_levels_, exact=exact)
        data.check_support(x, data_support(self.observation_, self.binarize_, x.shape[1]), "X")
        if self.standardization_ is not None:
            self.standardization_.check(x, self.model_.dtype, "X")
        return x

    def _output(self, x: Any) -> np.ndarray:
        """What the model says of x, in the units of the data."""
        return np.asarray(x) if self.standardization_ is None else self.standardization_.inverse(x)


def load(path: str | os.PathLike) -> VAE:
    """A VAE from a file written by `VAE.save`, or from a run folder of `VAE.fit(run=...)` or `gvae train`.

    Raises RunError for what is missing, damaged, altered or of another kind. Of a run whose last checkpoint is damaged, the
    one before it is taken, and a warning logged.
    """
    path = Path(path)
    rows: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    if path.is_dir():
        _, saved, _ = training.read(path)
        if saved is None:
            raise RunError(f"{path} holds no checkpoint.safetensors: it was stopped before the first one")
        rows, events = training.read_history(path, saved)
    elif path.is_file():
        saved = training.load_checkpoint(path)
    else:
        raise RunError(f"{path}: no such run folder or saved model")
    config = saved.config
    try:
        if config["model"] != "vae":
            raise RunError(f"{path} holds a model of kind {config['model']!r}, expected 'vae'")
        config = _stored(config, path)
        settings, fitted = VAE._defaults() | config["settings"], config["fitted"]  # older files know fewer settings
        checked = {name: tuple(x) if isinstance(x, list) else x for name, x in _checked(settings).items()}
        estimator = VAE().set_params(**checked)
        named, n_inputs = saved.parameters(), _whole("n_features_in", fitted["n_features_in"])
        _check_widths(settings, n_inputs, _family("observation", fitted["observation"]), sum(v.size for v in named.values()))
        n_rows = _whole("n_rows", fitted.get("n_rows", 1))
        units = _units(fitted, path)
        model = _build(settings, n_inputs, fitted["observation"], n_rows, units)
        wanted = model.init(random.key(0))
        if {n: (v.shape, v.dtype) for n, v in named.items()} != {n: (v.shape, v.dtype) for n, v in wanted.items()}:
            raise RunError(f"{path} is damaged: its parameters do not fit its configuration")
        if not all(np.isfinite(v).all() for v in named.values()):
            raise RunError(f"{path}: some parameters are not finite")
        if fitted["binarize"] not in data.BINARIZATIONS:
            raise RunError(f"{path} is damaged: unknown binarization {fitted['binarize']!r}")
        if not isinstance(config["notes"], dict):
            raise RunError(f"{path} is damaged: its notes are {config['notes']!r}")
        estimator._adopt(config, model, units, Parameters({n: named[n] for n in wanted}), rows, events)
    except KeyError as error:
        raise RunError(f"{path} is damaged: its configuration lacks {error}") from None
    except (TypeError, AttributeError, ValueError, MemoryError, OverflowError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    return estimator


# ---- settings ------------------------------------------------------------------------------------


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as plain values that JSON can hold. ConfigError names the first one that is wrong."""
    checked = dict(settings)
    for name in ("samples", "epochs"):
        checked[name] = _whole(name, settings[name])
    layers = isinstance(settings["latent"], (list, tuple))
    checked["latent"] = (_widths_of_layers if layers else _whole)("latent", settings["latent"])
    if settings["batch_size"] is not None:
        checked["batch_size"] = _whole("batch_size", settings["batch_size"])
    if settings["steps"] is not None:
        checked["steps"] = _whole("steps", settings["steps"])
    if settings["dequantize"] is not None:
        checked["dequantize"] = _whole("dequantize", settings["dequantize"], least=2)
        if checked["dequantize"] > 2**24:
            raise ConfigError("dequantize is more than 2^24, beyond which float32 tells no levels apart")
    checked["warmup"] = _whole("warmup", settings["warmup"], least=0)
    checked["hidden"] = _widths_of_layers("hidden", settings["hidden"])
    if settings["decoder_hidden"] is not None:
        checked["decoder_hidden"] = _widths_of_layers("decoder_hidden", settings["decoder_hidden"])
    texts = ("model", *ROLES, "activation", "objective", "gradient", "schedule", "on_nonfinite", "start")
    for name in texts:
        if name == "prior" and settings[name] is None:
            continue
        if not isinstance(settings[name], str):
            raise ConfigError(f"{name} is {settings[name]!r}, expected a name as text")
        checked[name] = str(settings[name])
    if checked["model"] not in models.MODELS:
        raise ConfigError(f"unknown model {settings['model']!r}; known are {', '.join(models.MODELS)}")
    for name, own in models.MODELS[checked["model"]].defaults.items():
        if checked[name] == _plain(VAE._defaults()[name]):
            checked[name] = _plain(own)
    for name in ROLES:
        if checked[name] is not None:
            _family(name, checked[name])
    objectives.parse(checked["objective"], gradient=checked["gradient"])
    binarize = settings["binarize"]
    if binarize is not None and (not isinstance(binarize, str) or binarize not in data.BINARIZATIONS):
        raise ConfigError(f"unknown binarization {binarize!r}; known are {', '.join(data.BINARIZATIONS)}")
    checked["learning_rate"] = _positive("learning_rate", settings["learning_rate"])
    for name in ("clip", "patience"):
        if settings[name] is not None:
            checked[name] = _positive(name, settings[name]) if name == "clip" else _whole(name, settings[name])
    checked["validation_fraction"] = _positive("validation_fraction", settings["validation_fraction"])
    if checked["validation_fraction"] >= 1:
        raise ConfigError(f"validation_fraction is {settings['validation_fraction']!r}, expected a number below 1")
    optim.parse_schedule(checked["schedule"])
    if settings["average"] is not None:
        optim.parse_average(settings["average"], Parameters({}))
        checked["average"] = str(settings["average"])
    if settings["on_nonfinite"] not in training.POLICIES:
        raise ConfigError(f"on_nonfinite is {settings['on_nonfinite']!r}; known are {', '.join(training.POLICIES)}")
    try:
        dtype = np.dtype(settings["dtype"]) if settings["dtype"] is not None else None
    except (TypeError, ValueError):
        dtype = None
    if dtype not in (np.float32, np.float64):
        raise ConfigError(f"dtype is {settings['dtype']!r}, expected 'float32' or 'float64'")
    checked["dtype"] = str(dtype)
    seed = settings["random_state"]
    if seed is not None:
        checked["random_state"] = _whole("random_state", seed, least=0)
        if checked["random_state"] >= 2**64:
            raise ConfigError(f"random_state is {seed!r}, expected a whole number below 2^64, or None")
    checked["verbose"] = bool(settings["verbose"])
    if checked["start"] not in families.STARTS:
        raise ConfigError(f"start is {settings['start']!r}; known are {', '.join(families.STARTS)}")
    if not isinstance(settings["standardize"], (bool, np.bool_)):
        raise ConfigError(f"standardize is {settings['standardize']!r}, expected True or False")
    checked["standardize"] = bool(settings["standardize"])
    if not isinstance(settings["device"], str) or settings["device"] not in device.DEVICES:
        raise ConfigError(f"device is {settings['device']!r}, expected 'cpu' or 'cuda'")
    return checked


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _family(name: str, text: str) -> str:
    """The text, unless a size in it is beyond all reason: tables are made from it."""
    if re.search(r"\d{7,}", text):
        raise ConfigError(f"{name} is {text[:40]!r}: no size in it may have more than six digits")
    return text


def _positive(name: str, x: Any) -> float:
    try:
        number = float(x) if isinstance(x, numbers.Real) and not isinstance(x, bool) else 0.0
    except OverflowError:  # 10**400
        number = math.inf
    if not 0 < number < math.inf:
        raise ConfigError(f"{name} is {x!r}, expected a positive number")
    return number


def _whole(name: str, x: Any, least: int = 1) -> int:
    if not isinstance(x, numbers.Integral) or isinstance(x, bool) or x < least:
        raise ConfigError(f"{name} is {x!r}, expected a whole number of at least {least}")
    return int(x)


def _widths_of_layers(name: str, given: Any) -> list[int]:
    try:
        widths = [given] if isinstance(given, (str, bytes)) else list(given)
    except TypeError:  # a number, or an array without axes
        widths = [given]
    return [_whole(name, width) for width in widths]


def _trainer(settings: dict[str, Any], model: Any, n_rows: int, per_epoch: int) -> training.Trainer:
    steps = settings["epochs"] * per_epoch if settings["steps"] is None else settings["steps"]
    return training.Trainer(
        model,
        objective=objectives.parse(settings["objective"], settings["warmup"] * per_epoch, settings["gradient"]),
        samples=settings["samples"],
        learning_rate=settings["learning_rate"],
        schedule=optim.parse_schedule(settings["schedule"], per_epoch, steps),
        average=settings["average"],
        clip=settings["clip"],
        seed=settings["random_state"],
        n_rows=n_rows,
        device=settings["device"],
    )


def _build(
    settings: dict[str, Any], n_inputs: int, observation: str, n_rows: int, units: data.Standardization | None
) -> Any:
    family = families.parse(observation, n_inputs)
    return models.MODELS[settings["model"]](
        n_inputs,
        settings["latent"],
        settings["posterior"],
        family if units is None else families.Rescaled(family, units.scale),
        settings["hidden"],
        settings["activation"],
        settings["prior"],
        dtype=settings["dtype"],
        n_rows=n_rows,
        decoder_hidden=settings["decoder_hidden"],
        start=settings["start"],
    )


def _observation(settings: dict[str, Any], x: np.ndarray, validation: np.ndarray | None) -> str:
    if settings["observation"] != "auto":
        return settings["observation"]
    parts = [x] if validation is None else [x, validation]
    return "bernoulli" if all(part.min() >= 0 and part.max() <= 1 for part in parts) else "gaussian"


def _name_constant(x: np.ndarray) -> None:
    """Warn of columns without a scale."""
    constant = np.flatnonzero((x == x[:1]).all(axis=0))
    if len(constant):
        shown = ", ".join(map(str, constant[:10])) + (", ..." if len(constant) > 10 else "")
        logger.warning(
            "fit: %d of %d columns are constant (%s; counted from 0): a density has no maximum there; leave them out",
            len(constant),
            x.shape[1],
            shown,
        )


def _units(fitted: dict[str, Any], path: object) -> data.Standardization | None:
    """The standardization that the configuration read from a path holds."""
    kept, n = fitted.get("standardization"), fitted.get("n_features_in")
    if kept is None:
        return None
    try:
        units = data.Standardization.from_config(kept)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged: its standardization is none: {error}") from None
    if len(units.location) != n:
        raise RunError(f"{path} is damaged: its standardization is of {len(units.location)} columns, expected {n}")
    return units


def data_support(observation: str, binarize: str | None, n: int) -> Support:
    """Where data of n columns must lie: what is binarized in [0, 1], else where the observation model has its values."""
    if binarize not in (None, "none"):
        return Support(0, 1)
    return Support() if observation == "auto" else families.parse(observation, n).support


def _grey(settings: dict[str, Any], raw: np.ndarray) -> bool | None:
    """False if bytes are no grey levels because the observation model is one of whole numbers; else let the data say."""
    if settings["observation"] == "auto" or raw.ndim not in (2, 3) or 0 in raw.shape:
        return None
    return False if data_support(settings["observation"], None, math.prod(raw.shape[1:])).whole else None


def _binarization(settings: dict[str, Any], observation: str, x: np.ndarray) -> str:
    if settings["binarize"] is not None:
        return settings["binarize"]
    may_be_grey = observation == "bernoulli" and settings["dequantize"] is None
    parts = (x[i : i + 1000] for i in range(0, len(x), 1000))  # grey shows in the first of them, as a rule
    return "dynamic" if may_be_grey and any(((part > 0) & (part < 1)).any() for part in parts) else "none"


def _check_widths(settings: dict[str, Any], n_inputs: int, observation: str, n_parameters: int) -> None:
    """Refuse a configuration that needs more parameters than its file holds, before anything of that size is made: every
    unit of a layer has one at least."""
    least = max(itertools.chain(*_widths(settings, n_inputs, observation)), default=0)
    if least > n_parameters:
        raise ValueError(f"its configuration needs {least} parameters or more, and it holds {n_parameters}")


def _check_memory(settings: dict[str, Any], n_rows: int, n_inputs: int) -> None:
    """Refuse what cannot fit before it is allocated: weights, their gradient and Adam's two moments, and the layers of
    one batch. An under-estimate."""
    networks = _widths(settings, n_inputs, settings["observation"])
    weights = sum(a * b for widths in networks for a, b in itertools.pairwise(widths))
    layers = settings["samples"] * min(settings["batch_size"] or n_rows, n_rows) * sum(map(sum, networks))
    sizes = ", ".join(f"{name} {settings[name]}" for name in ("latent", "posterior", "hidden", "batch_size", "samples"))
    _check_room((4 * weights + layers) * np.dtype(settings["dtype"]).itemsize, f"a model of {sizes}")


def _widths(settings: dict[str, Any], n_inputs: int, observation: str) -> list[tuple[int, ...]]:
    """Of the layers of encoders and decoders, as far as texts tell: parsing a family may make tables of its size."""

    def emitted(family: str, n: int) -> int:
        name, _, number = family.partition(":")
        if name == "full":
            return n * n // 2
        return n * (1 + min(int(number), n if name == "band" else int(number))) if number.isdecimal() else n

    latents = settings["latent"] if isinstance(settings["latent"], list) else [settings["latent"]]
    hidden, decoder_hidden = settings["hidden"], settings["decoder_hidden"]
    decoder_hidden = hidden[::-1] if decoder_hidden is None else decoder_hidden
    networks: list[tuple[int, ...]] = []
    for i, (below, latent) in enumerate(zip((n_inputs, *latents), latents, strict=False)):
        networks.append((below, *hidden, emitted(settings["posterior"], latent)))
        networks.append((latent, *decoder_hidden, below if i else emitted(observation, below)))
    return networks


def _check_room(n_bytes: int, what: str) -> None:
    room = limits.memory()
    if room is not None and n_bytes > room:
        least = min(n_bytes, 10**30) / 2**30  # an integer may be beyond floating point
        whose = "this machine has" if room == limits.machine_memory() else "the control group of this process allows"
        raise ConfigError(f"{what} needs more than {least:.3g} GiB; {whose} {room / 2**30:.3g} GiB")


def _json(notes: dict[str, Any]) -> dict[str, Any]:
    """As JSON will give them back."""
    try:
        return json.loads(json.dumps(notes, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"notes cannot be written as JSON: {error}") from None


# ---- data ----------------------------------------------------------------------------------------


def _matrix(
    X: Any, dtype: np.dtype, name: str, columns: int | None = None, grey: bool | None = None, exact: bool = False
) -> tuple[np.ndarray, bool | None]:
    """Rows as a finite, C-contiguous matrix of the model's dtype, and whether they were grey levels (None: not uint8).

    columns : how many there must be           grey : whether uint8 are grey levels; None: if any is above 1
    exact   : what dtype would round is float64 instead
    """
    x = _numbers(X, name)
    if x.ndim == 3:
        x = x.reshape(len(x), -1)
    if x.ndim != 2:
        hint = ". Reshape your data: one row is x.reshape(1, -1)" if x.ndim < 2 else ""
        raise ShapeError(f"{name} has shape {np.shape(x)}, expected (rows, columns) or (rows, height, width){hint}")
    if 0 in x.shape:
        what, n = ("sample", x.shape[0]) if x.shape[0] == 0 else ("feature", x.shape[1])
        raise DataError(f"{name} has {n} {what}(s) (shape={x.shape}) while a minimum of 1 is required.")
    if columns is not None and x.shape[1] != columns:
        raise ShapeError(f"{name} has {x.shape[1]} features, but VAE is expecting {columns} features as input")
    data.check_finite(x, name)
    is_uint8 = x.dtype == np.uint8
    if is_uint8 and grey is None:
        grey = bool(x.max() > 1)
    converted = _converted(x, np.dtype(np.float64) if exact and not np.can_cast(x.dtype, dtype) else dtype, name)
    if is_uint8 and grey:
        converted = converted / dtype.type(255)
    return converted, grey if is_uint8 else None


def _converted(x: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Numbers as C-contiguous ones of the dtype. DataError if they are too large for it."""
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(x, dtype)
    if x.dtype.kind == "f" and x.dtype.itemsize > dtype.itemsize:
        data.check_finite(converted, f"{name} as {dtype}")
    return converted


def _numbers(X: Any, name: str) -> np.ndarray:
    """X as an array of real numbers of any shape."""
    if hasattr(X, "tocsr"):
        raise DataError(f"{name} is a sparse matrix, which a VAE does not take: give {name}.toarray()")
    if np.ma.is_masked(X):
        raise DataError(f"{name} has masked entries; a VAE takes complete rows only")
    try:
        x = np.asarray(X)
        if x.dtype == object:  # as pandas gives for nullable columns
            x = x.astype(np.float64)
    except TypeError as error:
        raise DTypeError(f"{name} is not an array of real numbers: {error}") from None
    except ValueError as error:
        raise DataError(f"{name} is not an array of real numbers: {error}") from None
    if x.dtype.kind == "c":
        raise DataError(f"{name} is an array of {x.dtype}, expected real numbers. Complex data not supported")
    if x.dtype.kind not in "fiub":
        raise DataError(f"{name} is an array of {x.dtype}, expected real numbers")
    return x


def _held_out(n: int, fraction: float) -> int:
    """How many of n rows are held out for early stopping."""
    held = max(1, round(fraction * n))
    if held >= n:
        raise DataError(f"X has {n} rows: too few to hold out {held} for early stopping")
    return held


def _digest(*arrays: np.ndarray | None) -> str:
    """By which a run knows its rows again."""
    digest = hashlib.sha256()
    for x in arrays:
        if x is not None:
            digest.update(f"{x.shape}{x.dtype.str}".encode())
            digest.update(x)
    return digest.hexdigest()


# ---- run folders ---------------------------------------------------------------------------------


def _discard_unstarted(folder: Path, *, files_are_ours: bool, folder_is_ours: bool) -> None:
    """Take back a run folder that holds no checkpoint yet, so that the same command can be given again."""
    with contextlib.suppress(OSError):
        if files_are_ours and not (folder / "checkpoint.safetensors").exists():
            for name in ("config.json", "log.jsonl"):
                (folder / name).unlink(missing_ok=True)
        if folder_is_ours:
            folder.rmdir()  # refuses unless empty


# What earlier versions did, whose runs and files have no word for it; "full" was then what is "full:absolute" now.
BEFORE: dict[str, Any] = {"start": "glorot", "standardize": False}


def _stored(config: dict[str, Any], path: str | os.PathLike) -> dict[str, Any]:
    """The configuration read from a path in today's words, whichever version wrote it."""
    for part in ("settings", "fitted"):
        if not isinstance(config.get(part), dict):
            raise RunError(f"{path} is damaged: its configuration has {part} {config.get(part)!r:.80}, expected an object")
    if "start" in config["settings"]:
        return config
    return config | {"settings": _before(config["settings"]), "fitted": _renamed(config["fitted"])}


def _asked_of(begun: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings asked of a run that is to be continued: with one of an earlier version, what that had no word for is what it
    was then."""
    if "start" in begun["settings"]:
        return settings
    return _before({n: value for n, value in settings.items() if n not in BEFORE or value != VAE._defaults()[n]})


def _before(settings: dict[str, Any]) -> dict[str, Any]:
    return BEFORE | _renamed(settings)


def _renamed(texts: dict[str, Any]) -> dict[str, Any]:
    return texts | {n: re.sub(r"\bfull$", "full:absolute", texts[n]) for n in ROLES if isinstance(texts.get(n), str)}


def _continued(folder: training.RunFolder, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration under which a run goes on, from the one it was begun with and the one asked for now.

    ConfigError for a setting that contradicts it, DataError for other rows.
    """
    begun, asked = _stored(folder.config, folder.path), config["settings"]
    try:
        settings, fitted = VAE._defaults() | begun["settings"], dict(begun["fitted"])
        epochs = _whole("epochs", settings["epochs"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder.path} is damaged: its configuration lacks or has {error}") from None
    for name, value in asked.items():
        free = name == "verbose" or (name == "random_state" and value is None)
        longer = name == "epochs" and asked["steps"] is None and value > epochs
        if longer and settings["schedule"] == "cosine":
            raise ConfigError(f"{folder.path}: schedule 'cosine' ends with epoch {epochs}, so the run cannot be extended")
        if not free and not longer and value != settings[name]:
            but = "; it can be extended, not shortened" if name == "epochs" else ""
            raise ConfigError(f"{folder.path} was begun with {name} {settings[name]!r}, not {value!r}{but}")
    for name, value in config["fitted"].items():
        if name in fitted and fitted[name] != value:  # format 1 does not have them all
            raise DataError(
                f"these are not the rows that {folder.path} was begun with: {name} was {fitted[name]!r}, is {value!r}"
            )
    return begun | {"settings": settings | {"epochs": asked["epochs"]}, "fitted": config["fitted"]}


def _not_fitted(message: str) -> ConfigError:
    """A ConfigError that is scikit-learn's NotFittedError as well, if the caller uses scikit-learn."""
    exceptions = sys.modules.get("sklearn.exceptions")
    if exceptions is None:
        return ConfigError(message)
    return type("NotFittedError", (ConfigError, exceptions.NotFittedError), {})(message)

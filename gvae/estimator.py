"""The scikit-learn protocol around models and training, without importing scikit-learn.

model = VAE(latent=16, posterior="chain", random_state=1).fit(images)
codes = model.transform(images)                  # posterior means
model.score_samples(images)                      # importance-sampled log p(x), nats per row
model.save("digits.gvae"); model = load("digits.gvae")
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gvae import data, evaluation, families, models, objectives, random, training
from gvae.errors import ConfigError, DataError, RunError, ShapeError
from gvae.nn import Parameters

__all__ = ["VAE", "load"]


class VAE:
    """A variational autoencoder with a structured posterior.

    latent        : number of latent variables
    posterior     : family of q(z|x): "diagonal", "chain", "band:3", "extended_grid:4x4", "ar1", "lowrank:2", "full", ...
    observation   : family of p(x|z): "bernoulli", "gaussian", or "auto": bernoulli if all data lie in [0, 1]
    hidden        : widths of the encoder's hidden layers; the decoder mirrors them
    activation    : "elu", "tanh", "relu", "leaky_relu", "softplus", "sigmoid"
    objective     : "elbo", "elbo_a", "elbo_b" or "iwae"          samples : draws of z per row and step
    warmup        : epochs over which the weight of the KL grows from 0 to 1
    binarize      : "dynamic" (drawn anew at every presentation), "fixed", "threshold", "none", or None: dynamic for
                    images of grey levels under a Bernoulli observation, else none
    epochs        : passes over the data; or steps, if given, instead
    batch_size, learning_rate (of Adam), dtype ("float32" or "float64")
    random_state  : seed in [0, 2^64), or None for a fresh one (kept in `seed_`)
    verbose       : show a progress bar

    After fit: `history_` (a row per epoch), `parameters_`, `model_`, `seed_`, `n_features_in_`.
    """

    def __init__(
        self,
        latent: int = 16,
        posterior: str = "chain",
        observation: str = "auto",
        hidden: tuple[int, ...] = (200, 200),
        activation: str = "elu",
        objective: str = "elbo",
        samples: int = 1,
        warmup: int = 0,
        binarize: str | None = None,
        epochs: int = 20,
        steps: int | None = None,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        dtype: str = "float32",
        random_state: int | None = None,
        verbose: bool = False,
    ):
        self.latent = latent
        self.posterior = posterior
        self.observation = observation
        self.hidden = hidden
        self.activation = activation
        self.objective = objective
        self.samples = samples
        self.warmup = warmup
        self.binarize = binarize
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    # ---- scikit-learn's protocol

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's settings."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> VAE:
        """Change settings; returns self. Raises ConfigError for an unknown name."""
        for name, value in params.items():
            if name not in self._names():
                raise ConfigError(f"VAE has no setting {name!r}; known are {', '.join(self._names())}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        default = {n: p.default for n, p in inspect.signature(type(self).__init__).parameters.items()}
        shown = ", ".join(f"{n}={v!r}" for n, v in self.get_params().items() if v != default[n])
        return f"VAE({shown})"

    # ---- training

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        validation: Any = None,
        run: str | os.PathLike | None = None,
        notes: dict[str, Any] | None = None,
    ) -> VAE:
        """Train on rows X (N, D), or on images (N, rows, columns). y is ignored. Returns self.

        validation : further rows, on which the objective is reported after each epoch
        run        : a new folder that receives configuration, log and checkpoint
        notes      : what else the configuration should keep, as JSON
        Raises DataError (NaN, infinite, or outside [0, 1] for Bernoulli: row and column are named), ConfigError.
        """
        dtype = self._dtype()
        x = _matrix(X, dtype, "X")
        observation = self._observation(x)
        self.seed_ = int.from_bytes(os.urandom(8), "little") if self.random_state is None else self.random_state
        root = random.key(self.seed_)
        model = self._build(x.shape[1], observation)
        binarize = self._binarization(x, observation)
        table = data.Table(x, binarize=binarize, key=random.fold_in(root, 1))
        held_out = None
        if validation is not None:
            v = _matrix(validation, dtype, "validation", columns=x.shape[1])
            if observation == "bernoulli":
                data.check_unit_interval(v, "validation")
            held_out = data.Table(v, binarize=binarize, key=random.fold_in(root, 2))
        per_epoch = -(-len(table) // self.batch_size) if _is_whole(self.batch_size) else 1
        objective = objectives.parse(self.objective, self.warmup * per_epoch)
        trainer = training.Trainer(
            model, objective=objective, samples=self.samples, learning_rate=self.learning_rate, seed=self.seed_
        )
        self.binarize_, self.observation_, self.n_features_in_ = binarize, observation, x.shape[1]
        self.notes_ = notes or {}
        folder = None if run is None else training.RunFolder(run, self._config())
        trainer, history = training.train(
            model,
            table,
            epochs=self.epochs if self.steps is None else None,
            steps=self.steps,
            batch_size=self.batch_size,
            validation=held_out,
            progress=self.verbose,
            run=folder,
            trainer=trainer,
        )
        self.model_, self.parameters_, self.history_ = model, trainer.parameters, history.rows
        return self

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """fit(X).transform(X)."""
        return self.fit(X).transform(X)

    # ---- use

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means (N, latent)."""
        return np.asarray(self.posterior_of(X).mean)

    def posterior_of(self, X: Any) -> Any:
        """The distribution q(z|x) of each row: mean, variance(), covariance(), sample(noise), kl(), ..."""
        x = self._input(X)
        return self.model_.encoder(self.parameters_, x)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """The observation model's means (N, D) at latent codes Z (N, latent)."""
        self._fitted()
        z = _matrix(Z, self._dtype(), "Z", columns=self.latent)
        return np.asarray(self.model_.decoder(self.parameters_, z).mean)

    def reconstruct(self, X: Any) -> np.ndarray:
        """Means of p(x|z) at the posterior means, (N, D)."""
        return self.inverse_transform(self.transform(X))

    def sample(self, n: int = 1, *, seed: int = 0) -> np.ndarray:
        """Means of p(x|z) at n draws z of the prior, (n, D)."""
        self._fitted()
        if not _is_whole(n):
            raise ConfigError(f"sample: n is {n!r}, expected a whole number of at least 1")
        z = random.normal(random.key(seed), (n, self.latent), self._dtype())
        return self.inverse_transform(z)

    def evaluate(self, X: Any, *, samples: int = 100, seed: int = 0, progress: bool = False) -> evaluation.Evaluation:
        """ELBO, importance-sampled log p(x), KL and effective sample size of each row; see gvae.evaluation."""
        x = self._input(X)
        key = random.key(seed)
        table = data.Table(x, binarize=self.binarize_, key=random.fold_in(key, 2))
        return evaluation.evaluate(self.model_, self.parameters_, table, samples=samples, key=key, progress=progress)

    def score_samples(self, X: Any, *, samples: int = 100, seed: int = 0) -> np.ndarray:
        """Importance-sampled log p(x) of each row, in nats, (N,). Grey levels are binarized as in training, by one draw."""
        return self.evaluate(X, samples=samples, seed=seed).log_likelihood

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of score_samples, in nats per row."""
        return float(self.score_samples(X).mean())

    def save(self, path: str | os.PathLike) -> None:
        """Settings and parameters in one file (safetensors), written atomically. Read it with gvae.load."""
        self._fitted()
        from safetensors.numpy import save

        tensors = {f"parameters/{name}": np.ascontiguousarray(v) for name, v in self.parameters_.items()}
        metadata = training.metadata(self._config(), {"steps": 0, "epochs": len(self.history_), "optimizer_step": 0})
        training.write_atomically(Path(path), save(tensors, metadata=metadata))

    # ---- parts

    def _build(self, n_inputs: int, observation: str) -> models.VAE:
        hidden = (self.hidden,) if _is_whole(self.hidden) else tuple(self.hidden)
        return models.VAE(n_inputs, self.latent, self.posterior, observation, hidden, self.activation, dtype=self._dtype())

    def _config(self) -> dict[str, Any]:
        settings = self.get_params() | {"hidden": list(np.atleast_1d(self.hidden).tolist()), "random_state": self.seed_}
        fitted = {"binarize": self.binarize_, "observation": self.observation_, "n_features_in": self.n_features_in_}
        return {"model": "vae", "settings": settings, "fitted": fitted, "notes": self.notes_}

    def _dtype(self) -> np.dtype:
        if str(self.dtype) not in ("float32", "float64"):
            raise ConfigError(f"dtype is {self.dtype!r}, expected 'float32' or 'float64'")
        return np.dtype(self.dtype)

    def _observation(self, x: np.ndarray) -> str:
        if self.observation == "auto":
            return "bernoulli" if x.min() >= 0 and x.max() <= 1 else "gaussian"
        if self.observation not in families.FAMILIES:
            families.parse(self.observation, x.shape[1])  # raises with the list of known names
        if self.observation == "bernoulli":
            data.check_unit_interval(x, "X")
        return self.observation

    def _binarization(self, x: np.ndarray, observation: str) -> str:
        if self.binarize is not None:
            if self.binarize != "none":
                if self.binarize not in data.BINARIZATIONS:
                    known = ", ".join(data.BINARIZATIONS)
                    raise ConfigError(f"unknown binarization {self.binarize!r}; known are {known}")
                data.check_unit_interval(x, "X")
            return self.binarize
        grey = observation == "bernoulli" and bool(((x > 0) & (x < 1)).any())
        return "dynamic" if grey else "none"

    def _fitted(self) -> None:
        if not hasattr(self, "parameters_"):
            self._raise_not_fitted()

    def _raise_not_fitted(self) -> NoReturn:
        raise ConfigError("this VAE is not fitted yet: call fit(X) first, or load a saved one with gvae.load")

    def _input(self, X: Any) -> np.ndarray:
        self._fitted()
        x = _matrix(X, self._dtype(), "X", columns=self.n_features_in_)
        if self.observation_ == "bernoulli":
            data.check_unit_interval(x, "X")
        return x


def load(path: str | os.PathLike) -> VAE:
    """A VAE from a file written by `VAE.save`, or from a run folder of `VAE.fit(run=...)` or `gvae train`.

    Raises RunError for what is missing, damaged or of another kind.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "checkpoint.safetensors").is_file():
            raise RunError(f"{path} is not a run folder: it holds no checkpoint.safetensors")
        path = path / "checkpoint.safetensors"
    tensors, config, counters = training.load_checkpoint(path)
    try:
        if config["model"] != "vae":
            raise RunError(f"{path} holds a model of kind {config['model']!r}, expected 'vae'")
        settings, fitted = config["settings"], config["fitted"]
        estimator = VAE(**settings | {"hidden": tuple(settings["hidden"])})
        model = estimator._build(fitted["n_features_in"], fitted["observation"])
        named = {n.removeprefix("parameters/"): v for n, v in tensors.items() if n.startswith("parameters/")}
        wanted = model.init(random.key(0))
        if {n: v.shape for n, v in named.items()} != {n: v.shape for n, v in wanted.items()}:
            raise RunError(f"{path} is damaged: its parameters do not fit its configuration")
        estimator.parameters_ = Parameters({n: named[n] for n in wanted})
        estimator.seed_ = settings["random_state"]
        estimator.binarize_, estimator.observation_ = fitted["binarize"], fitted["observation"]
        estimator.n_features_in_, estimator.notes_ = fitted["n_features_in"], config["notes"]
        estimator.model_, estimator.history_ = model, [{} for _ in range(counters["epochs"])]
    except (KeyError, TypeError, ConfigError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    return estimator


def _matrix(X: Any, dtype: np.dtype, name: str, columns: int | None = None) -> np.ndarray:
    """Rows as a finite, C-contiguous matrix of the model's dtype; uint8 grey levels become [0, 1]."""
    x = np.asarray(X)
    if x.dtype.kind not in "fiub":
        raise DataError(f"{name} is an array of {x.dtype}, expected real numbers")
    if x.ndim == 3:
        x = x.reshape(len(x), -1)
    if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] == 0:
        raise ShapeError(f"{name} has shape {np.shape(X)}, expected (rows, columns) or (rows, height, width), none 0")
    if columns is not None and x.shape[1] != columns:
        raise ShapeError(f"{name} has {x.shape[1]} columns, expected {columns}")
    data.check_finite(x, name)
    grey = x.dtype == np.uint8 and x.max() > 1
    x = np.ascontiguousarray(x, dtype)
    return x / dtype.type(255) if grey else x


def _is_whole(x: Any) -> bool:
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool) and x >= 1

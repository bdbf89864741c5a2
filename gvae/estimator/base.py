"""What can be asked of an estimator that has been fitted. It knows its model by the protocol `gvae.models.Model` alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gvae import data, evaluation, random, training
from gvae.errors import ConfigError, DataError
from gvae.estimator import inputs, stored
from gvae.estimator.fitting import READS, Fitting, as_table, check_lengths, check_room
from gvae.settings import Whole

__all__ = ["Classifier", "Estimator"]

CHUNK = 10_000  # rows that go through a network at once


class Estimator(Fitting):
    """An estimator: settings, `fit`, and its use. The classes that users see are in gvae.estimator.classes."""

    def fit_transform(self, X: Any, y: Any = None, **given: Any) -> Any:
        """fit(X, y, **given).transform(X)."""
        return self.fit(X, y, **given).transform(X)

    def transform(self, X: Any) -> Any:
        """Posterior means (N, codes), those of several codes side by side. Grey levels enter as they are, not binarized."""
        found = self.codes(X)
        return self._framed(np.concatenate([found[name] for name in self.model_.codes], axis=1), X)

    def codes(self, X: Any, y: Any = None) -> dict[str, np.ndarray]:
        """The posterior means of all codes, by name, each (N, variables)."""
        rows = self._seen(X, y)
        parts = [self._coded(part) for part in _chunks(rows)]
        return {name: np.concatenate([np.asarray(part[name].mean) for part in parts]) for name in parts[0]}

    def posterior_of(self, X: Any, y: Any = None) -> Any:
        """The distribution q(z|x) of each row: mean, variance(), covariance(), sample(noise), kl(), ...; a dict of them, by
        code, for models with several. Without an encoder (nlfa) it is inferred, by gradient steps."""
        rows = self._seen(X, y)
        found = self._coded(rows) if _length_of(rows) <= CHUNK else self._coded_by_raw(rows)
        chosen = [found[name] for name in self.model_.codes]
        return chosen[0] if len(chosen) == 1 else found

    def inverse_transform(self, Z: Any) -> Any:
        """The observation model's means (N, D) at codes Z (N, codes), as `transform` gives them; by view where there are
        several views."""
        self._check_fitted()
        sizes = self.model_.codes
        z, _ = inputs.as_matrix(
            Z, self.model_.dtype, "Z", columns=sum(sizes.values()), grey=False, model=type(self).__name__
        )
        ends = np.cumsum(list(sizes.values()))[:-1]
        parts = [
            self._views_at(dict(zip(sizes, np.split(z[begin : begin + CHUNK], ends, axis=1), strict=True)))
            for begin in range(0, len(z), CHUNK)
        ]
        return _alone({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def reconstruct(self, X: Any) -> Any:
        """Means of p(view | codes) at the posterior means, (N, D)."""
        found = self.codes(X)
        return self.inverse_transform(np.concatenate([found[name] for name in self.model_.codes], axis=1))

    def sample(self, n: int = 1, *, seed: int = 0, draw: bool = False) -> Any:
        """Means of p(view | codes) at n draws of the prior, (n, D); with draw=True draws of the views themselves."""
        self._check_fitted()
        n, model = Whole().check("n", n), self.model_
        if not self.model.views:
            raise ConfigError(f"{type(self).__name__}: the model explains labels and no view: there is nothing to sample")
        settings = self._defaults() | self.config_["settings"]  # an earlier version's lack some
        layers = self._networks(settings, {name: view.columns for name, view in self.views_.items()})
        width = sum(model.codes.values()) + 2 * max((max(widths) for widths in layers), default=0)
        check_room(n * width * model.dtype.itemsize, f"{n} samples")
        key = random.key(seed)
        found = model.decode(self.parameters_, self.state_, model.sample_prior(self.parameters_, key, n))
        shown = {
            name: self.views_[name].output(p.sample(p.noise(random.fold_in(key, 1 + i))) if draw else p.mean)
            for i, (name, p) in enumerate(found.items())
        }
        return _alone(shown)

    def evaluate(
        self,
        X: Any,
        y: Any = None,
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
        partial              : a file that keeps what is done, should this be interrupted; the same call then continues from
                               there. It is removed at the end
        """
        rows = self._read(X, y, all_columns=True)
        key = random.key(seed)
        table = as_table(rows, self.views_, random.fold_in(key, 2))
        about = {name: self.config_[name] for name in ("model", "settings", "fitted")}
        kept = None if partial is None else evaluation.Partial(partial, about)
        given: dict[str, Any] = {"samples": samples, "key": key, "memory": memory, "measures": measures, "first": first}
        given |= {"chains": chains, "temperatures": temperatures, "progress": progress, "partial": kept}
        result = evaluation.evaluate(self.model_, self.parameters_, table, state=self.state_, **given)
        if kept is not None:
            kept.remove()
        return result

    def score_samples(self, X: Any, y: Any = None, *, samples: int = 100, seed: int = 0) -> np.ndarray:
        """Importance-sampled log p of each row, in nats, (N,). Grey levels are binarized as in training, by one draw."""
        return self.evaluate(X, y, samples=samples, seed=seed).log_likelihood

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of score_samples, in nats per row."""
        return float(self.score_samples(X, y).mean())

    def save(self, path: str | os.PathLike) -> None:
        """Settings, parameters and state in one file (safetensors), written atomically. Read it with gvae.load. RunError if
        it cannot be written."""
        self._check_fitted()
        stored.save(path, self.parameters_, self.state_, self.config_, self.n_iter_)

    # ---- parts

    def _read(self, X: Any, y: Any = None, *, all_columns: bool = False) -> dict[str, Any]:
        """The columns of the data, checked, in their own units; with all_columns a missing y is an error."""
        self._check_fitted()
        kinds, model = self.model.columns, type(self).__name__
        if all_columns and "y" in kinds and y is None:
            raise DataError(f"{model}: y is missing: the model reads {READS[kinds['y']]}")
        rows: dict[str, Any] = {}
        for name, kind in kinds.items():
            given, said = (X, "X") if name == "x" else (y, name)
            if given is None and name != "x":
                continue
            if kind == "labels":
                rows[name], _ = inputs.encoded(given, rows["x"].shape[0], said, self.classes_)
            else:
                rows[name] = self.views_[name].read(given, model)
        check_lengths(rows, "X")
        return rows

    def _seen(self, X: Any, y: Any = None) -> dict[str, Any]:
        """The columns as the model reads them where nothing is drawn."""
        return {n: self.views_[n].seen(c) if n in self.views_ else c for n, c in self._read(X, y).items()}

    def _coded(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """q(code | x), by code, of some rows."""
        batch = data.Batch(rows, np.arange(_length_of(rows)))
        own = training.infer(self.model_, self.parameters_, self.state_, batch, random.key(0))
        return self.model_.code(dict(self.parameters_) | own, self.state_, batch)

    def _coded_by_raw(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """The same for many rows: networks compute the distributions' unconstrained parameters for some rows at a time."""
        if not hasattr(self.model_, "raw"):
            return self._coded(rows)
        parts = []
        for part in _chunks(rows):
            batch = data.Batch(part, np.arange(_length_of(part)))
            own = training.infer(self.model_, self.parameters_, self.state_, batch, random.key(0))
            parts.append(self.model_.raw(dict(self.parameters_) | own, self.state_, batch))
        raw = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        batch = data.Batch(rows, np.arange(_length_of(rows)))
        return self.model_.code(dict(self.parameters_) | raw, self.state_, batch)

    def _views_at(self, z: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The means of all views at some codes, in the units of the data."""
        if not self.model.views:
            raise ConfigError(f"{type(self).__name__}: the model explains labels and no view: there is nothing to decode")
        found = self.model_.decode(self.parameters_, self.state_, z)
        return {name: self.views_[name].output(p.mean) for name, p in found.items()}


class Classifier(Estimator):
    """An estimator whose model says p(y | x) of labels y: `predict`, `predict_proba`, and scores of them."""

    estimator_type = "classifier"

    def predict_proba(self, X: Any, *, samples: int = 12, seed: int = 0) -> np.ndarray:
        """p(y | x) of each class, (N, classes), in the order of `classes_`; the mean over draws of the codes."""
        rows, samples, parts = self._seen(X), Whole().check("samples", samples), []
        for part in _chunks(rows):
            batch = data.Batch(part, np.arange(_length_of(part)))
            one = self.model_.noise(random.key(seed), batch[:1], samples)  # all rows see the same draws:
            noise = {name: draws.repeat(len(batch), axis=1) for name, draws in one.items()}  # none depends on the others
            parts.append(np.asarray(self.model_.predict(self.parameters_, self.state_, batch, noise)))
        return np.concatenate(parts)

    def predict(self, X: Any, *, samples: int = 12, seed: int = 0) -> np.ndarray:
        """The most probable class of each row, (N,)."""
        best = self.predict_proba(X, samples=samples, seed=seed).argmax(axis=1)
        return self.classes_[best]

    def score_samples(self, X: Any, y: Any = None, *, samples: int = 100, seed: int = 0) -> np.ndarray:
        """log p(y | x) of each row, in nats, (N,)."""
        labels = self._read(X, y, all_columns=True)["y"]
        with np.errstate(divide="ignore"):
            return np.log(np.take_along_axis(self.predict_proba(X, samples=samples, seed=seed), labels[:, None], 1)[:, 0])

    def score(self, X: Any, y: Any = None) -> float:
        """Accuracy: the share of rows whose most probable class is theirs."""
        self._check_fitted()
        if y is None:
            raise DataError(f"{type(self).__name__}.score: y is missing: accuracy needs labels")
        return float(np.mean(self.predict(X) == np.asarray(y)))


def _alone(views: dict[str, np.ndarray]) -> Any:
    return next(iter(views.values())) if len(views) == 1 else views


def _length_of(rows: Mapping[str, Any]) -> int:
    return rows["x"].shape[0]


def _chunks(rows: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for begin in range(0, _length_of(rows), CHUNK):
        yield {name: column[begin : begin + CHUNK] for name, column in rows.items()}

"""The methods of a fitted estimator, which uses its model only through the protocol `gvae.models.Model`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gvae import data, evaluation, random, training
from gvae.data.rows import Column, as_rows, numbers_of
from gvae.errors import ConfigError, DataError
from gvae.estimator import inputs, sections, stored
from gvae.estimator.fitting import Fitting, as_table, check_lengths, reads
from gvae.panels import Panel
from gvae.runtime import limits, parallel
from gvae.settings import Whole

__all__ = ["Classifier", "Correlator", "Estimator", "Regressor"]

CHUNK = 10_000  # rows that go through a network at once
FEW = 500  # rows for which many draws of layers are made at once
VIEWS = 1000  # the key of the first view's noise in a sample: models number those of their codes from 0


class Estimator(Fitting):
    """Base of all estimators: settings, `fit`, and the use of a fitted model.

    Examples
    --------
    >>> isinstance(gvae.VAE(), gvae.estimator.Estimator)
    True
    """

    def fit_transform(self, X: Any, y: Any = None, **given: Any) -> Any:
        """Fit to X and return its codes: fit(X, y, **given).transform(X).

        Parameters
        ----------
        X : array (N, D)
        y : array, optional
        **given : object
            As for `fit`.

        Returns
        -------
        array (N, codes)

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> gvae.FactorAnalysis(latent=2, epochs=5).fit_transform(X).shape
        (100, 2)
        """
        return self.fit(X, y, **given).transform(X)

    def transform(self, X: Any, *, out: str | os.PathLike | None = None) -> Any:
        """Posterior means of the codes; grey levels enter as they are, not binarized.

        Parameters
        ----------
        X : array (N, D), or Rows
            `gvae.data.Rows` need not fit into memory.
        out : path, optional
            A new .npy file or .zarr folder, which is filled window by window and is there when all of it is written.

        Returns
        -------
        array (N, codes)
            The means, of several codes joined along the columns; a DataFrame if `set_output` asks for one. With `out`, the
            array in that file, memory-mapped, or a Zarr array.

        Raises
        ------
        ConfigError
            Not fitted yet, or the result does not fit into memory: then `out` is needed.
        DataError, ShapeError
            As `fit`.
        RunError
            `out` exists, or cannot be written.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5, random_state=0).fit(X)
        >>> model.transform(X[:3]).shape
        (3, 2)
        """
        blocks = (self._joined(block, "transform", numbers) for block, numbers, _ in self._row_blocks(X))
        found = _gathered(blocks, as_rows(X), out)
        return found if out is not None else self._framed(found, X)

    def codes(self, X: Any, y: Any = None) -> dict[str, np.ndarray]:
        """Posterior means of all codes, by name.

        Parameters
        ----------
        X : array (N, D)
        y : array, optional
            For models that read it.

        Returns
        -------
        dict of str to array (N, variables)

        Raises
        ------
        ConfigError
            Not fitted yet.
        DataError, ShapeError
            As `fit`.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5, random_state=0).fit(X)
        >>> {name: z.shape for name, z in model.codes(X).items()}
        {'z': (100, 2)}
        """
        y, found = inputs.loaded(y), []
        if y is not None and as_rows(X) is not None:
            y = np.asarray(y) if isinstance(y, (list, tuple)) else y
            check_lengths({"x": X, "y": y}, "X")
        for block, numbers, where in self._row_blocks(X):
            found.append(self._codes(block, y if y is None or numbers is None else y[where], numbers))
        if not found[0]:
            self._check_inferred({}, "codes(X, y)")
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def posterior_of(self, X: Any, y: Any = None) -> Any:
        """Posterior q(z|x) of each row. Without an encoder (nlfa) it is inferred, by gradient steps.

        Parameters
        ----------
        X : array (N, D)
        y : array, optional
            For models that read it.

        Returns
        -------
        Distribution, or dict of str to Distribution
            With `mean`, `variance()`, `covariance()`, `sample(noise)`, `kl()`, ...; by code for models with several.

        Raises
        ------
        ConfigError
            Not fitted yet.
        DataError, ShapeError
            As `fit`.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5, random_state=0).fit(X)
        >>> model.posterior_of(X[:3]).covariance().shape
        (3, 2, 2)
        """
        self._check_codes()
        rows = self._seen(X, y)
        found = self._coded(rows) if _length_of(rows) <= CHUNK else self._coded_by_raw(rows)
        self._check_inferred(found, "posterior_of(X, y)")
        chosen = [found[name] for name in self.model_.codes]
        return chosen[0] if len(chosen) == 1 else found

    def inverse_transform(self, Z: Any) -> Any:
        """Means of the observation model at given codes.

        Parameters
        ----------
        Z : array (N, codes)
            As `transform` returns them.

        Returns
        -------
        array (N, D), or dict of str to array
            By view for models with several views.

        Raises
        ------
        ConfigError
            Not fitted yet, or the model explains labels only.
        DataError, ShapeError

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5, random_state=0).fit(X)
        >>> model.inverse_transform(np.zeros((1, 2))).shape
        (1, 5)
        """
        self._check_codes()
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

    def reconstruct(self, X: Any, *, out: str | os.PathLike | None = None) -> Any:
        """Means of p(view | codes) at the posterior means.

        Parameters
        ----------
        X : array (N, D), or Rows
        out : path, optional
            As for `transform`; for several views a .zarr folder, which becomes a group.

        Returns
        -------
        array (N, D), or dict of str to array
            By view for models with several views. With `out`, the arrays in that file.

        Raises
        ------
        ConfigError
            Not fitted yet, or the result does not fit into memory.
        DataError, ShapeError
            As `fit`.
        RunError
            `out` exists, or cannot be written.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5, random_state=0).fit(X)
        >>> model.reconstruct(X[:3]).shape
        (3, 5)
        """
        joined = (self._joined(block, "reconstruct", numbers) for block, numbers, _ in self._row_blocks(X))
        blocks = (self.inverse_transform(z) for z in joined)
        return _gathered(blocks, as_rows(X), out)

    def sample(self, n: int = 1, *, seed: int = 0, draw: bool = False) -> Any:
        """Draw codes from the prior, and return the means of p(view | codes) there.

        Parameters
        ----------
        n : int, default 1
        seed : int, default 0
        draw : bool, default False
            Return draws of the views themselves in place of their means.

        Returns
        -------
        array (n, D), or dict of str to array
            By view for models with several views.

        Raises
        ------
        ConfigError
            Not fitted yet, or the model explains labels only.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5, random_state=0).fit(X)
        >>> model.sample(4, seed=1).shape
        (4, 5)
        """
        self._check_fitted()
        n, model = Whole().check("n", n), self.model_
        if not self.model_.views:
            raise ConfigError(f"{type(self).__name__}: the model explains labels and no view: there is nothing to sample")
        settings = self._defaults() | self.config_["settings"]  # an earlier version's lack some
        layers = self._networks(settings, {name: view.columns for name, view in self.views_.items()})
        width = sum(model.codes.values()) + 2 * max((max(widths) for widths in layers), default=0)
        limits.check_room(n * width * model.dtype.itemsize, f"a sample of {n} rows")
        key = random.key(seed)
        found = model.decode(self.parameters_, self.state_, model.sample_prior(self.parameters_, key, n))
        shown = {
            name: self.views_[name].output(p.sample(p.noise(random.fold_in(key, VIEWS + i))) if draw else p.shown)
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
        seen: float = 0.1,
        progress: bool = False,
        partial: str | os.PathLike | None = None,
        out: str | os.PathLike | None = None,
        comm: Any = None,
    ) -> evaluation.Evaluation:
        """Evaluate each row: ELBO, importance-sampled log p(x) with its error, KL, and further measures.

        Parameters
        ----------
        X : array (N, D)
        y : array, optional
            For models that read it.
        samples : int, default 100
            Draws per row.
        seed : int, default 0
        memory : float, optional
            MB that the arrays of one chunk of samples may take.
        measures : sequence of str, or "all"
            Such as ["units", "ais"]: see `gvae.evaluation.MEASURES`.
        first : int, default 100
            The number of rows that the costly measures use, the first ones: shuffle rows that are sorted.
        chains, temperatures : int
            Chains per row and steps of the schedule of annealed importance sampling.
        seen : float, default 0.1
            The share of the counts that `completion` infers the codes from.
        progress : bool, default False
            Show a progress bar.
        partial : path, optional
            A file that keeps finished parts, should this be interrupted; the same call then continues from there, on any
            number of ranks. It is removed at the end.
        out : path, optional
            A new .npy file for the columns of the result, (N, 6) in the order of `gvae.evaluation.COLUMNS`, or a new .zarr
            store with an array (N,) for each of these names, written as they are computed. The result is then
            memory-mapped (.npy), or read from the store, 48 bytes per row. Without `measures`, `partial` and `comm`.
        comm : mpi4py.MPI.Comm, optional
            Ranks that share the batches of rows. All of them call this with the same rows, and get the result of one
            process.

        Returns
        -------
        Evaluation
            Nats per row, see `gvae.evaluation`.

        Raises
        ------
        ConfigError, DataError, ShapeError
        RunError
            `out` exists, or cannot be written; `partial` is a folder, or a file of another kind.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5, random_state=0).fit(X)
        >>> result = model.evaluate(X, samples=10)
        >>> result.elbo.shape, result.log_likelihood.shape
        ((100,), (100,))
        """
        ranks = parallel.of(comm)
        with ranks.together():
            table, key = self._table(X, y, seed)
            if out is not None and (measures or partial is not None or ranks.size > 1):
                raise ConfigError("evaluate: out= cannot be combined with measures=, partial= or several ranks")
            limits.check_room(
                0 if out is not None else 64 * len(table), f"an evaluation of {len(table)} rows, without out=,"
            )
        if out is not None:
            subject = evaluation.Subject(self.model_, self.parameters_, table, key=key, state=self.state_, progress=progress)
            with data.Output(out) as output:
                into = _columns_into(output, len(table))
                result = evaluation.importance_sampling(subject, samples=samples, memory=memory, into=into)
            return dataclasses.replace(result, **_columns_of(output))
        about = {name: self.config_[name] for name in ("model", "settings", "fitted")}
        kept = None if partial is None or not ranks.leads else evaluation.Partial(partial, about)
        given: dict[str, Any] = {"samples": samples, "key": key, "memory": memory, "measures": measures, "first": first}
        given |= {"chains": chains, "temperatures": temperatures, "seen": seen, "progress": progress, "partial": kept}
        given["ranks"] = ranks
        evaluated: Any = evaluation.evaluate(self.model_, self.parameters_, table, state=self.state_, **given)
        if kept is not None:
            kept.remove()
        return evaluated

    def score_samples(
        self, X: Any, y: Any = None, *, samples: int = 100, seed: int = 0, out: str | os.PathLike | None = None
    ) -> Any:
        """Importance-sampled log p of each row; grey levels are binarized as in training, by one draw.

        Parameters
        ----------
        X : array (N, D), or Rows
        y : array, optional
            For models that read it.
        samples : int, default 100
            Draws per row.
        seed : int, default 0
        out : path, optional
            As for `transform`.

        Returns
        -------
        array (N,)
            Nats. With `out`, the array in that file.

        Raises
        ------
        ConfigError
            Not fitted yet.
        DataError, ShapeError
            As `fit`.
        RunError
            `out` exists, or cannot be written.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5, random_state=0).fit(X)
        >>> model.score_samples(X, samples=10).shape
        (100,)
        """
        if out is None:
            return self.evaluate(X, y, samples=samples, seed=seed).log_likelihood
        table, key = self._table(X, y, seed)
        subject = evaluation.Subject(self.model_, self.parameters_, table, key=key, state=self.state_)
        with data.Output(out) as output:
            writer = output.array(None, (len(table),), np.float64)
            evaluation.importance_sampling(
                subject, samples=samples, into=lambda found: writer.append(found["log_likelihood"])
            )
        return output.read()

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`.

        Parameters
        ----------
        X : array (N, D)
        y : array, optional
            For models that read it.

        Returns
        -------
        float
            Nats per row.

        Raises
        ------
        ConfigError
            Not fitted yet.
        DataError, ShapeError
            As `fit`.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5, random_state=0).fit(X)
        >>> model.score(X) == float(model.score_samples(X).mean())
        True
        """
        return float(self.score_samples(X, y).mean())

    def report_sections(self, X: Any, y: Any = None) -> dict[str, list[Panel]]:
        """What `gvae plot` and `gvae report` show of this model beyond what they show of every model; here nothing.

        Parameters
        ----------
        X : array (N, D), or images (N, rows, columns)
            Test rows.
        y : array (N,) or (N, D2), optional
            Their labels or second view, for models that read them.

        Returns
        -------
        dict of str to list of Panel
            By the title of a section.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> gvae.VAE(latent=2, epochs=2).fit(X).report_sections(X)
        {}
        >>> list(gvae.FactorAnalysis(latent=2, epochs=5).fit(X).report_sections(X))
        ['Loadings']
        """
        return {}

    def save(self, path: str | os.PathLike, *, half: bool = False) -> None:
        """Write settings, parameters and state to one file (safetensors), atomically; `gvae.load` reads it.

        Parameters
        ----------
        path : path
        half : bool, default False
            Round the parameters to float16, for a file of half or a quarter of the size. They are loaded in the model's
            precision again, with the relative error of rounding, 2^-11; evaluate the loaded model to see what it changes.

        Raises
        ------
        ConfigError
            Not fitted yet, `path` is no path, or half=True and a parameter that is larger than float16 can hold.
        RunError
            The file cannot be written.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5, random_state=0).fit(X)
        >>> model.save("model.gvae")
        >>> bool((gvae.load("model.gvae").transform(X) == model.transform(X)).all())
        True
        """
        self._check_fitted()
        parameters: dict[str, np.ndarray] = dict(self.parameters_.items())
        if half:
            parameters = {name: stored.rounded(name, value) for name, value in parameters.items()}
        stored.save(path, parameters, self.state_, self.config_, self.n_iter_)

    # ---- parts

    def _check_codes(self) -> None:
        self._check_fitted()
        if not self.model_.codes:
            raise ConfigError(f"{type(self).__name__}: the model has no codes: there is nothing to transform")

    def _codes(self, X: Any, y: Any = None, numbers: Any = None) -> dict[str, np.ndarray]:
        rows = self._seen(X, y, numbers)
        parts = [self._coded(part) for part in _chunks(rows)]
        return {name: np.concatenate([np.asarray(part[name].shown) for part in parts]) for name in parts[0]}

    def _check_inferred(self, found: Mapping[str, Any], has: str, method: str = "") -> None:
        """DataError if a code is not among those that were inferred.   has : the call that has it"""
        if missing := [name for name in self.model_.codes if name not in found]:
            raise DataError(
                f"{type(self).__name__}.{method or has.partition('(')[0]}: the code {missing[0]} is inferred from X and y "
                f"together; {has} has it"
            )

    def _joined(self, X: Any, method: str, numbers: Any = None) -> np.ndarray:
        """The means of the codes that are inferred from X only, side by side."""
        self._check_codes()
        found = self._codes(X, None, numbers)
        self._check_inferred(found, "codes(X, y)", method)
        return np.concatenate([found[name] for name in self.model_.codes], axis=1)

    def _read(self, X: Any, y: Any = None, *, all_columns: bool = False, numbers: Any = None) -> dict[str, Any]:
        """The columns of the data, checked, in their own units; with all_columns a missing y is an error. numbers: the
        indices of the rows, if they are a part of others."""
        self._check_fitted()
        kinds, model = self.model_.columns, type(self).__name__
        if all_columns and "y" in kinds and y is None:
            raise DataError(f"{model}: y is missing: the model reads {reads(self.model_)}")
        rows: dict[str, Any] = {}
        for name, kind in kinds.items():
            given, said = (X, "X") if name == "x" else (y, name)
            if given is None and name != "x":
                continue
            if kind == "labels":
                rows[name], _ = inputs.encoded(inputs.loaded(given), rows["x"].shape[0], said, self.classes_)
            else:
                rows[name] = self.views_[name].read(given, model, rows=numbers)
        check_lengths(rows, "X")
        return rows

    def _seen(self, X: Any, y: Any = None, numbers: Any = None) -> dict[str, Any]:
        """The columns as the model reads them where nothing is drawn."""
        found = self._read(inputs.loaded(X), inputs.loaded(y), numbers=numbers)
        return {n: self.views_[n].seen(c) if n in self.views_ else c for n, c in found.items()}

    def _table(self, X: Any, y: Any, seed: int) -> tuple[data.Table, np.ndarray]:
        """The rows to evaluate, and the key of their evaluation."""
        X, y = (given if as_rows(given) is None else as_rows(given) for given in (X, y))
        rows, key = self._read(X, y, all_columns=True), random.key(seed)
        return as_table(rows, self.views_, random.fold_in(key, 2)), key

    def _parts(self, X: Any, size: int) -> Iterator[dict[str, Any]]:
        """The columns of `_seen`, `size` rows at a time."""
        for block, numbers, _ in self._row_blocks(X):
            yield from _chunks(self._seen(block, None, numbers), size)

    def _row_blocks(self, X: Any) -> Iterator[tuple[Any, Any, slice]]:
        """(rows, their indices, their places), CHUNK at a time; for an array in memory, all at once and without indices."""
        rows = as_rows(X)
        if rows is None:
            yield X, None, slice(None)
            return
        self._check_fitted()
        inputs.check_names(rows, self.views_["x"].names, type(self).__name__)  # which their blocks do not have
        column, begin = Column(rows, lambda x: x, tuple(rows.shape), np.dtype(rows.dtype)), 0
        for block in column.blocks(CHUNK):
            numbers = np.arange(begin, begin + block.shape[0])
            yield block, numbers_of(rows, numbers), slice(begin, begin + block.shape[0])
            begin += block.shape[0]

    def _coded(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """q(code | x), by code, of some rows."""
        batch = data.Batch(rows, np.arange(_length_of(rows)))
        own = training.infer(self.model_, self.parameters_, self.state_, batch, random.key(0))
        return self.model_.code(dict(self.parameters_) | own, self.state_, batch)

    def _coded_by_raw(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """As `_coded`, for many rows: networks compute the distributions' unconstrained parameters for some rows at a
        time."""
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
        if not self.model_.views:
            raise ConfigError(f"{type(self).__name__}: the model explains labels and no view: there is nothing to decode")
        found = self.model_.decode(self.parameters_, self.state_, z)
        return {name: self.views_[name].output(p.shown) for name, p in found.items()}


class Classifier(Estimator):
    """Base of estimators of p(y | x) for labels y: `predict`, `predict_proba`, and their scores.

    Examples
    --------
    >>> isinstance(gvae.VIB(), gvae.estimator.Classifier)
    True
    """

    estimator_type = "classifier"

    def predict_proba(self, X: Any, *, samples: int = 12, seed: int = 0) -> np.ndarray:
        """Probability p(y | x) of each class, averaged over draws of the codes.

        Parameters
        ----------
        X : array (N, D)
        samples : int, default 12
            Draws of the codes.
        seed : int, default 0

        Returns
        -------
        array (N, classes)
            In the order of `classes_`.

        Raises
        ------
        ConfigError, DataError, ShapeError

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.VIB(latent=2, hidden=(8,), epochs=2, random_state=0).fit(X, X[:, 0] > 0)
        >>> model.predict_proba(X).sum(axis=1).round(5).min()
        np.float32(1.0)
        """
        return self._predicted("predict", X, samples, seed)

    def _predicted(self, method: str, X: Any, samples: int, seed: int) -> np.ndarray:
        """The results (N, classes) of a method of the model, "predict" or "log_predict"."""
        samples, parts = Whole().check("samples", samples), []
        for part in self._parts(X, CHUNK):
            batch = data.Batch(part, np.arange(_length_of(part)))
            one = self.model_.noise(random.key(seed), batch[:1], samples)  # all rows see the same draws:
            noise = {name: draws.repeat(len(batch), axis=1) for name, draws in one.items()}  # none depends on the others
            parts.append(np.asarray(getattr(self.model_, method)(self.parameters_, self.state_, batch, noise)))
        return np.concatenate(parts)

    def predict(self, X: Any, *, samples: int = 12, seed: int = 0) -> np.ndarray:
        """Most probable class of each row.

        Parameters
        ----------
        X : array (N, D)
        samples : int, default 12
            Draws of the codes.
        seed : int, default 0

        Returns
        -------
        array (N,)
            Entries of `classes_`.

        Raises
        ------
        ConfigError, DataError, ShapeError

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.VIB(latent=2, hidden=(8,), epochs=2, random_state=0).fit(X, np.where(X[:, 0] > 0, "a", "b"))
        >>> sorted(set(model.predict(X).tolist()) | {"a", "b"})
        ['a', 'b']
        """
        best = self.predict_proba(X, samples=samples, seed=seed).argmax(axis=1)
        return self.classes_[best]

    def score_samples(
        self, X: Any, y: Any = None, *, samples: int = 100, seed: int = 0, out: str | os.PathLike | None = None
    ) -> Any:
        """log p(y | x) of each row, (N,), in nats."""
        labels = self._labels(X, y)
        if hasattr(self.model_, "log_predict"):
            log_p = self._predicted("log_predict", X, samples, seed)
        else:
            with np.errstate(divide="ignore"):
                log_p = np.log(self.predict_proba(X, samples=samples, seed=seed))
        found = np.take_along_axis(log_p, labels[:, None], 1)[:, 0]
        return found if out is None else _gathered(iter([found]), None, out)

    def score(self, X: Any, y: Any = None) -> float:
        """Accuracy: the share of rows whose most probable class is their label."""
        labels = self._labels(X, y)
        return float(np.mean(self.predict_proba(X).argmax(axis=1) == labels))

    def _labels(self, X: Any, y: Any) -> np.ndarray:
        """The labels of the rows, as numbers of `classes_`."""
        self._check_fitted()
        if y is None:
            raise DataError(f"{type(self).__name__}: y is missing: the model reads {reads(self.model_)}")
        rows = as_rows(X)
        if rows is None and np.ndim(X) == 0:
            self._read(X)  # which says what X is and what is expected
        n = np.shape(X)[0] if rows is None else rows.shape[0]
        return inputs.encoded(inputs.loaded(y), n, "y", self.classes_)[0]

    def report_sections(self, X: Any, y: Any = None) -> dict[str, list[Panel]]:
        """The confusion matrix of some rows with labels y."""
        return {} if y is None else sections.confusion(self, X, y)


class AbsentError(ConfigError, AttributeError):
    """A method that an estimator with these settings does not have."""


class _OfRegressions:
    """A method that an estimator has unless its settings make it unsupervised."""

    def __init__(self, method: Any):
        self.method, self.__doc__, self.__wrapped__ = method, method.__doc__, method

    def __get__(self, estimator: Any, owner: type | None = None) -> Any:
        if estimator is not None and not getattr(estimator, "model_", estimator.variant).conditional:
            name = f"{type(estimator).__name__}.{self.method.__name__}"
            raise AbsentError(f"{name}: it is unsupervised, and has no y to predict")
        return self.method if estimator is None else self.method.__get__(estimator, owner)


class Regressor(Estimator):
    """Base of estimators of p(y | x) for real numbers y: `predict` with standard deviations, draws, and R².

    Examples
    --------
    >>> isinstance(gvae.DeepGP(), gvae.estimator.Regressor)
    True
    """

    estimator_type = "regressor"

    @_OfRegressions
    def predict(self, X: Any, *, return_std: bool = False, samples: int = 100, seed: int = 0) -> Any:
        """Mean of p(y | x) of each row, over draws of the hidden layers.

        Parameters
        ----------
        X : array (N, D)
        return_std : bool, default False
            Return the standard deviation of a new observation as well.
        samples : int, default 100
            Draws of the hidden layers; without any the moments are exact.
        seed : int, default 0

        Returns
        -------
        mean : array (N,) or (N, D2)
            As y was in `fit`.
        deviation : array of the same shape
            With return_std.

        Raises
        ------
        ConfigError
            Not fitted yet, or unsupervised.
        DataError, ShapeError

        Examples
        --------
        >>> X = np.linspace(-1, 1, 30)[:, None]
        >>> model = gvae.DeepGP(latent=(), inducing=10, epochs=4, random_state=0).fit(X, X[:, 0] ** 2)
        >>> model.predict(X[:2]).round(2)
        array([1.  , 0.87])
        """
        self._check_fitted()
        samples, parts = Whole().check("samples", samples), []
        for part in self._parts(X, FEW):
            batch = data.Batch(part, np.arange(_length_of(part)))
            one = self.model_.noise(random.key(seed), batch[:1], samples)  # all rows see the same draws:
            noise = {name: draws.repeat(len(batch), axis=1) for name, draws in one.items()}  # none depends on the others
            parts.append(self.model_.predict(self.parameters_, self.state_, batch, noise))
        mean, variance = (np.concatenate(each) for each in zip(*parts, strict=True))
        view = self.views_["y"]
        shown = view.output(mean)
        return (shown, view.deviation(np.sqrt(variance))) if return_std else shown

    @_OfRegressions
    def sample_y(self, X: Any, n_samples: int = 1, *, random_state: int = 0) -> np.ndarray:
        """Draws of the functions from their posterior, at all rows together, without the noise of y.

        Parameters
        ----------
        X : array (N, D)
        n_samples : int, default 1
        random_state : int, default 0

        Returns
        -------
        array (N, n_samples) or (N, D2, n_samples)

        Raises
        ------
        ConfigError
            Not fitted yet, or unsupervised.
        DataError, ShapeError

        Notes
        -----
        A draw takes the eigenvalues of a matrix (N, N) for each group of processes.

        Examples
        --------
        >>> X = np.linspace(-1, 1, 30)[:, None]
        >>> model = gvae.DeepGP(latent=(), inducing=10, epochs=1, random_state=0).fit(X, X[:, 0] ** 2)
        >>> model.sample_y(X, 3).shape
        (30, 3)
        """
        self._check_fitted()
        rows, n = self._seen(X), Whole().check("n_samples", n_samples)
        keys = (random.fold_in(random.key(random_state), i) for i in range(n))
        drawn = [self.model_.functions(self.parameters_, self.state_, rows["x"], key) for key in keys]
        return np.stack([self.views_["y"].output(f) for f in drawn], axis=-1)

    def score(self, X: Any, y: Any = None) -> float:
        """The coefficient of determination R² of `predict`, the mean over the columns of y; if unsupervised, that of
        `score_samples`, in nats."""
        self._check_fitted()
        if not self.model_.conditional:
            return super().score(X, y)
        if y is None:
            raise DataError(f"{type(self).__name__}.score: y is missing: R² needs it")
        target = np.asarray(self._read(X, y)["y"], np.float64)
        found = inputs.as_columns(np.asarray(self.predict(X), np.float64))
        off, spread = np.square(target - found).sum(axis=0), np.square(target - target.mean(axis=0)).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.where(spread > 0, 1 - off / spread, np.where(off == 0, 1.0, 0.0)).mean())


class Correlator(Estimator):
    """Base of estimators of correlated codes of two views, X and y, without a model of the data.

    `transform(X)` returns the code of the first view, and `codes(X, y)` those of both.

    Examples
    --------
    >>> isinstance(gvae.CCA(), gvae.estimator.Correlator)
    True
    """

    def evaluate(self, X: Any, y: Any = None, **given: Any) -> Any:
        """Correlations of the codes of the two views, as `gvae.evaluation.view_correlations` returns them.

        Parameters
        ----------
        X : array (N, D)
        y : array (N, D2)
            The second view.
        **given : object
            As for `Estimator.evaluate`: `measures`, of which there is only "correlation", `progress`, `partial`.

        Returns
        -------
        gvae.evaluation.Measured
            With "correlation" in its `measures`.

        Raises
        ------
        ConfigError, DataError, ShapeError
            A measure of a bound is asked for, among others.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.CCA(latent=2, random_state=0).fit(X, X[:, :2])
        >>> model.evaluate(X, X[:, :2]).measures["correlation"].correlations.round(2)
        array([1., 1.])
        """
        return super().evaluate(X, y, **given)

    def score(self, X: Any, y: Any = None) -> float:
        """Sum over the pairs of canonical variables of their correlations on these rows.

        Parameters
        ----------
        X : array (N, D)
        y : array (N, D2)
            The second view.

        Returns
        -------
        float
            At most `latent`. The variables are those of the fit: the score of rows held out is not an upper bound.

        Raises
        ------
        ConfigError
            Not fitted yet.
        DataError, ShapeError
            As `fit`; also for one row.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> round(gvae.CCA(latent=2, random_state=0).fit(X, X[:, :2]).score(X, X[:, :2]), 2)
        2.0
        """
        return float(self.evaluate(X, y).measures["correlation"].summary()["total"])

    def score_samples(
        self, X: Any, y: Any = None, *, samples: int = 100, seed: int = 0, out: str | os.PathLike | None = None
    ) -> Any:
        """Raises ConfigError: there is no density of the data."""
        raise self._lacks("score_samples", "no density of the data; score is a sum of correlations")

    def posterior_of(self, X: Any, y: Any = None) -> Any:
        """Raises ConfigError: codes are functions of the data, and have no posterior."""
        raise self._lacks("posterior_of", "no posterior, as codes are functions of the data: see codes")

    def inverse_transform(self, Z: Any) -> Any:
        """Raises ConfigError: there is no model of the data."""
        raise self._lacks("inverse_transform")

    def reconstruct(self, X: Any, *, out: str | os.PathLike | None = None) -> Any:
        """Raises ConfigError: there is no model of the data."""
        raise self._lacks("reconstruct")

    def sample(self, n: int = 1, *, seed: int = 0, draw: bool = False) -> Any:
        """Raises ConfigError: there is no model of the data."""
        raise self._lacks("sample")

    def _lacks(self, method: str, what: str = "no model of the data") -> ConfigError:
        return ConfigError(f"{type(self).__name__}.{method}: {type(self).__name__} has {what}")


def _alone(views: dict[str, np.ndarray]) -> Any:
    return next(iter(views.values())) if len(views) == 1 else views


def _length_of(rows: Mapping[str, Any]) -> int:
    return rows["x"].shape[0]


def _columns_into(output: data.Output, n: int) -> Callable[[Mapping[str, np.ndarray]], None]:
    """A function that appends some rows' columns of an evaluation to a file: one array of all columns, or one of each."""
    if output.suffix == ".npy":
        rows = output.array(None, (n, len(evaluation.COLUMNS)), np.float64)
        return lambda found: rows.append(np.stack([found[name] for name in evaluation.COLUMNS], axis=1))
    arrays = {name: output.array(name, (n,), np.float64) for name in evaluation.COLUMNS}

    def into(found: Mapping[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            array.append(found[name])

    return into


def _columns_of(output: data.Output) -> dict[str, Any]:
    written = output.read()
    if isinstance(written, dict):
        return {name: np.asarray(written[name]) for name in evaluation.COLUMNS}
    return dict(zip(evaluation.COLUMNS, written.T, strict=True))


def _gathered(blocks: Iterator[Any], rows: Any, out: Any) -> Any:
    """Blocks of results, arrays or dicts of them, joined: in memory, or in a file."""
    if out is None:
        parts = []
        for part in blocks:
            parts.append(part)
            if rows is not None and len(parts) == 1:
                arrays = part.values() if isinstance(part, dict) else (part,)
                n_bytes = sum(array.nbytes // max(1, len(array)) for array in arrays) * rows.shape[0]
                limits.check_room(2 * n_bytes, f"a result for {rows.shape[0]} rows, without out=,")
        if len(parts) == 1:
            return parts[0]
        if isinstance(parts[0], dict):
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return np.concatenate(parts)
    with data.Output(out) as output:
        writers: dict[str, Any] = {}
        for part in blocks:
            several = part if isinstance(part, dict) else {"": part}
            for name, array in several.items():
                if name not in writers:
                    n = len(array) if rows is None else rows.shape[0]
                    writers[name] = output.array(name or None, (n, *array.shape[1:]), array.dtype)
                writers[name].append(array)
    return output.read()


def _chunks(rows: Mapping[str, Any], size: int = CHUNK) -> Iterator[dict[str, Any]]:
    for begin in range(0, _length_of(rows), size):
        yield {name: column[begin : begin + size] for name, column in rows.items()}

"""scikit-learn's protocol, without importing scikit-learn: settings, tags, names of columns, DataFrames out."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import numpy as np

from gvae import settings
from gvae.errors import ConfigError, DataError, DependencyError, ShapeError
from gvae.estimator.stored import not_fitted
from gvae.models.base import Base, check_known
from gvae.settings import fields, restated, setting

__all__ = ["DECLARED", "Protocol", "declared"]

_Class = TypeVar("_Class", bound=type)

DECLARED: dict[str, Any] = {}  # every estimator of this process by the name of its model, as files name it


@dataclass_transform(eq_default=False, kw_only_default=True, field_specifiers=(setting, restated))
def declared(name: str) -> Callable[[_Class], _Class]:
    """Decorate a class as an estimator, whose constructor and docstring follow from its settings.

    Parameters
    ----------
    name : str
        The name of the model in saved files: `gvae.load` reads these files in a process that has declared the class. `gvae
        train --model` accepts the name in such a process, and in every process if the class is one of gvae's own.

    Returns
    -------
    callable
        The decorator of the class.

    Raises
    ------
    ConfigError
        On decorating: the name is that of another class. One that is defined again, as in a notebook, replaces itself.

    Examples
    --------
    >>> from gvae.models import vae
    >>> @gvae.estimator.declared("mine")
    ... class Mine(gvae.estimator.Estimator, vae.Settings):
    ...     '''A model of my own.'''
    ...     model = gvae.models.VAE
    >>> Mine(latent=3)
    Mine(latent=3)
    """

    def decorate(cls: Any) -> Any:
        if (other := DECLARED.get(name, cls)) is not cls and _origin(other) != _origin(cls):
            known = f"{other.__module__}.{other.__qualname__}"
            raise ConfigError(f"declared: name is {name!r}, expected one that no other class has: it belongs to {known}")
        cls = settings.group(cls.title)(cls)
        initialize = cls.__init__

        def __init__(self: Any, *args: Any, **given: Any) -> None:
            check_known(cls.__name__, cls, given)
            initialize(self, *args, **given)

        __init__.__signature__ = cls.__signature__ = _signature(cls)  # type: ignore[attr-defined]
        cls.__init__, cls.name = __init__, name
        text = inspect.cleandoc(cls.__doc__)
        first = re.search(r"^\w.*\n-{3,}$", text, re.MULTILINE)  # the first section: Parameters stand before it
        end = len(text) if first is None else first.start()
        cls.__doc__ = f"{text[:end].rstrip()}\n\n{settings.described(cls)}\n\n{text[end:]}".rstrip() + "\n"
        DECLARED[name] = cls
        return cls

    return decorate


def _origin(cls: Any) -> tuple[str, str]:
    """Where a class is defined: a file is the same under all names that it is imported by."""
    return getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__, cls.__qualname__


def _signature(cls: Any) -> inspect.Signature:
    """The signature of the constructor, without self, as inspect and help show it."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return inspect.Signature(parameters)


class Protocol(settings.Settings):
    """What scikit-learn asks of an estimator, whose settings are those of the groups that it inherits from.

    model : the class of the model          fixed : settings of the shared groups that this model does not offer
    """

    title: ClassVar[str] = "model"
    name: ClassVar[str]
    model: ClassVar[type[Base]]
    fixed: ClassVar[Mapping[str, Any]] = {}
    estimator_type: ClassVar[str] = "transformer"
    verbose: bool
    model_: Any
    n_features_in_: int
    views_: dict[str, Any]

    @property
    def variant(self) -> type[Base]:
        """The class of the model with these settings, which decides what columns it reads.

        Examples
        --------
        >>> gvae.DeepGP().variant.columns, gvae.DeepGP(unsupervised=True).variant.columns
        ({'x': 'matrix', 'y': 'matrix'}, {'x': 'matrix'})
        """
        return self.model.variant(self.get_params())

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {f.name: f.default for f in fields(cls)}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Settings of the constructor, as scikit-learn asks for them.

        Parameters
        ----------
        deep : bool, default True
            Ignored: no setting is an estimator.

        Returns
        -------
        dict of str to object

        Examples
        --------
        >>> gvae.VAE(latent=3).get_params()["latent"]
        3
        """
        return {f.name: getattr(self, f.name) for f in fields(type(self))}

    def set_params(self, **params: Any) -> Self:
        """Change settings.

        Parameters
        ----------
        **params : object
            New values by name.

        Returns
        -------
        Estimator
            This one.

        Raises
        ------
        ConfigError
            An unknown name; nothing is changed then.

        Examples
        --------
        >>> gvae.VAE().set_params(latent=3, posterior="diagonal")
        VAE(latent=3, posterior='diagonal')
        """
        check_known(type(self).__name__, type(self), params)
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of `transform`: "vae0", "vae1", ...; with several codes "z1_0", "z1_1", ...

        Parameters
        ----------
        input_features : array of str, optional
            Names of the columns of X, only checked.

        Returns
        -------
        array of str (codes,)

        Raises
        ------
        ConfigError
            Not fitted yet.
        DataError, ShapeError
            Names that differ from those of fit, or a wrong number of them.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> gvae.FactorAnalysis(latent=2, epochs=5).fit(X).get_feature_names_out().tolist()
        ['factoranalysis0', 'factoranalysis1']
        """
        self._check_fitted()
        if input_features is not None:
            names, n, known = np.asarray(input_features, object), self.n_features_in_, self.views_["x"].names
            if len(names) != n:
                raise ShapeError(f"input_features should have length equal to number of features ({n}), got {len(names)}")
            if known is not None and (names != known).any():
                raise DataError("input_features is not equal to feature_names_in_")
        codes = self.model_.codes
        alone = len(codes) == 1
        out = [f"{type(self).__name__.lower() if alone else f'{c}_'}{i}" for c, n in codes.items() for i in range(n)]
        return np.array(out, dtype=object)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Choose the container that `transform` returns.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, optional
            An array, or a DataFrame of either library; None changes nothing.

        Returns
        -------
        Estimator
            This one.

        Raises
        ------
        ConfigError
            Another word.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.FactorAnalysis(latent=2, epochs=5).set_output(transform="pandas")
        >>> list(model.fit_transform(X).columns)
        ['factoranalysis0', 'factoranalysis1']
        """
        if transform is not None:
            settings.Choice("default", "pandas", "polars").check("set_output: transform", transform)
            self._sklearn_output_config = {"transform": transform}
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "parameters_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import (  # only scikit-learn comes here
            ClassifierTags,
            InputTags,
            RegressorTags,
            Tags,
            TargetTags,
            TransformerTags,
        )

        kinds = self.variant.columns
        counts, kind = kinds["x"] == "counts", self.estimator_type if "y" in kinds else "transformer"
        return Tags(
            estimator_type=kind,
            target_tags=TargetTags(required="y" in kinds, multi_output=kinds.get("y") == "matrix"),
            transformer_tags=TransformerTags(preserves_dtype=[]),  # the setting dtype decides, not the input's
            classifier_tags=ClassifierTags() if kind == "classifier" else None,
            regressor_tags=RegressorTags() if kind == "regressor" else None,
            input_tags=InputTags(three_d_array=not counts, sparse=counts, positive_only=counts),
        )

    def __repr__(self) -> str:
        default = self._defaults()
        shown = ", ".join(f"{n}={v!r}" for n, v in self.get_params().items() if repr(v) != repr(default[n]))
        return f"{type(self).__name__}({shown})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """In notebooks: scikit-learn's diagram, if the caller uses scikit-learn."""
        shown = {"text/plain": repr(self)}
        if "sklearn" in sys.modules:
            from sklearn.utils import estimator_html_repr

            shown["text/html"] = estimator_html_repr(self)
        return shown

    def _framed(self, Z: np.ndarray, X: Any) -> Any:
        """Z as `set_output`, or scikit-learn's own configuration, asks for it."""
        config = getattr(self, "_sklearn_output_config", {})
        package = sys.modules.get("sklearn")
        kind = config.get("transform") or (package.get_config()["transform_output"] if package else "default")
        if kind == "pandas":
            import pandas  # type: ignore[import-untyped]

            index = X.index if isinstance(X, (pandas.DataFrame, pandas.Series)) else None
            return pandas.DataFrame(Z, index=index, columns=self.get_feature_names_out())
        if kind == "polars":
            try:
                import polars  # type: ignore[import-not-found]
            except ImportError as error:
                raise DependencyError("set_output asks for polars: pip install polars") from error

            return polars.DataFrame(Z, schema=list(self.get_feature_names_out()))
        return Z

    def _check_fitted(self) -> None:
        if not hasattr(self, "parameters_"):
            raise not_fitted(
                f"this {type(self).__name__} is not fitted yet: call fit(X) first, or load a saved one with gvae.load"
            )

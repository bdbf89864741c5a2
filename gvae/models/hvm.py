"""Hierarchical variational models: a mean-field posterior whose parameters are drawn, so that codes depend on each other.

    q(z, lambda | x) = q(lambda | x) prod_i q(z_i | lambda_i),   lambda: the unconstrained parameters of a family of q(z)
    bound            E[log p(x, z) + log r(lambda | z) - log q(z | lambda) - log q(lambda | x)]

r(lambda | z) is the density of planar flows T(lambda) (the inverse of the map from noise, so that it is explicit) under
independent Gaussians, whose means and scales a small network of each unit computes from z_i only. The bound is below log p
by the KL of r in addition to the KL of q; with a point mass q(lambda | x) = r(lambda | z) it is that of the mean field.

Source: Ranganath, Tran and Blei (2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae import families, modes, random, settings
from gvae.data import Batch
from gvae.distributions import DiagonalGaussian, Distribution, InversePlanarGaussian
from gvae.distributions.flows import started_steps
from gvae.errors import ConfigError
from gvae.families import LOG_SCALE, Conditional, Family
from gvae.models import dreams, vae
from gvae.models.parts import style
from gvae.models.vae import VAE
from gvae.objectives import Blanket, Layer, Terms
from gvae.ops import arrays, dense, elementwise
from gvae.settings import Families, Whole, restated, setting
from gvae.typing import Arrays, Key, Noise, Params

__all__ = ["HVM", "Recursive"]


@settings.group("model")
class Settings(vae.Settings):
    """Settings of a hierarchical variational model."""

    posterior: str | Family = restated(vae.Settings, "posterior", default="bernoulli", kw_only=False)
    variational_prior: str | Family = setting(
        default="planar:8",
        help="family of q(lambda|x), over the unconstrained parameters of the posterior: planar:8, mixture:5, chain, ...",
        kind=Families(),
    )
    recursive_steps: int = setting(default=8, help="number of planar flows of r(lambda|z)", kind=Whole(0))
    recursive_width: int = setting(default=16, help="number of hidden units of r's network for each code", kind=Whole())


class Recursive:
    """r(lambda | z): flows of lambda under Gaussians, whose parameters for lambda_i a network computes from z_i.

    Parameters
    ----------
    n : int
        The number of codes.
    each : int
        The number of parameters of the family per code, which are lambda_i, lambda_(n + i), ...
    steps : int
        The number of steps of the flow.
    width : int
        The number of hidden units of the network of each code.

    Examples
    --------
    >>> r = gvae.models.hvm.Recursive(3, each=1, steps=2, width=4)
    >>> params = r.init(gvae.random.key(0), np.float64)
    >>> r(params, np.zeros((7, 3))).log_prob(np.zeros((7, 3))).round(4)[0]  # N(0, I) at the start
    np.float64(-2.7568)
    """

    def __init__(self, n: int, each: int, steps: int, width: int):
        self.n, self.each, self.steps, self.width = n, each, steps, width

    def init(self, key: Key, dtype: DTypeLike) -> dict[str, np.ndarray]:
        """Initial parameters: N(0, I) for every z.

        Parameters
        ----------
        key : array (4,)
        dtype : dtype

        Returns
        -------
        dict of str to array
            "recursive.0.weight" and ".bias" (n, width), "recursive.1.weight" (n, width, 2 each) and ".bias" (n, 2 each),
            "recursive.u" and ".w" (steps, n each), "recursive.b" (steps,).

        Examples
        --------
        >>> sorted(gvae.models.hvm.Recursive(3, 1, 0, 4).init(gvae.random.key(0), np.float64))
        ['recursive.0.bias', 'recursive.0.weight', 'recursive.1.bias', 'recursive.1.weight']
        """
        n, each, width = self.n, self.each, self.width
        params = {
            "recursive.0.weight": random.normal(random.fold_in(key, 0), (n, width), dtype),
            "recursive.0.bias": random.normal(random.fold_in(key, 1), (n, width), dtype),
            "recursive.1.weight": np.zeros((n, width, 2 * each), dtype),
            "recursive.1.bias": np.zeros((n, 2 * each), dtype),
        }
        if self.steps:
            flow = started_steps(random.fold_in(key, 2), self.steps, n * each, dtype)
            params |= dict(zip(("recursive.u", "recursive.w", "recursive.b"), flow, strict=True))
        return params

    def __call__(self, params: Params, z: Any) -> Distribution:
        """r(lambda | z).

        Parameters
        ----------
        params : mapping of str to array
        z : array (..., n)

        Returns
        -------
        Distribution
            A distribution of (..., n each) parameters.
        """
        n, each = self.n, self.each
        first = elementwise.multiply(z[..., None], params["recursive.0.weight"])
        h = elementwise.tanh(elementwise.add(first, params["recursive.0.bias"]))  # (..., n, width)
        out = dense.matmul(h[..., None, :], params["recursive.1.weight"])[..., 0, :]
        out = elementwise.add(out, params["recursive.1.bias"])  # (..., n, 2 each): of unit i
        out = arrays.reshape(arrays.swapaxes(out, axis1=-1, axis2=-2), shape=(*out.shape[:-2], 2 * each * n))
        log_scale = elementwise.bounded(out[..., n * each :], limit=LOG_SCALE)
        base = DiagonalGaussian(out[..., : n * each], log_scale)
        if not self.steps:
            return base
        return InversePlanarGaussian(base, params["recursive.u"], params["recursive.w"], params["recursive.b"])

    def by_unit(self, r: Distribution, numbers: Any) -> Any:
        """The terms of log r(lambda | z) that depend on z_i, for each unit.

        Parameters
        ----------
        r : Distribution
        numbers : array (..., n each)
            lambda.

        Returns
        -------
        array (..., n)
            Nats.

        Examples
        --------
        >>> r = gvae.models.hvm.Recursive(3, each=2, steps=0, width=4)
        >>> r.by_unit(r(r.init(gvae.random.key(0), np.float64), np.zeros(3)), np.zeros(6)).round(4)
        array([-1.8379, -1.8379, -1.8379])
        """
        terms = r.log_prob_by_base(numbers) if self.steps else r.log_prob(numbers, reduce=False)  # type: ignore[attr-defined]
        return arrays.sum(arrays.reshape(terms, shape=(*terms.shape[:-1], self.each, self.n)), axis=-2)


class HVM(VAE):
    """A VAE whose posterior is a hierarchical variational model.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.HVM`.

    Raises
    ------
    ConfigError
        The posterior's variables are not independent of each other.

    Examples
    --------
    >>> model = gvae.models.HVM(4, latent=3, variational_prior="planar:2", hidden=(5,))
    >>> params, batch = model.init(gvae.random.key(0)), gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
    >>> terms = model.terms(params, {}, batch, model.noise(gvae.random.key(1), batch, samples=2))
    >>> [(layer.name, layer.z.shape, layer.coupled) for layer in terms.layers]
    [('z', (2, 4, 3), False), ('lambda', (2, 4, 3), True)]
    """

    Settings = Settings
    has_closed_kl = False
    pure = True

    def build(self, settings: Any) -> None:
        if settings.critic is not None:
            raise ConfigError(f"HVM: critic is {settings.critic!r}, expected None: its codes are coupled to other draws")
        super().build(settings)
        inner = self.posterior
        if not inner.distribution.independent or inner.n_params % inner.n:
            raise ConfigError(f"HVM: posterior is {inner.name}, expected one of independent variables, such as bernoulli")
        self.outer = families.parse(settings.variational_prior, inner.n_params, "variational_prior")
        shared = style(settings)
        self.encoder = Conditional("encoder", self.sizes["x"], self.outer, settings.hidden, **shared)
        self.coded["z"].encoder = self.encoder
        each = inner.n_params // inner.n
        self.recursive = Recursive(inner.n, each, settings.recursive_steps, settings.recursive_width)
        self.check_normalize(settings)  # again, as the encoder's family is another now

    @property
    def codes(self) -> Mapping[str, int]:
        """The code z, with its number of variables.

        Examples
        --------
        >>> gvae.models.HVM(4, latent=3).codes
        {'z': 3}
        """
        return {"z": self.posterior.n}

    @property
    def inference_order(self) -> tuple[str, ...]:
        """The draws of the posterior: lambda, and then z given it.

        Examples
        --------
        >>> gvae.models.HVM(4, latent=3).inference_order
        ('lambda', 'z')
        """
        return "lambda", "z"

    def init(self, key: Key) -> dict[str, np.ndarray]:
        """Initial parameters of encoder, decoder, prior, and r(lambda|z).

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> sorted({name.partition(".")[0] for name in gvae.models.HVM(4, latent=3).init(gvae.random.key(0))})
        ['decoder', 'encoder', 'recursive']
        """
        params = super().init(key)
        if self.prior is not None:
            params["prior.raw"] = self.prior.start(random.fold_in(key, 3), self.dtype)
        return params | self.recursive.init(random.fold_in(key, 4), self.dtype)

    def prior_of(self, params: Params, name: str | None = None) -> Distribution:
        """The prior p(z).

        Parameters
        ----------
        params : mapping of str to array
        name : str, optional
            Not used: there is one code.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> gvae.models.HVM(4, latent=3).prior_of({}).mean
        array([0.5, 0.5, 0.5], dtype=float32)
        """
        family = self.posterior
        p = self.coded["z"].p(params)
        return family(np.zeros(family.n_params, self.dtype)).standard if p is None else p

    def noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, np.ndarray]:
        """Noise of the draws of lambda and of z.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1
            Draws for each row, K.

        Returns
        -------
        dict of str to array
            "z" and "lambda", (K, B, ..).

        Examples
        --------
        >>> model, batch = gvae.models.HVM(4, latent=3), gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> {name: u.shape for name, u in model.noise(gvae.random.key(0), batch, samples=2).items()}
        {'z': (2, 4, 3), 'lambda': (2, 4, 3)}
        """
        shape, like = (samples, len(batch)), vars(batch).get("x")
        return {
            "z": self.posterior.noise(random.fold_in(key, 0), shape, self.dtype, like),
            "lambda": self.outer.noise(random.fold_in(key, 1), shape, self.dtype, like),
        }

    def prior_noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, Any]:
        shape, like = (samples, len(batch)), vars(batch).get("x")
        return {"z": dreams.noise_of_prior(self.prior, self.posterior, key, shape, self.dtype, like)}

    def code(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Distribution]:
        """The distribution q(z | lambda) of each row, at the mean of lambda or, for a flow, at the image of its base's mean.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch

        Returns
        -------
        dict of str to Distribution
            "z".

        Examples
        --------
        >>> model, batch = gvae.models.HVM(4, latent=3), gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> model.code(model.init(gvae.random.key(0)), {}, batch)["z"].mean.shape
        (4, 3)
        """
        return {"z": self.posterior(self.encoder(params, batch.x).shown)}

    def posterior_given(self, params: Params, state: Arrays, batch: Batch, name: str, z: Arrays) -> Distribution:
        """q(lambda | x), or q(z | lambda).

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        name : {"lambda", "z"}
        z : mapping of str to array
            "lambda", for z.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> model = gvae.models.HVM(4, latent=3)
        >>> model.posterior_given({}, {}, None, "z", {"lambda": np.zeros((7, 3))}).mean.shape
        (7, 3)
        """
        return self.encoder(params, batch.x) if name == "lambda" else self.posterior(z["lambda"])

    def prior_given(self, params: Params, state: Arrays, name: str, z: Arrays) -> Distribution:
        """p(z), or r(lambda | z).

        Parameters
        ----------
        params, state : mapping of str to array
        name : {"lambda", "z"}
        z : mapping of str to array
            "z", for lambda.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> model = gvae.models.HVM(4, latent=3)
        >>> model.prior_given(model.init(gvae.random.key(0)), {}, "lambda", {"z": np.zeros((7, 3), np.float32)})
        InversePlanarGaussian(batch_shape=(7,), n=3)
        """
        return self.recursive(params, z["z"]) if name == "lambda" else self.prior_of(params)

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        """The log-likelihood of x, and the layers of z, under q(z | lambda), and of lambda, under r(lambda | z).

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        noise : mapping of str to array
            As `noise` draws it.
        step : int, optional
            The number of a training step; None where rows are scored.

        Returns
        -------
        Terms
            See `gvae.objectives`.

        Examples
        --------
        >>> model, batch = gvae.models.HVM(4, latent=3), gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> params, noise = model.init(gvae.random.key(0)), model.noise(gvae.random.key(1), batch, samples=2)
        >>> model.terms(params, {}, batch, noise).log_weights.shape
        (2, 4)
        """
        params = modes.in_step(params, noise, step)
        q_numbers = self.encoder(params, batch.x)
        numbers = q_numbers.sample(noise["lambda"])
        q = self.posterior(numbers)
        z = q.sample(noise["z"])
        r = self.recursive(params, z)
        views = self.decode(params, state, {"z": z})
        likelihood = self.likelihood(views, batch)

        def touched() -> Blanket:  # by z_i: all of p, and of r the terms of lambda_i
            return Blanket(elementwise.add(likelihood["x"][..., None], self.recursive.by_unit(r, numbers)))

        of_z = Layer(q, self.coded["z"].p(params), z, noise["z"], name="z", blanket=touched)
        of_z.again = lambda f, g: self.posterior(g(numbers))
        outer = Layer(q_numbers, r, numbers, noise["lambda"], coupled=True, name="lambda")
        outer.blanket = lambda: Blanket(likelihood["x"], layers=(of_z,))
        outer.again = lambda f, g: self.encoder(modes.changed(params, f), batch.x)
        return Terms(likelihood, [of_z, outer], views=views, joint=self.is_joint(params))  # r is not a part of q

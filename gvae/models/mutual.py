"""The mutual autoencoder: a VAE whose model is held to a chosen mutual information of code and data.

    max  ELBO - C |I - M|,     I = H(z) + E_{p(z) p(x|z)} log r(z | x),     r(z | x) = N(recogniser(x))

M nats are asked for, C is the weight. I bounds the mutual information of z and x under the model from below, for any r; r
ascends E log r on draws from the model (dreams), which are constants to it. The derivative of I in the decoder's parameters
passes through the draws of x, exactly or by a surrogate; where it cannot, it is the score function's. This differs from a
target for the posterior's rate: I depends only on the model, not on the data.

Source: Phuong, Welling, Kushman, Tomioka and Nowozin (2018), Algorithm 1. Erratum: their p_phi(x | z) is p_theta(x | z).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gvae import modes, random, settings
from gvae.autodiff import stop_gradient
from gvae.data import Batch
from gvae.errors import ConfigError
from gvae.families import LOG_SCALE, Conditional
from gvae.families.gaussians import Diagonal
from gvae.models import vae
from gvae.models.dreams import dream, dream_noise
from gvae.models.parts import style
from gvae.models.vae import VAE
from gvae.objectives import Terms, score
from gvae.ops import arrays, elementwise
from gvae.settings import Maybe, Number, Widths, setting
from gvae.typing import Arrays, Key, Noise, Params

__all__ = ["Mutual"]

RECOGNISER = 3000  # the key of the recogniser's initial parameters, and of dreams


@settings.group("model")
class Settings(vae.Settings):
    """Settings of a mutual autoencoder."""

    nats: float = setting(
        default=5.0, help="target M for the mutual information of code and data, in nats", kind=Number(zero=True)
    )
    weight: float = setting(
        default=2.0, help="C, the price of a nat by which the information misses M", kind=Number(zero=True)
    )
    recogniser: tuple[int, ...] | None = setting(
        default=None, help="widths of the recogniser's hidden layers; None: those of the encoder", kind=Maybe(Widths())
    )


class Mutual(VAE):
    """A VAE whose model has a chosen mutual information of code and data.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.MutualAutoencoder`.

    Raises
    ------
    ConfigError
        The prior has no entropy in closed form, or more nats are asked for than a recogniser of these codes can tell.

    Examples
    --------
    >>> model = gvae.models.Mutual(4, latent=2, hidden=(3,), nats=2.0)
    >>> sorted({name.partition(".")[0] for name in model.init(gvae.random.key(0))})
    ['decoder', 'encoder', 'recogniser']
    """

    Settings: ClassVar[Any] = Settings
    pure = True
    separable = False  # the penalty is of the batch's information

    def build(self, settings: Any) -> None:
        super().build(settings)
        of_view = self.observation(np.zeros(self.observation.n_params, self.dtype))
        if settings.normalize is not None and of_view.path is None:
            raise ConfigError(
                f"Mutual: normalize is {settings.normalize!r}, expected None where draws of x are not differentiable "
                f"(observation {self.observation.name}): a draw's signal belongs to its row only, but by batch "
                "normalisation what is recognised of all rows depends on it"
            )
        n, widths = settings.latent, settings.hidden if settings.recogniser is None else settings.recogniser
        family = Diagonal(n)
        self.recogniser = Conditional("recogniser", self.sizes["x"], family, widths, **style(settings))
        self.nats, self.weight = settings.nats, settings.weight
        p = self.posterior(np.zeros(self.posterior.n_params, self.dtype)).standard
        if self.prior is not None:
            p = self.prior(np.zeros(self.prior.n_params, self.dtype))
        if p.support.whole or p.drawn is not None or p.entropy() is None:  # r is a density, of real numbers
            raise ConfigError(
                f"Mutual: the prior, {type(p).__name__}, has no differential entropy in closed form, expected a Gaussian "
                "posterior, and a Gaussian prior or None"
            )
        most = n * LOG_SCALE
        if settings.nats > most:
            raise ConfigError(
                f"Mutual: nats is {settings.nats:g}, expected at most {most:.1f}: deviations of a recogniser of {n} "
                "variables are at least 1e-3"
            )

    @property
    def networks(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        of_rows, of_draws = super().networks
        return of_rows, (*of_draws, self.recogniser)

    def init(self, key: Key) -> dict[str, np.ndarray]:
        return super().init(key) | self.recogniser.init(random.fold_in(key, RECOGNISER), self.dtype)

    def masks(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, Any]:
        """The noise of dropout and of dreams, which is drawn for training steps only.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1

        Returns
        -------
        dict of str to array
            As `Base.masks` and `Base.dream_noise` return it.

        Examples
        --------
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> sorted(gvae.models.Mutual(4, latent=2).masks(gvae.random.key(0), batch))
        ['dream.x', 'dream.z']
        """
        dreams = dream_noise(self, random.fold_in(key, RECOGNISER), batch, samples)
        return super().masks(key, batch, samples) | dreams

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        terms = super().terms(params, state, batch, noise, step)
        return terms if step is None else self._informed(terms, modes.in_step(params, noise, step), state, noise)

    def watch(self, params: Params, state: Arrays, batch: Batch, noise: Noise) -> Terms:
        # with the penalty, by dreams that are the same in every call
        dreams = dream_noise(self, random.key(RECOGNISER), batch, len(noise["z"]))
        return self._informed(self.terms(params, state, batch, noise, None), params, state, dreams)

    def _informed(self, terms: Terms, params: Params, state: Arrays, noise: Noise) -> Terms:
        """The terms with the penalty, the figure, and what the recogniser ascends, by dreams of the noise."""
        dreamed = dream(self, params, state, noise)
        z, x, p = dreamed.z["z"], dreamed.x["x"], dreamed.views["x"]
        fixed = modes.changed(params, stop_gradient)
        log_r = self.recogniser(fixed, x).log_prob(z)
        information = elementwise.add(arrays.mean(log_r), self.prior_of(params).entropy())
        if p.path is None:
            others = stop_gradient(score.less_the_others(arrays.reshape(log_r, shape=(1, -1))))
            log_p = arrays.reshape(p.log_prob(stop_gradient(x)), shape=(1, -1))
            information = elementwise.add(information, arrays.mean(score.zero(others, log_p)))
        terms.penalty = self.weight * elementwise.abs(elementwise.subtract(information, self.nats))
        terms.figures = {"information": stop_gradient(information)}
        learned = self.recogniser(params, stop_gradient(x)).log_prob(stop_gradient(z))
        terms.auxiliary = {"recogniser": arrays.mean(learned)}
        return terms

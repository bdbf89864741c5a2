"""Averages of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gvae.errors import ConfigError
from gvae.nn import Parameters
from gvae.optim._numbers import _setting
from gvae.runtime import device
from gvae.typing import Array


class Average:
    """Base class of running averages of the parameters.

    Parameters
    ----------
    parameters : Parameters

    Attributes
    ----------
    values : Parameters
        The mean; zero before the first of its `terms`.
    epochs : int
        The number of epochs that are terms of the mean.

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
    >>> average = gvae.optim.SWA(parameters, first=1)
    >>> for epoch, value in enumerate([1.0, 2.0, 6.0], 1):
    ...     parameters.flat[:] = value
    ...     average.after_epoch(parameters, epoch)
    >>> average.values["decoder.weight"], average.epochs
    (array([3., 3.]), 3)
    """

    def __init__(self, parameters: Parameters):
        self.values, self.epochs = parameters.zeros(), 0

    def terms(self, steps: int) -> int:
        """Number of terms of the mean after a number of steps.

        Parameters
        ----------
        steps : int

        Returns
        -------
        int

        Examples
        --------
        >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
        >>> gvae.optim.EMA(parameters, decay=0.9).terms(10), gvae.optim.SWA(parameters, first=1).terms(10)
        (10, 0)
        """
        return self.epochs

    def weight(self, steps: int) -> float:
        """Weight of the current parameters in the mean after a step.

        Parameters
        ----------
        steps : int
            The number of steps before it.

        Returns
        -------
        float
            0 for averages that do not include steps.

        Examples
        --------
        >>> average = gvae.optim.EMA(gvae.nn.Parameters({"decoder.weight": np.ones(2)}), decay=0.9)
        >>> [round(average.weight(steps), 4) for steps in (0, 1, 10, 1000)]
        [1.0, 0.8182, 0.45, 0.1]
        """
        return 0.0

    def after_step(self, parameters: Parameters, weight: Array, scratch: Array = None) -> None:
        """Update the mean after a step of the optimiser.

        Parameters
        ----------
        parameters : Parameters
        weight : float or array ()
            As `weight` returns it; an array lies on the device of the parameters.
        scratch : array, optional
            Working memory like parameters.flat.

        Examples
        --------
        >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
        >>> average = gvae.optim.EMA(parameters, decay=0.9)
        >>> for steps, value in enumerate([1.0, 2.0]):
        ...     parameters.flat[:] = value
        ...     average.after_step(parameters, average.weight(steps))
        >>> average.values["decoder.weight"].round(4)
        array([1.8182, 1.8182])
        """

    def after_epoch(self, parameters: Parameters, epochs: int) -> None:
        """Update the mean at the end of an epoch.

        Parameters
        ----------
        parameters : Parameters
        epochs : int
            The number of epochs that are over.

        Examples
        --------
        >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
        >>> average = gvae.optim.SWA(parameters, first=1)
        >>> average.after_epoch(parameters, 1)
        >>> average.values["decoder.weight"]
        array([1., 1.])
        """

    def _add(self, parameters: Parameters, weight: Array, scratch: Array = None) -> None:
        mean, flat = self.values.flat, parameters.flat
        difference = np.subtract(flat, mean, out=scratch)
        difference *= weight if device.is_cuda(weight) else mean.dtype.type(weight)
        mean += difference


class EMA(Average):
    """Exponential moving average of the parameters after every step.

    Parameters
    ----------
    parameters : Parameters
    decay : float

    Notes
    -----
    mean <- mean + (1 - d) (parameters - mean), d = min(decay, (1 + t) / (10 + t)) at step t, which forgets the initial
    parameters.

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
    >>> average = gvae.optim.EMA(parameters, decay=0.9)
    >>> average.after_step(parameters, average.weight(0))
    >>> average.values["decoder.weight"]
    array([1., 1.])
    """

    def __init__(self, parameters: Parameters, decay: float):
        super().__init__(parameters)
        self.decay = decay

    def terms(self, steps: int) -> int:
        return steps

    def weight(self, steps: int) -> float:
        return 1.0 if steps == 0 else 1 - min(self.decay, (1 + steps) / (10 + steps))

    def after_step(self, parameters: Parameters, weight: Array, scratch: Array = None) -> None:
        self._add(parameters, weight, scratch)


class SWA(Average):
    """Stochastic weight averaging: the mean of the parameters at the ends of epochs `first`, first + 1, ...

    Parameters
    ----------
    parameters : Parameters
    first : int
        The first epoch that is a term, counted from 1.

    Notes
    -----
    Source: Izmailov et al. (2018), algorithm 1.

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
    >>> average = gvae.optim.SWA(parameters, first=2)
    >>> for epoch, value in enumerate([1.0, 2.0, 6.0], 1):
    ...     parameters.flat[:] = value
    ...     average.after_epoch(parameters, epoch)
    >>> average.values["decoder.weight"]
    array([4., 4.])
    """

    def __init__(self, parameters: Parameters, first: int):
        super().__init__(parameters)
        self.first = first

    def after_epoch(self, parameters: Parameters, epochs: int) -> None:
        if self.epochs < epochs - self.first + 1:  # once, even if the end of an epoch was interrupted
            self._add(parameters, 1 / (self.epochs + 1))
            self.epochs += 1


AVERAGES: dict[str, Callable[[Parameters, Any], Average]] = {
    "ema": lambda parameters, given: EMA(parameters, 0.999 if given is None else given),
    "swa": lambda parameters, given: SWA(parameters, 1 if given is None else given),
}


def parse_average(text: str, parameters: Parameters) -> Average:
    """The average of the parameters that a text describes.

    Parameters
    ----------
    text : str
        "ema" or "ema:DECAY" (0.999), after every step; "swa" or "swa:E", after every epoch from the E-th on (1).
    parameters : Parameters

    Returns
    -------
    Average

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
    >>> gvae.optim.parse_average("ema:0.99", parameters).decay
    0.99
    """
    name = text.partition(":")[0] if isinstance(text, str) else ""
    given = _setting("average", text, AVERAGES, AVERAGES, float if name == "ema" else int)
    if name == "ema" and given is not None and not given < 1:
        raise ConfigError(f"average {text!r}: the decay is {given!r}, expected a number below 1")
    return AVERAGES[name](parameters, given)

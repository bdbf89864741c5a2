"""The groups of settings that all models share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gvae.errors import ConfigError
from gvae.settings.declarations import Settings, group, setting
from gvae.settings.kinds import Choice, File, Maybe, Number, Or, Precision, Text, Whole, YesNo

KINKED = ("relu", "leaky_relu")  # activations whose second derivative is zero except at the kink


def _check_objective(text: str) -> None:
    from gvae import objectives

    objectives.parse(text)


def _check_schedule(text: str) -> None:
    from gvae import optim

    optim.parse_schedule(text)


def _check_average(text: str) -> None:
    from gvae import nn, optim

    optim.parse_average(text, nn.Parameters({}))


def _check_rates(text: str) -> None:
    from gvae import optim

    optim.parse_rates(text)


def _check_alone(text: str) -> None:
    from gvae import optim

    optim.parse_alone(text)


def _check_shuffle(text: str) -> None:
    from gvae import data

    data.Shuffle.of(text)


def _check_optimizer(text: str) -> None:
    from gvae import optim

    optim.check_optimizer(text)


@group("data")
class Standardized(Settings):
    """The units of real-valued columns, as a model receives them."""

    standardize: bool = setting(
        default=True,
        help="scale real-valued columns to mean 0 and standard deviation 1 over the training rows; densities, means and "
        "draws stay in the units of the data. Other columns are not scaled",
        kind=YesNo(),
    )


@group("data")
class Presentation(Standardized):
    """How rows are presented to a model."""

    binarize: str | None = setting(
        default=None,
        help="how grey levels become black and white: dynamic, drawn whenever a row is presented; fixed, drawn once; "
        "threshold, at 1/2; none; None: dynamic for images of grey levels under a Bernoulli observation, else none",
        kind=Maybe(Choice("dynamic", "fixed", "threshold", "none")),
    )
    dequantize: int | None = setting(
        default=None,
        help="number of grey levels L of data in [0, 1] to be modelled by a density (256 for bytes): x = k / (L - 1) is"
        " presented as (k + u) / L with u ~ U(0, 1)",
        kind=Maybe(Whole(2, below=2**24)),
    )


@group("objective")
class Objective(Settings):
    """The objective that training maximises."""

    objective: str = setting(
        default="elbo",
        help="elbo, elbo_a, elbo_b, each also with a cost in place of the KL (elbo:beta=0.5, elbo:rate=16,weight=4, "
        "elbo:free=0.1, elbo:anchor=0+3,weight=0.9), elbo:trace=probe; iwae, vr_iwae:0.5, renyi:-1, ciwae:0.05, miwae:8, "
        "piwae:8; wake_sleep; info:alpha=1,lambda=1000,divergence=mmd: see gvae.objectives.parse",
        kind=Text(_check_objective),
    )
    gradient: str = setting(
        default="reparameterized",
        help="estimator of the encoder's gradient: reparameterized, stl, dreg, vimco, rws, rws_dreg; only for the elbo: "
        "local and disarm, for discrete codes; hessian, by second derivatives, in float64 for at most 64 variables",
        kind=Text(lambda text: None),
    )
    samples: int = setting(default=1, help="draws of the codes per row and step", kind=Whole())
    warmup: int = setting(default=0, help="epochs over which the weight of the KL grows from 0 to 1", kind=Whole(0))

    def together(self, values: Mapping[str, Any]) -> None:
        from gvae import objectives

        objectives.parse(values["objective"], gradient=values["gradient"])
        if values["gradient"] == objectives.HESSIAN and values.get("activation") in KINKED:
            raise ConfigError(
                f"gradient 'hessian': activation {values['activation']!r} has kinks, which a mean of second derivatives "
                "misses; take elu, softplus or tanh"
            )
        for key in objectives.keys(values["objective"]):
            if key in values and not values["objective"].startswith("info:"):  # its alpha is not the setting of a model
                raise ConfigError(
                    f"objective {values['objective']!r}: {key} is a setting of the model itself: pass {key}= instead"
                )


@group("length of training")
class Length(Settings):
    """The length of training."""

    epochs: int | str = setting(
        default="auto",
        help="passes over the data; auto: until the bound on held-out rows stops improving, see gvae.training.Until",
        kind=Or("auto", Whole()),
    )
    steps: int | None = setting(default=None, help="steps of one batch each, instead of epochs", kind=Maybe(Whole()))
    patience: int | None = setting(
        default=None,
        help="early stopping: stop after this number of epochs without a better bound on held-out rows, and keep"
        " the weights of the best one",
        kind=Maybe(Whole()),
    )
    validation_fraction: float = setting(
        default=0.1,
        help="share of the rows held out for early stopping where no validation rows are given",
        kind=Number(below=1),
    )


@group("steps of training")
class Ascent(Settings):
    """The steps of training."""

    initial: str | None = setting(
        default=None,
        help="a run folder or saved model whose parameters training starts from, instead of random ones; names and shapes "
        "must be those of this model",
        kind=Maybe(File()),
    )
    batch_size: int | None = setting(default=100, help="rows per step; None: all", kind=Maybe(Whole()))
    shuffle: str = setting(
        default="auto",
        help="order of the rows of an epoch: full, all shuffled; window:W, chunks of consecutive rows drawn at random and "
        "shuffled among W rows (window:rows=W,chunk=C with chunks of C rows), for rows that are not in memory; auto: full "
        "where the rows fit into a third of the memory",
        kind=Text(_check_shuffle),
    )
    learning_rate: float = setting(default=1e-3, help="learning rate of the optimizer", kind=Number())
    optimizer: str = setting(
        default="adam",
        help="adam:beta1=,beta2=,eps=; adamw:0.01 with decay of the weights; sgd:0.9 with momentum; lbfgs:50, "
        "50 iterations of L-BFGS on all rows in each step, without a learning rate",
        kind=Text(_check_optimizer),
    )
    rates: str | None = setting(
        default=None,
        help="multiples of the learning rate by parameter group, as in baseline=10,prior=0.1",
        kind=Maybe(Text(_check_rates, metavar="GROUP=NUMBER,..")),
    )
    alone: str | None = setting(
        default=None,
        help="separate steps of parameter groups, with their own noise, before each step of the others, as in critic=3",
        kind=Maybe(Text(_check_alone, metavar="GROUP=STEPS,..")),
    )
    schedule: str = setting(
        default="constant",
        help="schedule of the learning rate: constant; cosine, to 0 at the end of the run, or cosine:E of epoch E; "
        "plateau:E, halved after E epochs without a better bound; iwae, 10^(-i/7) for 3^i epochs, or iwae:S, in 1/S of "
        "the epochs; exponential:0.97/2, times 0.97 after every 2 epochs",
        kind=Text(_check_schedule),
    )
    average: str | None = setting(
        default=None,
        help="a running average of the weights, validated and kept in their place: ema:0.999 over steps; swa:E over the "
        "ends of epochs from the E-th on",
        kind=Maybe(Text(_check_average)),
    )
    clip: float | None = setting(
        default=None, help="the largest norm of the gradient; a larger gradient is scaled to it", kind=Maybe(Number())
    )
    on_nonfinite: str = setting(
        default="stop",
        help="after a bound or gradient that is NaN or infinite: stop; skip the step; or rollback, to the start of the"
        " epoch with half of the learning rate",
        kind=Choice("stop", "skip", "rollback"),
    )


@group("machine")
class Machine(Settings):
    """Device, precision, seed and verbosity."""

    dtype: str = setting(default="float32", help="precision of all arithmetic", kind=Precision())
    random_state: int | None = setting(
        default=None,
        help="seed from which everything random follows; None: a fresh one, kept as seed_",
        kind=Maybe(Whole(0, below=2**64)),
        flag="--seed",
    )
    device: str = setting(default="cpu", help="where training runs; results are on the CPU", kind=Choice("cpu", "cuda"))
    shards: int = setting(
        default=1,
        help="parts of each batch, a power of two, which ranks of MPI share; the bits of a run depend on it, and not on the "
        "number of ranks",
        kind=Whole(1),
    )
    verbose: bool = setting(default=False, help="print what was chosen, and show a progress bar", kind=YesNo(), flag="")

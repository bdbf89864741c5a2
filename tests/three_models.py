"""Models that live in the tests: a classifier, one of two views and one of counts. They prove that the protocol holds what
is to come, and are the shortest examples of it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gvae import families, ops, random, settings
from gvae.estimator import Classifier, Estimator, declared
from gvae.families import Conditional
from gvae.models import Base
from gvae.models.parts import Penalty
from gvae.nn import MLP
from gvae.objectives import Layer, Terms
from gvae.settings import Ascent, Families, Layers, Length, Machine, Number, Objective, Presentation, Widths, setting


@settings.group("model")
class LabelSettings(settings.Settings):
    latent: int = setting(default=4, help="number of latent variables", kind=Layers(several=False), kw_only=False)
    hidden: tuple[int, ...] = setting(default=(16,), help="widths of the encoder's hidden layers", kind=Widths())
    beta: float = setting(default=1e-3, help="nats of log p(y | z) that a nat of the code's KL costs", kind=Number())


class Labels(Base):
    """q(z | x), p(y | z), and what a VIB ascends: E log p(y | z) - beta KL(q(z | x) ‖ N(0, I))."""

    Settings: ClassVar[Any] = LabelSettings
    columns: ClassVar[dict[str, str]] = {"x": "matrix", "y": "labels"}
    views: ClassVar[tuple[str, ...]] = ()
    pure = True

    def build(self, settings):
        self.posterior = families.parse("diagonal", settings.latent)
        self.encoder = Conditional("encoder", self.sizes["x"], self.posterior, settings.hidden)
        self.decoder = Conditional("decoder", settings.latent, families.parse(f"categorical:{self.sizes['y']}", 1))
        self.beta = settings.beta

    @property
    def codes(self):
        return {"z": self.posterior.n}

    def init(self, key):
        return self.encoder.init(random.fold_in(key, 0), self.dtype) | self.decoder.init(random.fold_in(key, 1), self.dtype)

    def noise(self, key, batch, samples=1):
        return {"z": self.posterior.noise(key, (samples, len(batch)), self.dtype, batch.x)}

    def code(self, params, state, batch):
        return {"z": self.encoder(params, batch.x)}

    def terms(self, params, state, batch, noise, step=None):
        q = self.encoder(params, batch.x)
        p = self.decoder(params, q.sample(noise["z"]))
        return Terms({"y": p.log_prob(batch.y[:, None].astype(self.dtype))}, [Penalty(self.beta * q.kl())])

    def predict(self, params, state, batch, noise):
        p = self.decoder(params, self.encoder(params, batch.x).sample(noise["z"]))
        rows = np.ones((len(batch), 1), self.dtype)
        return np.stack([np.exp(p.log_prob(rows * c)).mean(axis=0) for c in range(self.sizes["y"])], axis=1)


@declared("labels")
class LabelClassifier(Classifier, Machine, Ascent, Length, Objective, Presentation, LabelSettings):
    """A stochastic encoder and a classifier of its codes."""

    model = Labels


@settings.group("model")
class PairSettings(settings.Settings):
    latent: int = setting(default=4, help="number of latent variables", kind=Layers(several=False), kw_only=False)
    observation: Any = setting(default="auto", help="one family, or one for each view", kind=Families(several=True))
    hidden: tuple[Any, ...] = setting(default=(16,), help="flat, or one sequence for each view", kind=Widths(nested=True))


class Pair(Base):
    """One code that explains two views, and is inferred from the first."""

    Settings: ClassVar[Any] = PairSettings
    columns: ClassVar[dict[str, str]] = {"x": "matrix", "y": "matrix"}
    views: ClassVar[tuple[str, ...]] = ("x", "y")
    pure = True

    def build(self, settings):
        given = settings.observation if isinstance(settings.observation, tuple) else (settings.observation,) * 2
        nested = settings.hidden and isinstance(settings.hidden[0], tuple)
        widths = settings.hidden if nested else (settings.hidden,) * 2
        self.posterior = families.parse("diagonal", settings.latent)
        self.encoder = Conditional("encoder", self.sizes["x"], self.posterior, widths[0])
        self.decoders = {
            name: Conditional(f"decoder_{name}", settings.latent, families.parse(family, self.sizes[name]), width[::-1])
            for name, family, width in zip(self.views, given, widths, strict=True)
        }

    @property
    def codes(self):
        return {"z": self.posterior.n}

    def init(self, key):
        parts = (self.encoder, *self.decoders.values())
        return {n: v for i, part in enumerate(parts) for n, v in part.init(random.fold_in(key, i), self.dtype).items()}

    def noise(self, key, batch, samples=1):
        return {"z": self.posterior.noise(key, (samples, len(batch)), self.dtype, batch.x)}

    def code(self, params, state, batch):
        return {"z": self.encoder(params, batch.x)}

    def decode(self, params, state, z, noise=None):
        return {name: decoder(params, z["z"]) for name, decoder in self.decoders.items()}

    def sample_prior(self, params, key, n):
        return {"z": random.normal(key, (n, self.posterior.n), self.dtype)}

    def terms(self, params, state, batch, noise, step=None):
        q = self.encoder(params, batch.x)
        z = q.sample(noise["z"])
        views = self.decode(params, state, {"z": z})
        likelihood = {name: p.log_prob(getattr(batch, name)) for name, p in views.items()}
        return Terms(likelihood, [Layer(q, None, z, noise["z"])], views=views)


@declared("pair")
class PairVAE(Estimator, Machine, Ascent, Length, Objective, Presentation, PairSettings):
    """A VAE of two views."""

    model = Pair


@settings.group("model")
class TopicSettings(settings.Settings):
    latent: int = setting(default=4, help="number of latent variables", kind=Layers(several=False), kw_only=False)
    observation: Any = setting(default="poisson", help="family of p(x|z)", kind=Families())
    width: int = setting(default=16, help="of the encoder's hidden layer", kind=settings.Whole())


class Topics(Base):
    """Counts: an encoder whose first layer is a product with a CSR matrix, and a likelihood of the batch made dense."""

    Settings: ClassVar[Any] = TopicSettings
    columns: ClassVar[dict[str, str]] = {"x": "counts"}

    def build(self, settings):
        n = self.sizes["x"]
        self.posterior = families.parse("diagonal", settings.latent)
        self.first = MLP("first", (n, settings.width), "identity")
        self.encoder = Conditional("encoder", settings.width, self.posterior)
        self.decoder = Conditional("decoder", settings.latent, families.parse(settings.observation, n))

    @property
    def codes(self):
        return {"z": self.posterior.n}

    def init(self, key):
        parts = [self.first, self.encoder, self.decoder]
        return {n: v for i, part in enumerate(parts) for n, v in part.init(random.fold_in(key, i), self.dtype).items()}

    def noise(self, key, batch, samples=1):
        return {"z": self.posterior.noise(key, (samples, len(batch)), self.dtype)}

    def code(self, params, state, batch):
        h = ops.csr_matmul(batch.x, params["first.0.weight"]) + params["first.0.bias"]
        return {"z": self.encoder(params, ops.tanh(h))}

    def decode(self, params, state, z, noise=None):
        return {"x": self.decoder(params, z["z"])}

    def sample_prior(self, params, key, n):
        return {"z": random.normal(key, (n, self.posterior.n), self.dtype)}

    def terms(self, params, state, batch, noise, step=None):
        q = self.code(params, state, batch)["z"]
        z = q.sample(noise["z"])
        views = self.decode(params, state, {"z": z})
        return Terms({"x": views["x"].log_prob(batch.x.toarray())}, [Layer(q, None, z, noise["z"])], views=views)


@declared("topics")
class TopicModel(Estimator, Machine, Ascent, Length, Objective, TopicSettings):
    """A model of sparse counts."""

    model = Topics

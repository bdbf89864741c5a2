"""The model protocol: every legal (family, role, objective) trains, and models of other shapes need no change elsewhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nightly import crossed, thinned

from gvae import families, models, objectives, ops, random
from gvae.data import Table
from gvae.errors import ConfigError
from gvae.families import Bernoulli, Conditional, Diagonal, Gaussian, parse
from gvae.objectives import ELBO, ImportanceWeighted, Layer, Terms
from gvae.training import Trainer, train

N_LATENT, N_DATA = 6, 12
TEXT = {
    "band": "band:2",
    "grid": "grid:2x3",
    "extended_grid": "extended_grid:2x3",
    "lowrank": "lowrank:2",
    "shared": "shared:chain",
    "logit": "logit:chain",
}
OBSERVED = {"grid": "grid:3x4", "extended_grid": "extended_grid:3x4", "logit": "logit:shared:extended_grid:3x4"}


def binary(rows=200, seed=0):
    """Rows with structure: three prototypes and flips."""
    r = np.random.default_rng(seed)
    prototypes = r.integers(0, 2, size=(3, N_DATA))
    x = prototypes[r.integers(0, 3, rows)] ^ (r.uniform(size=(rows, N_DATA)) < 0.05)
    return x.astype(np.float64)


ROLES = ("posterior", "observation", "prior")
TURN = crossed(families.FAMILIES, objectives.OBJECTIVES, ROLES)


def takes_its_turn(family, role, objective):
    """Each family, and each objective, in every role: beside a family, three objectives that follow each other."""
    names = list(objectives.OBJECTIVES)
    first = min(list(families.FAMILIES).index(family) % len(names), len(names) - len(ROLES))
    return objective in names[first : first + len(ROLES)] and TURN(family, objective, role)


TRIPLES = thinned(itertools.product(families.FAMILIES, ROLES, objectives.OBJECTIVES), takes_its_turn)


NO_CLOSED_FORM = {
    ("posterior", "mixture"),
    ("prior", "mixture"),
    ("posterior", "negative_binomial"),
    ("prior", "negative_binomial"),
    ("posterior", "zero_inflated"),
    ("prior", "zero_inflated"),
    ("posterior", "autoregressive"),
    ("prior", "autoregressive"),
    ("posterior", "nade"),
    ("prior", "nade"),
    ("prior", "log_gamma"),  # real numbers, so that the posterior is Gaussian
    ("prior", "lowrank"),
    ("prior", "full"),
    ("posterior", "planar"),
}
WITHOUT_A_PATH = ("mixture", "bernoulli", "autoregressive", "nade", "categorical", "poisson", "negative_binomial")
WITHOUT_A_PATH += ("zero_inflated", "beta", "continuous_bernoulli")
NO_PATH = {(role, family) for role in ("posterior", "prior") for family in WITHOUT_A_PATH} | {("prior", "log_gamma")}
REFUSED = {("prior", "planar"), ("observation", "planar")}  # known for their own draws alone


@pytest.mark.parametrize(("family", "role", "objective"), TRIPLES)
def test_every_family_in_every_role_trains_under_every_objective(family, role, objective):
    """Registered names come from the registries themselves, so a new one is trained here from its first day. Each pair of
    names is; each triple is with --nightly."""
    text = {"posterior": TEXT, "prior": TEXT, "observation": TEXT | OBSERVED}[role].get(family, family)
    settings = {"posterior": "diagonal", "observation": "bernoulli", "prior": None} | {role: text}
    if (role, family) in REFUSED:
        with pytest.raises(ConfigError, match=f"{role} is {family}.*known for its own draws alone"):
            models.VAE(N_DATA, N_LATENT, **settings)
        return
    support = families.parse(text, N_LATENT if role != "observation" else N_DATA).support
    if role == "prior" and support != families.Diagonal(1).support:
        settings["posterior"] = text  # a prior of counts belongs to codes that count
    x = binary()
    if role == "observation" and support.open:
        x = 0.1 + 0.8 * x
    model = models.VAE(N_DATA, N_LATENT, hidden=(16,), dtype=np.float64, **settings)
    assert (role, family) not in NO_CLOSED_FORM or not model.has_closed_kl
    if objective == "elbo_b" and not model.has_closed_kl:
        with pytest.raises(ValueError, match="has no closed form"):
            train(model, Table(x), steps=1, objective=objectives.parse(objective))
        return
    if objective == "info" and ((role, family) in NO_PATH or not model.posterior.reparameterized):
        with pytest.raises(ConfigError, match=r"^info: draws of .* are not differentiable"):
            train(model, Table(x), steps=1, objective=objectives.parse(objective))
        return
    if objective == "wake_sleep" and (role, family) == ("posterior", "planar"):
        with pytest.raises(ConfigError, match="known only for draws from it, but wake_sleep"):
            train(model, Table(x), steps=1, objective=objectives.parse(objective))
        return
    trainer = Trainer(model, objective=objectives.parse(objective), samples=2, learning_rate=5e-3, seed=3)
    table = Table(x)
    before = trainer.validate(table)["bound"]
    train(model, table, steps=60, batch_size=50, trainer=trainer)
    after = trainer.validate(table)["bound"]
    # the sleep phase of a walk, which contains no independent distribution, follows the model slowly
    least = 0 if objective == "wake_sleep" and family == "random_walk" else 1
    assert after > before + least, (before, after)


def test_a_prior_is_sampled_and_reports_its_estimator():
    for prior, closed in ((None, True), ("random_walk", True), ("ar1", True), ("chain", True), ("mixture:3", False)):
        model = models.VAE(N_DATA, 4, "chain", prior=prior, hidden=(8,))
        assert model.has_closed_kl is closed
        params = model.init(random.key(0))
        (z,) = (drawn := model.sample_prior(params, random.key(1), 20_000)).values()
        assert list(drawn) == list(model.codes)
        assert (z.shape, z.dtype) == ((20_000, 4), np.float32)
        p = Diagonal(4)(np.zeros(8)) if prior is None else model.prior(params["prior.raw"])
        np.testing.assert_allclose(np.cov(z.T), p.covariance(), atol=0.12)  # variances up to 4: error 0.04


# ---- toys: models of another shape than the VAE, each a short file's worth


class TwoLayers:
    """z2 -> z1 -> x with q(z1|x) a chain and q(z2|z1) diagonal: a second stochastic layer."""

    def __init__(self):
        self.q1 = Conditional("encoder1", N_DATA, parse("chain", 4), (16,))
        self.q2 = Conditional("encoder2", 4, Diagonal(2), (8,))
        self.p1 = Conditional("decoder1", 2, Diagonal(4), (8,))
        self.px = Conditional("decoder0", 4, Bernoulli(N_DATA), (16,))

    def init(self, key):
        parts = (self.q1, self.q2, self.p1, self.px)
        return {k: v for i, p in enumerate(parts) for k, v in p.init(random.fold_in(key, i), np.float64).items()}

    def noise(self, key, batch, samples=1):
        draw = {"z1": self.q1, "z2": self.q2}
        return {
            name: q.family.noise(random.fold_in(key, i), (samples, len(batch)), np.float64)
            for i, (name, q) in enumerate(draw.items())
        }

    def terms(self, params, state, batch, noise, step=0):
        q1 = self.q1(params, batch.x)
        z1 = q1.sample(noise["z1"])
        q2 = self.q2(params, z1)
        z2 = q2.sample(noise["z2"])
        layers = [Layer(q1, self.p1(params, z2), z1, noise["z1"], coupled=True), Layer(q2, None, z2, noise["z2"])]
        return Terms({"x": self.px(params, z1).log_prob(batch.x)}, layers)


class TwoViews:
    """One code behind two views, inferred from the first: x binary, y counts in CSR reduced to real features."""

    def __init__(self):
        self.q = Conditional("encoder", N_DATA, Diagonal(3), (16,))
        self.px = Conditional("decoder_x", 3, Bernoulli(N_DATA), (16,))
        self.py = Conditional("decoder_y", 3, Gaussian(5), (16,))

    def init(self, key):
        parts = (self.q, self.px, self.py)
        return {k: v for i, p in enumerate(parts) for k, v in p.init(random.fold_in(key, i), np.float64).items()}

    def noise(self, key, batch, samples=1):
        return {"z": self.q.family.noise(key, (samples, len(batch)), np.float64)}

    def terms(self, params, state, batch, noise, step=0):
        q = self.q(params, batch.x)
        z = q.sample(noise["z"])
        views = {"x": self.px(params, z).log_prob(batch.x), "y": self.py(params, z).log_prob(batch.y)}
        return Terms(views, [Layer(q, None, z, noise["z"])])


class BinaryCodes:
    """A layer of Bernoulli units: the objective finds that it is not reparameterized and uses the score function."""

    def __init__(self):
        self.q = Conditional("encoder", N_DATA, Bernoulli(4), (16,))
        self.px = Conditional("decoder", 4, Bernoulli(N_DATA), (16,))

    def init(self, key):
        return self.q.init(random.fold_in(key, 0), np.float64) | self.px.init(random.fold_in(key, 1), np.float64)

    def noise(self, key, batch, samples=1):
        return {"z": self.q.family.noise(key, (samples, len(batch)), np.float64)}

    def terms(self, params, state, batch, noise, step=0):
        q = self.q(params, batch.x)
        z = q.sample(noise["z"])
        return Terms({"x": self.px(params, z).log_prob(batch.x)}, [Layer(q, None, z, noise["z"])])


class PerDatum:
    """No encoder: each row has a posterior mean and log-scale of its own, beside a decoder that all rows share."""

    def __init__(self):
        self.px = Conditional("decoder", 3, Bernoulli(N_DATA), (16,))

    def init(self, key):
        return self.px.init(key, np.float64)

    def init_rows(self, key, n_rows):
        return {"posterior": np.zeros((n_rows, 6))}

    def noise(self, key, batch, samples=1):
        return {"z": random.normal(key, (samples, len(batch), 3), np.float64)}

    def terms(self, params, state, batch, noise, step=0):
        q = Diagonal(3)(params["posterior"])
        z = q.sample(noise["z"])
        return Terms({"x": self.px(params, z).log_prob(batch.x)}, [Layer(q, None, z, noise["z"])])


class Counting(BinaryCodes):
    """A model with state: it counts its steps and keeps a running mean of the data."""

    def init_state(self, key):
        return {"count": np.zeros(1), "mean": np.zeros(N_DATA)}

    def terms(self, params, state, batch, noise, step=0):
        terms = super().terms(params, state, batch, noise, step)
        terms.state = {"count": state["count"] + 1, "mean": 0.9 * state["mean"] + 0.1 * batch.x.mean(axis=0)}
        return terms


def views():
    x = binary(seed=2)
    return {"x": x, "y": x @ np.random.default_rng(9).normal(size=(N_DATA, 5)) * 0.3}


@pytest.mark.parametrize("objective", [ELBO(), ELBO("A"), ImportanceWeighted()], ids=str)
@pytest.mark.parametrize("toy", [TwoLayers, TwoViews, BinaryCodes, PerDatum, Counting])
def test_other_models_need_no_change_elsewhere(toy, objective):
    columns = views() if toy is TwoViews else {"x": binary(seed=2)}
    table = Table(columns.pop("x"), **columns)
    model = toy()
    trainer = Trainer(model, objective=objective, samples=3, learning_rate=1e-2, seed=1, n_rows=len(table))
    before = trainer.validate(table)["bound"]
    train(model, table, epochs=30, batch_size=50, trainer=trainer)
    after = trainer.validate(table)["bound"]
    assert after > before + 1.5, (before, after)
    if toy is Counting:
        assert trainer.state["count"] == 120  # validation took no part
        np.testing.assert_allclose(trainer.state["mean"], columns.get("x", binary(seed=2)).mean(axis=0), atol=0.1)


def test_only_the_batchs_rows_move():
    model, table = PerDatum(), Table(binary(seed=2))
    trainer = Trainer(model, samples=1, learning_rate=1e-2, n_rows=len(table))
    index = np.array([7, 3, 90])
    trainer.step(table.batch(index, random.key(0)))
    rows = trainer.rows["posterior"]
    moved = np.flatnonzero(np.abs(rows.values).sum(axis=1))
    np.testing.assert_array_equal(moved, np.sort(index))
    np.testing.assert_array_equal(np.flatnonzero(rows.steps), np.sort(index))


def test_groups_may_ascend_different_objectives():
    """The decoder ascends the bound, the encoder descends it: each group follows its own scalar."""

    def opposed(terms, step=0, weight=None):
        value, metrics = ELBO()(terms, step, weight)
        return {"decoder": value, "encoder": -value}, metrics

    model, table = models.VAE(N_DATA, 3, "diagonal", hidden=(8,), dtype=np.float64), Table(binary())
    one, two = Trainer(model, seed=5), Trainer(model, objective=opposed, seed=5)
    batch = table.batch(np.arange(20), random.key(0))
    start = one.parameters.flat.copy()
    one.step(batch)
    two.step(batch)
    encoder, decoder = one.parameters.groups["encoder"], one.parameters.groups["decoder"]
    np.testing.assert_array_equal(one.parameters.flat[decoder], two.parameters.flat[decoder])
    moved = np.abs(one.gradient.flat[encoder]) > 1e-7
    first, second = (t.parameters.flat[encoder] - start[encoder] for t in (one, two))
    np.testing.assert_allclose(first[moved], -second[moved], rtol=1e-6)
    assert moved.any()


def test_counts_in_csr():
    """A dense view and a CSR one: the encoder reads sparse rows, the decoder emits a Poisson rate of its own."""
    import scipy.sparse

    counts = scipy.sparse.csr_array(np.random.default_rng(0).poisson(0.5, size=(100, 30)))

    class Counts:
        def __init__(self):
            self.q = Conditional("encoder", 30, Diagonal(2), (8,))
            self.network = Conditional("decoder", 2, Bernoulli(30), (8,)).network

        def init(self, key):
            return self.q.init(random.fold_in(key, 0), np.float64) | self.network.init(random.fold_in(key, 1), np.float64)

        def noise(self, key, batch, samples=1):
            return {"z": random.normal(key, (samples, len(batch), 2), np.float64)}

        def terms(self, params, state, batch, noise, step=0):
            q = self.q(params, batch.x)
            z = q.sample(noise["z"])
            log_rate = self.network(params, z)
            dense = batch.x.toarray().astype(np.float64)
            log_p = ops.sum(dense * log_rate - ops.exp(log_rate), axis=-1)
            return Terms({"x": log_p}, [Layer(q, None, z, noise["z"])])

    model = Counts()
    trainer = Trainer(model, learning_rate=1e-2)
    before = trainer.validate(Table(counts))["bound"]
    train(model, Table(counts), epochs=10, batch_size=20, trainer=trainer)
    assert trainer.validate(Table(counts))["bound"] > before + 1

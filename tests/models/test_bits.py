"""Models whose codes are bits, by enumeration: probabilities, bounds, and the mean of every estimator of a gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nightly import thinned
from run_cases import kept_and_captured
from scipy import special

import gvae
from gvae import costs, models, objectives, random, training
from gvae.autodiff import value_and_gradient
from gvae.data import Batch, Table
from gvae.errors import ConfigError, DataError
from gvae.objectives import ELBO, ImportanceWeighted

D, LATENT = 3, (2, 1)
X = np.array([[1.0, 0.0, 1.0]])
BATCH = Batch({"x": X}, np.arange(1))
ONE, ZERO = 1e-12, 1 - 1e-12  # noise that leads to these draws


def bits(n):
    return np.array(list(itertools.product((0.0, 1.0), repeat=n)))


def noise_of(h, latent):
    """The noise (K, 1, n) of each layer that leads to the rows of h."""
    parts = np.split(np.where(h > 0, ONE, ZERO), np.cumsum(latent)[:-1], axis=-1)
    return {f"z{i + 1}": part[..., None, :] for i, part in enumerate(parts)}


def sizes(model):
    return tuple(family.n for family in model.posteriors)


def made(cls=models.SBN, latent=LATENT, seed=0, **settings):
    """(model, parameters far from their start)"""
    model = cls(D, latent=latent, dtype=np.float64, **settings)
    params = model.init(random.key(seed))
    rng = np.random.default_rng(seed)
    return model, {name: value + 0.7 * rng.normal(size=value.shape) for name, value in params.items()}


def parts(model, params, x=X):
    """(log q(h|x), log p(x|h), log p(h)) of every h, (2^n, B)."""
    latent = sizes(model)
    batch = Batch({"x": x}, np.arange(len(x)))
    noise = {n: np.repeat(v, len(x), axis=1) for n, v in noise_of(bits(sum(latent)), latent).items()}
    terms = model.terms(params, {}, batch, noise)
    return sum(layer.log_q for layer in terms.layers), terms.total_log_likelihood, sum(layer.log_p for layer in terms.layers)


def enumerated(model, params, x=X):
    """(log q(h|x), log p(x, h)) of every h, (2^n, B)."""
    log_q, likelihood, prior = parts(model, params, x)
    return log_q, likelihood + prior


MADE = {
    "sbn": (models.SBN, {}),
    "darn": (models.DARN, {}),
    "darn, autoregressive encoder": (models.DARN, {"posterior": "autoregressive:taylor"}),
    "darn, deterministic layers": (models.DARN, {"hidden": (4,)}),
    "darn, nade": (models.DARN, {"observation": "nade:3", "between": "nade:2", "output_bias": "zero"}),
}


# ---- probabilities and bounds


@pytest.mark.parametrize("name", MADE)
def test_the_joint_distribution_adds_up_to_one(name):
    cls, settings = MADE[name]
    model, params = made(cls, **settings)
    _, log_p = enumerated(model, params, bits(D))
    assert np.exp(log_p).sum() == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_below_the_evidence_and_evaluation_finds_it(name, seed):
    cls, settings = MADE[name]
    model, params = made(cls, seed=seed, **settings)
    log_q, log_p = enumerated(model, params)
    q = np.exp(log_q)
    assert q.sum() == pytest.approx(1, rel=1e-10)
    evidence, elbo = np.log(np.exp(log_p).sum()), (q * (log_p - log_q)).sum()
    assert elbo < evidence
    subject = gvae.evaluation.Subject(model, params, Table(X))
    found = gvae.evaluation.importance_sampling(subject, samples=20_000)
    assert found.log_likelihood[0] == pytest.approx(evidence, abs=0.05)
    assert found.elbo[0] == pytest.approx(elbo, abs=0.05)


def test_a_darn_without_links_is_a_sigmoid_belief_network():
    sbn, params = made(models.SBN)
    darn, own = made(models.DARN, posterior="bernoulli")
    mapped = {name: np.zeros_like(value) for name, value in own.items()}
    for name, value in params.items():
        mapped[name][: value.size if value.ndim == 1 else None] = value
    for ours, theirs in zip(enumerated(darn, mapped), enumerated(sbn, params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_silent_upper_layer_leaves_one_layer():
    """The layer above emits the biases of the prior alone, and q of it is its prior: all terms of one layer, plus zero."""
    one, params = made(models.DARN, latent=(2,))
    two, own = made(models.DARN, latent=(2, 1))
    own |= {name: value for name, value in params.items() if name.startswith(("encoder1", "decoder0"))}
    own["decoder1.0.weight"][:] = 0
    own["decoder1.0.bias"][:] = params["prior.raw"][:2]
    own["decoder1.shared"][:] = params["prior.raw"][2:]
    own["encoder2.0.weight"][:] = 0
    own["encoder2.0.bias"][:] = own["prior.raw"]
    q, p = enumerated(one, params)
    q2, p2 = enumerated(two, own)
    np.testing.assert_allclose(np.repeat(p - q, 2, axis=0), p2 - q2, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.exp(q2).reshape(4, 2, -1).sum(axis=1), np.exp(q), rtol=1e-12)


def test_an_autoregressive_posterior_of_two_bits_is_exact():
    """With biases and a weight of each row's own, q is p(h|x): the bound is log p(x)."""
    model, params = made(models.DARN, latent=(2,))
    x = bits(D)
    _, log_p = enumerated(model, params, x)  # of h = 00, 01, 10, 11, and each x
    log_odds = special.logsumexp(log_p[2:], axis=0) - special.logsumexp(log_p[:2], axis=0)
    given_0, given_1 = log_p[1] - log_p[0], log_p[3] - log_p[2]
    weight = np.zeros((len(x), 2, 2))
    weight[:, 0, 1] = given_1 - given_0
    q = gvae.distributions.AutoregressiveBernoulli(np.stack([log_odds, given_0], axis=1), weight)
    log_q = q.log_prob(np.repeat(bits(2)[:, None], len(x), axis=1))
    evidence = special.logsumexp(log_p, axis=0)
    np.testing.assert_allclose((np.exp(log_q) * (log_p - log_q)).sum(axis=0), evidence, rtol=1e-12)
    np.testing.assert_allclose(log_p - log_q, np.broadcast_to(evidence, log_q.shape), rtol=1e-10)


def test_conditionals_that_there_are_not_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"unknown family 'eonade:5'; known are .*nade"):
        gvae.DARN(3, observation="eonade:5", epochs=1).fit(BITS)


# ---- estimators of gradients, their mean by enumeration


def exact(model, params, bound):
    """The gradient of sum over K draws of prod q(h_k) bound(log w_1 .. log w_K)."""

    return value_and_gradient(lambda params: bound(*parts(model, params)), params)[1]


def of_one(log_q, likelihood, prior, beta=1.0):
    return (gvae.ops.exp(log_q) * (likelihood + beta * (prior - log_q))).sum()


def of_half(*terms):
    """With half of the KL."""
    return of_one(*terms, beta=0.5)


def of_two(log_q, likelihood, prior):
    """IWAE's bound of two draws."""
    q, w = gvae.ops.exp(log_q), gvae.ops.exp(likelihood + prior - log_q)
    pairs = gvae.ops.log(0.5 * (w[:, None] + w[None]))
    return (q[:, None] * q[None] * pairs).sum()


def tuples(model, params, K):
    """(probability, noise) of every tuple of K independent draws."""
    log_q, _ = enumerated(model, params)
    q, h = np.exp(log_q)[:, 0], bits(sum(sizes(model)))
    for chosen in itertools.product(range(len(h)), repeat=K):
        yield np.prod(q[list(chosen)]), noise_of(h[list(chosen)], sizes(model))


def cells(p):
    """(probability, u, 1 - u) of the cells of a pair of draws of bits: (1, 0), (0, 1), and both alike."""
    for kinds in itertools.product(range(3), repeat=len(p)):
        rare = np.minimum(p, 1 - p)
        probability = np.prod(np.select([np.equal(kinds, k) for k in range(3)], [rare, rare, 1 - 2 * rare]))
        u = np.select(
            [np.equal(kinds, k) for k in range(3)], [np.full_like(p, ONE), np.full_like(p, ZERO), 0.5 * np.ones_like(p)]
        )
        yield probability, u, 1 - u


def pairs(model, params, K):
    """(probability, noise) of two pairs: u and 1 - u in the first layer, and in the second; the same in the other."""
    assert K == 4

    def p_of(layer, below):
        return special.expit(model.encoders[layer](params, below).logits)

    def same(p):
        """The cells of one number for each bit, between the probabilities p (several, n)."""
        edges = [np.unique([0, *column, 1]) for column in np.transpose(p)]
        for chosen in itertools.product(*(itertools.pairwise(e) for e in edges)):
            yield np.prod([b - a for a, b in chosen]), np.array([(a + b) / 2 for a, b in chosen])

    p1, first, second = p_of(0, X[0]), [], []
    for w, u, v in cells(p1):
        above = [p_of(1, (n < p1).astype(float)) for n in (u, v)]
        first += [(w * wa, (u, v), (a, a)) for wa, a in same(above)]
    for w, u in same([p1]):
        second += [(w * wa, (u, u), (a, b)) for wa, a, b in cells(p_of(1, (u < p1).astype(float)))]
    for (wa, a1, a2), (wb, b1, b2) in itertools.product(first, second):
        yield wa * wb, {"z1": np.array([*a1, *b1])[:, None], "z2": np.array([*a2, *b2])[:, None]}


def estimates(model, params, objective, listed):
    """(mean, variance) of the gradient that training takes, over all listed draws, by parameter."""
    total = {name: np.zeros((2, *value.shape)) for name, value in params.items()}
    for probability, noise in listed:

        def value(params, noise=noise):
            return objective(model.terms(params, {}, BATCH, noise, 0))[0]

        for name, slope in gradient_by_group(model, value, params).items():
            total[name] += probability * np.stack([slope, slope**2])
    return {name: (mean, square - mean**2) for name, (mean, square) in total.items()}


def mean_of_estimates(model, params, objective, K):
    """The mean over all K-tuples of draws of the gradient that training takes."""
    return {name: mean for name, (mean, _) in estimates(model, params, objective, tuples(model, params, K)).items()}


def gradient_by_group(model, value, params):
    """As training takes it, where an objective has values by groups of parameters."""
    found = {}
    parts = value(params)
    if not isinstance(parts, dict):
        return value_and_gradient(value, params)[1]
    for group in parts:
        slopes = value_and_gradient(lambda p, group=group: value(p)[group], params)[1]
        for name, slope in slopes.items():
            own = name.split(".")[0]
            if own == group or (group == objectives.REST and own not in parts):
                found[name] = slope
    return found


ESTIMATORS = {  # name: objective, K, its bound, the draws
    "score function, K = 1": (ELBO(), 1, of_one, tuples),
    "score function, K = 2": (ELBO(), 2, of_one, tuples),
    "local, K = 1": (ELBO(gradient="local"), 1, of_one, tuples),
    "local, K = 2": (ELBO(gradient="local"), 2, of_one, tuples),
    "local, beta": (ELBO(gradient="local", cost=costs.Beta(0.5)), 2, of_half, tuples),
    "local, estimator A": (ELBO("A", gradient="local"), 2, of_one, tuples),
    "disarm": (ELBO(gradient="disarm"), 4, of_one, pairs),
    "disarm, beta": (ELBO(gradient="disarm", cost=costs.Beta(0.5)), 4, of_half, pairs),
    "iwae, score function": (ImportanceWeighted(), 2, of_two, tuples),
    "vimco": (ImportanceWeighted(gradient="vimco"), 2, of_two, tuples),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_are_unbiased(name):
    objective, K, bound, listed = ESTIMATORS[name]
    model, params = made()
    found, wanted = estimates(model, params, objective, listed(model, params, K)), exact(model, params, bound)
    for name, slope in wanted.items():
        np.testing.assert_allclose(found[name][0], slope, rtol=1e-8, atol=1e-10, err_msg=name)


CODES = {  # kinds of q and p: independent units, and units one after the other
    "darn, factorial encoder": (models.DARN, {"posterior": "bernoulli"}),
    "darn, autoregressive encoder": (models.DARN, {"posterior": "autoregressive"}),
    "sbn, autoregressive encoder": (models.SBN, {"posterior": "autoregressive"}),
    "sbn, learned baseline": (models.SBN, {"baseline": (2,)}),
    "three bits under an autoregressive prior": (models.DARN, {"posterior": "bernoulli", "latent": (3,)}),
    "three bits after each other": (models.DARN, {"posterior": "autoregressive", "latent": (3,)}),
    "three bits after each other, factorial prior": (models.SBN, {"posterior": "autoregressive", "latent": (3,)}),
}


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("gradient", ["reparameterized", "local"])
def test_local_signals_and_baselines_are_unbiased_for_any_codes(name, K, gradient):
    cls, settings = CODES[name]
    model, params = made(cls, **settings)
    objective = ELBO(gradient=gradient)
    found, wanted = estimates(model, params, objective, tuples(model, params, K)), exact(model, params, of_one)
    for name, slope in wanted.items():
        if not name.startswith("baseline"):
            np.testing.assert_allclose(found[name][0], slope, rtol=1e-8, atol=1e-10, err_msg=name)


def variance(model, params, objective, K, listed=tuples):
    """Of the encoders' gradient, summed over its entries."""
    found = estimates(model, params, objective, listed(model, params, K))
    return sum(v.sum() for name, (_, v) in found.items() if name.startswith("encoder"))


def test_variances_of_the_estimators():
    """By enumeration: each step away from the plain score function takes some of its variance off."""
    model, params = made()
    plain, two = (variance(model, params, ELBO(), K) for K in (1, 2))
    assert two < 0.5 * plain
    assert variance(model, params, ELBO(gradient="local"), 1) < 0.8 * plain
    assert variance(model, params, ELBO(gradient="local"), 2) < two
    assert variance(model, params, ELBO(gradient="disarm"), 4, pairs) < 0.8 * two  # each layer has one pair
    learned, own = made(baseline=(2,))
    own = params | {name: 0 * value for name, value in own.items() if name.startswith("baseline")}
    assert variance(learned, own, ELBO(), 1) == pytest.approx(plain, rel=1e-12)
    for i in (1, 2):
        own[f"baseline.{i}.1.bias"] = np.array([of_one(*parts(model, params))])  # the mean of the signal
    assert variance(learned, own, ELBO(), 1) < 0.5 * plain


@pytest.mark.parametrize("many", thinned([100_000, 1_000_000], lambda many: many == 100_000))
@pytest.mark.parametrize("name", [name for name in ESTIMATORS if "beta" not in name and name != "local, estimator A"])
def test_draws_have_the_mean_and_the_variance_of_the_enumeration(name, many):
    """Each entry of the mean gradient is within four standard errors of the exact one (of a fixed seed)."""
    objective, K, bound, listed = ESTIMATORS[name]
    model, params = made()
    rows = many // K
    batch = Batch({"x": np.repeat(X, rows, axis=0)}, np.arange(rows))
    trainer = training.Trainer(model, objective=objective, samples=K, parameters=params)
    noise = trainer.noise(random.key(11), batch)

    def value(params):
        return objective(model.terms(params, {}, batch, noise, 0))[0]

    found, wanted = gradient_by_group(model, value, params), exact(model, params, bound)
    each = estimates(model, params, objective, listed(model, params, K))
    for name, slope in wanted.items():
        error = np.sqrt(each[name][1] / rows)
        assert np.all(np.abs(found[name] - slope) <= 4 * error + 1e-9), name


@pytest.mark.parametrize("K", [1, 2])
def test_without_blankets_local_signals_are_the_score_function(K, caplog):
    """The same bits; and training says once which layers have none."""

    class Bare(models.SBN):
        pure = True

        def terms(self, *given):
            terms = super().terms(*given)
            for layer in terms.layers:
                layer.blanket = None
            return terms

    found = []
    for gradient in ("reparameterized", "local"):
        model = Bare(12, latent=(4, 3))
        trainer, history = training.train(
            model, Table(BITS), steps=7, batch_size=20, objective=ELBO(gradient=gradient), samples=K, seed=1
        )
        found.append(trainer.parameters.flat.copy())
    np.testing.assert_array_equal(*found)
    events = [{"event": "no blanket", "layer": "z1"}, {"event": "no blanket", "layer": "z2"}]
    assert history.events == events
    assert [record.getMessage() for record in caplog.records if "blanket" in record.getMessage()] == [
        f"training: {event}" for event in events
    ]


def test_a_learned_baseline_learns_what_the_signals_are():
    """It ascends with a rate of its own, and the steps are captured; elsewhere it is refused."""
    found = {}
    for rate in (0.0, 20.0):
        model = gvae.SBN((4, 3), baseline=(8,), rates=f"baseline={rate}", epochs=30, batch_size=20, random_state=1).fit(BITS)
        noise = model.model_.noise(random.key(3), batch := Table(BITS).batch(np.arange(60), random.key(0)), 50)
        terms = model.model_.terms(model.parameters_, {}, batch, noise, 0)
        f = terms.log_weights.mean(axis=0)
        f = f - f.mean()
        found[rate] = [np.square(f - layer.baseline).mean() / np.square(f).mean() for layer in terms.layers[:1]]
    assert max(found[20.0]) < 0.8 < 0.99 < min(found[0.0])
    with pytest.raises(ConfigError, match="a learned baseline is for the elbo"):
        gvae.SBN((4, 3), baseline=(8,), objective="iwae", samples=2, epochs=1).fit(BITS)
    with pytest.raises(ConfigError, match="baseline: it is for draws that are not differentiable"):
        gvae.DARN(4, baseline=(8,), epochs=1).fit(BITS)
    with pytest.raises(ConfigError, match="rates names the parameter group 'critic'; known are"):
        gvae.SBN((4, 3), rates="critic=2", epochs=1).fit(BITS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 3}, r"samples is 3, expected a multiple of 4: pairs for each of 2 layers"),
        ({"samples": 4, "posterior": "autoregressive"}, r"independent bits; got AutoregressiveBernoulli"),
        (
            {"samples": 4, "posterior": "bernoulli:taylor"},
            "draws without a derivative; those of a BernoulliDistribution have one",
        ),
        ({"samples": 4, "objective": "iwae"}, "gradient 'disarm' is for the ELBO only"),
        ({"samples": 4, "baseline": (3,)}, "takes no learned baseline"),
    ],
)
def test_pairs_are_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        gvae.SBN(**{"latent": (4, 3), "gradient": "disarm", "epochs": 1} | settings).fit(BITS)


def test_pairs_of_a_model_without_codes():
    with pytest.raises(ConfigError, match="the model has no codes"):
        gvae.AutoregressiveDensity(gradient="disarm", samples=2, epochs=1).fit(BITS)


def test_pairs_share_what_else_a_model_draws():
    model = gvae.DenoisingVAE(3, "bernoulli", gradient="disarm", samples=2, epochs=1, random_state=0).fit(BITS)
    trainer = training.Trainer(model.model_, objective=ELBO(gradient="disarm"), samples=2)
    noise = trainer.noise(random.key(0), Table(BITS).batch(np.arange(5), random.key(1)))
    np.testing.assert_array_equal(noise["z"][1], 1 - noise["z"][0])
    np.testing.assert_array_equal(noise["corruption"][1], noise["corruption"][0])


def test_taylors_rule_is_exact_where_the_bound_is_quadratic_and_close_elsewhere():
    """One factorial layer under a factorial prior, with a linear decoder of real numbers: the bound is quadratic in h. Two
    layers of bits: not exact, but within a fifth of the gradient of the encoders."""
    given = {"latent": (3,), "prior": "bernoulli", "observation": "gaussian", "output_bias": "zero"}
    wanted = exact(*made(**given), of_one)
    model, params = made(**given, posterior="bernoulli:taylor")
    found = mean_of_estimates(model, params, ELBO(), 1)
    for name, slope in wanted.items():
        np.testing.assert_allclose(found[name], slope, rtol=1e-8, atol=1e-10, err_msg=name)
    wanted = exact(*made(), of_one)
    model, params = made(posterior="bernoulli:taylor")
    found = mean_of_estimates(model, params, ELBO(), 1)
    off = {name: np.abs(found[name] - slope).max() / np.abs(slope).max() for name, slope in wanted.items()}
    assert max(value for name, value in off.items() if name.startswith("decoder")) < 1e-8
    assert 1e-4 < max(off.values()) < 0.2


# ---- use


BITS = (np.random.default_rng(3).random((60, 12)) < np.linspace(0.1, 0.9, 12)).astype(np.float32)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (gvae.SBN, {"latent": (4, 3)}),
        (gvae.SBN, {"latent": (4, 3), "gradient": "local"}),
        (gvae.SBN, {"latent": (4,), "gradient": "local", "baseline": (5,)}),
        (gvae.VAE, {"latent": 3, "posterior": "bernoulli", "gradient": "local", "observation": "bernoulli"}),
        (gvae.VAE, {"latent": 3, "posterior": "poisson", "gradient": "local", "objective": "elbo:beta=0.5"}),
        (gvae.SBN, {"latent": (4, 3), "gradient": "disarm", "samples": 4}),
        (gvae.SBN, {"latent": (4, 3), "gradient": "local", "baseline": (5,)}),
        (gvae.SBN, {"latent": (4, 3), "objective": "iwae", "gradient": "vimco", "samples": 3}),
        (gvae.DARN, {"latent": 4}),
        (gvae.DARN, {"latent": (4, 3), "posterior": "autoregressive:taylor", "between": "nade:3", "hidden": (5,)}),
        (gvae.DARN, {"latent": 4, "observation": "nade:3", "output_bias": "zero"}),
    ],
)
def test_use(cls, settings, tmp_path):
    """Trained, saved, loaded; steps of discrete codes are captured, and their launches have the bits of Python."""
    model = cls(**settings, epochs=3, batch_size=20, random_state=1).fit(BITS, validation=BITS[:10])
    assert model.history_[-1]["validation_bound"] > model.history_[0]["validation_bound"]
    kept_and_captured(model, BITS, tmp_path / "model")
    assert set(model.sample(5, draw=True).ravel().tolist()) <= {0.0, 1.0}
    shown = model.reconstruct(BITS[:4])
    assert np.all((shown > 0) & (shown < 1))
    summary = model.evaluate(BITS[:10], samples=5, measures=["units"]).summary()
    assert np.isfinite(summary["units"]["layers"][0]["kl"]).all()


@pytest.mark.parametrize(
    "posterior", ["bernoulli", "categorical:3", "poisson", "negative_binomial", "zero_inflated:poisson"]
)
def test_steps_of_any_discrete_codes_are_captured(posterior, tmp_path):
    settings = {"epochs": 2, "batch_size": 20, "samples": 2, "random_state": 1, "observation": "bernoulli"}
    kept_and_captured(gvae.VAE(3, posterior, **settings).fit(BITS), BITS, tmp_path / "model")


def test_a_surrogate_path_suits_some_gradients():
    model, batch = models.SBN(12, latent=(3,), posterior="bernoulli:taylor"), Table(BITS)
    for gradient in ("reparameterized", "stl", "vimco", "rws"):
        trainer = training.Trainer(model, objective=ImportanceWeighted(gradient=gradient), samples=2, seed=1)
        training.train(model, batch, steps=2, batch_size=20, trainer=trainer)
    for gradient in ("dreg", "rws_dreg"):
        trainer = training.Trainer(model, objective=ImportanceWeighted(gradient=gradient), samples=2, seed=1)
        with pytest.raises(ConfigError, match="draws from a BernoulliDistribution have only a surrogate derivative"):
            training.train(model, batch, steps=1, batch_size=20, trainer=trainer)


def test_grey_levels_are_refused_by_conditionals_of_bits():
    grey = np.random.default_rng(0).random((30, 6)).astype(np.float32)
    with pytest.raises(DataError, match=r"X: values outside 0, 1: 180 in all, the first, .* at row 0, column 0"):
        gvae.DARN(latent=3, epochs=1).fit(grey)
    model = gvae.DARN(latent=3, epochs=1, binarize="dynamic", random_state=1).fit(grey)
    assert np.isfinite(model.score(grey))


# ---- a density without a code


@pytest.mark.parametrize("observation", ["autoregressive", "nade:4", "bernoulli"])
def test_a_density_without_a_code(observation, tmp_path):
    """Its score is exact, whatever the number of samples; it learns, is saved, and its steps are captured."""
    rng = np.random.default_rng(0)
    first = (rng.random((300, 1)) < 0.5).astype(np.float32)
    x = np.concatenate([first, 1 - first, (rng.random((300, 3)) < 0.2).astype(np.float32)], axis=1)
    model = gvae.AutoregressiveDensity(observation, epochs=100, batch_size=50, learning_rate=2e-2, random_state=1).fit(x)
    kept_and_captured(model, x, tmp_path / "model")
    found = model.score_samples(x, samples=1)
    np.testing.assert_array_equal(found, model.score_samples(x, samples=7))
    np.testing.assert_allclose(np.exp(model.score_samples(bits(5).astype(np.float32))).sum(), 1, rtol=1e-5)
    entropy = np.log(2) + 3 * 0.5004  # of the truth: the second column follows from the first
    assert (found.mean() > -entropy - 0.05) == (observation != "bernoulli")
    drawn = model.sample(2000, draw=True)
    assert ((drawn[:, 0] + drawn[:, 1] == 1).mean() > 0.95) == (observation != "bernoulli")
    summary = model.evaluate(x[:50], samples=3).summary()
    assert summary["elbo"] == pytest.approx(summary["log_likelihood"], rel=1e-6)
    for use in (model.transform, model.reconstruct, model.posterior_of):
        with pytest.raises(
            ConfigError, match="AutoregressiveDensity: the model has no codes: there is nothing to transform"
        ):
            use(x)


@pytest.mark.parametrize("cls", [gvae.AutoregressiveDensity, gvae.EoNADE])
def test_measures_of_codes_of_a_model_without_any(cls):
    model = cls(epochs=1, random_state=0).fit(BITS)
    for name in ("units", "surgery", "gibbs", "ais"):
        with pytest.raises(ConfigError, match=f"{name}: .* has no codes, of which this is a measure"):
            model.evaluate(BITS[:5], measures=name)
    assert model.evaluate(BITS[:5], measures="all").measures == {}


def test_the_bias_starts_at_the_log_odds():
    settings = {"epochs": 1, "learning_rate": 1e-9, "output_bias": "data", "random_state": 1}
    model = gvae.AutoregressiveDensity(**settings).fit(BITS)
    np.testing.assert_allclose(1 / (1 + np.exp(-model.parameters_["density.raw"])), BITS.mean(axis=0), atol=0.02)

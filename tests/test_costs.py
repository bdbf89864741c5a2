"""What codes cost: texts, values written out in NumPy, derivatives, closed forms of factor analysis, training by them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from moments import ascended, uncorrelated
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate
from strategies import seeds

import gvae
from gvae import costs, models, objectives, optim, random, training
from gvae.autodiff import value_and_gradient
from gvae.data import Batch, Table
from gvae.distributions import BernoulliDistribution, CategoricalDistribution, DiagonalGaussian, PoissonDistribution
from gvae.errors import ConfigError
from gvae.objectives import Layer, Terms

rng = np.random.default_rng(0)
N, D, LATENT = 60, 5, 3
X = rng.normal(size=(N, D)) @ rng.normal(size=(D, D))
TEXTS = ("elbo:beta=0.5", "elbo:rate=2,weight=3", "elbo:free=6.1", "elbo:anchor=0+2,weight=0.9")


def small(**settings):
    return models.VAE(
        D, LATENT, **{"posterior": "diagonal", "observation": "gaussian", "hidden": (4,), "dtype": "float64"} | settings
    )


def terms_of(model, params, K=2, rows=X, weight=None):
    batch = Batch({"x": rows.astype(model.dtype)}, np.arange(len(rows)), weight)
    return model.terms(params, {}, batch, model.noise(random.key(1), batch, K), 0)


@pytest.fixture(scope="module")
def case():
    model = small()
    r = np.random.default_rng(0)
    return model, {name: v + 0.3 * r.normal(size=v.shape) for name, v in model.init(random.key(0)).items()}


# ---- KL of each variable -------------------------------------------------------------------------


def distributions():
    def gaussian():
        return DiagonalGaussian(rng.normal(size=(4, 3)), 0.5 * rng.normal(size=(4, 3)))

    yield gaussian(), None
    yield gaussian(), gaussian()
    yield gaussian(), DiagonalGaussian(rng.normal(size=3), np.zeros(3))
    yield BernoulliDistribution(2 * rng.normal(size=(4, 3))), None
    yield BernoulliDistribution(2 * rng.normal(size=(4, 3))), BernoulliDistribution(rng.normal(size=(4, 3)))
    yield PoissonDistribution(rng.normal(size=(4, 3))), None
    yield PoissonDistribution(rng.normal(size=(4, 3))), PoissonDistribution(rng.normal(size=3))


@pytest.mark.parametrize(("q", "p"), list(distributions()))
def test_the_kl_of_each_variable_adds_up(q, p):
    units = q.kl_by_unit(p)
    assert units.shape == (4, 3)
    assert (units >= 0).all()
    assert_allclose(units.sum(axis=-1), q.kl(p), rtol=1e-12)


def test_the_kl_of_a_variable_by_quadrature():
    q, p = DiagonalGaussian(np.array([0.7]), np.array([-0.4])), DiagonalGaussian(np.array([-0.2]), np.array([0.3]))

    def density(d, x):
        return math.exp(float(d.log_prob(np.array([x]))))

    expected = integrate.quad(lambda x: density(q, x) * math.log(density(q, x) / density(p, x)), -8, 8)[0]
    assert_allclose(q.kl_by_unit(p)[0], expected, rtol=1e-8)


def test_dependent_variables_have_none_by_unit():
    gaussian = DiagonalGaussian(np.zeros((2, 3)), np.zeros((2, 3)))
    chain = gvae.families.parse("chain", 3)(np.zeros((2, 8)))
    assert chain.kl_by_unit() is None
    assert gaussian.kl_by_unit(chain) is None
    assert gaussian.kl_by_unit(CategoricalDistribution(np.zeros((2, 3, 4)))) is None


# ---- values and derivatives ----------------------------------------------------------------------


def by_hand(text, likelihood, units, weight):
    """likelihood (K, B), units (B, n), weight (B,) of mean 1."""
    w = weight / weight.sum()
    D_, each = -(likelihood.mean(axis=0) @ w), w @ units
    R = each.sum()
    paid = {
        "elbo:beta=0.5": 0.5 * R,
        "elbo:rate=2,weight=3": 3 * abs(R - 2),
        "elbo:free=6.1": np.maximum(each, 6.1).sum(),
        "elbo:anchor=0+2,weight=0.9": R - 0.9 * (each[0] + each[2]),
    }[text]
    return -D_ - paid, -D_ - R


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_values(text, weighted, case):
    model, params = case
    weight = rng.random(N) if weighted else None
    terms = terms_of(model, params)
    value, metrics = objectives.parse(text)(terms, 0, weight)
    units, likelihood = terms.layers[0].q.kl_by_unit(), terms.total_log_likelihood
    expected, bound = by_hand(text, likelihood, units, np.ones(N) if weight is None else weight)
    assert 1 <= (units.mean(axis=0) < 6.1).sum() <= 2  # so that both sides of max(KL, free) are seen
    assert_allclose(value, expected, rtol=1e-12)
    assert_allclose(metrics["objective"], expected, rtol=1e-12)
    assert_allclose(metrics["bound"], bound, rtol=1e-12)
    assert_allclose(metrics["bound"], objectives.ELBO()(terms, 0, weight)[1]["bound"], rtol=1e-12)


def test_a_target_is_missed_on_either_side(case):
    terms = terms_of(*case)
    D_, R = -terms.total_log_likelihood.mean(), terms.layers[0].kl.mean()
    for rate in (R - 2, R + 2):
        assert_allclose(objectives.ELBO(cost=costs.Target(rate, 3))(terms)[0], -D_ - 6, rtol=1e-12)


@pytest.mark.parametrize("text", TEXTS)
def test_derivatives(text, case):
    """Along a random direction, by central differences, in float64, away from the kinks."""
    model, params = case
    direction = {name: rng.normal(size=v.shape) for name, v in params.items()}
    objective = objectives.parse(text)

    def value(p):
        return objective(terms_of(model, p))[0]

    _, slope = value_and_gradient(value, params)
    along = sum((slope[name] * d).sum() for name, d in direction.items())
    h = 1e-6
    moved = [value({name: v + s * h * direction[name] for name, v in params.items()}) for s in (1, -1)]
    assert_allclose(along, (moved[0] - moved[1]) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("text", ["elbo:beta=1", "elbo:free=0"])
def test_costs_that_are_the_kl(text, case):
    model, params = case
    plain, costly = (
        value_and_gradient(lambda p, o=o: o(terms_of(model, p))[0], params)
        for o in (objectives.ELBO(), objectives.parse(text))
    )
    assert_allclose(costly[0], plain[0], rtol=1e-13)
    for name in params:
        assert_allclose(costly[1][name], plain[1][name], rtol=1e-10, atol=1e-13)


def test_what_weights_cost_is_paid_in_full():
    """MAP's price of the weights is no code's: beta leaves it as it is."""
    model = models.MAP(D, LATENT, posterior="diagonal", observation="gaussian", hidden=(4,), dtype="float64", n_rows=N)
    params = model.init(random.key(0))
    terms = terms_of(model, params)
    _, full = objectives.ELBO()(terms)
    _, costly = objectives.parse("elbo:beta=0")(terms)
    assert_allclose(costly["bound"], full["bound"], rtol=1e-13)
    price = model.cost(params) / N
    assert price > 0.1
    assert_allclose(costly["objective"], full["log_likelihood"] - price, rtol=1e-12)


def test_warm_up_weighs_the_price_of_weights_with_the_kl():
    """As in the bound: beta=1 is the ELBO at every step."""
    model = models.MAP(D, LATENT, posterior="diagonal", observation="gaussian", hidden=(4,), dtype="float64", n_rows=N)
    params = model.init(random.key(0))
    plain, costly = (objectives.parse(text, warmup=10)(terms_of(model, params), 3)[0] for text in ("elbo", "elbo:beta=1"))
    assert_allclose(costly, plain, rtol=1e-13)


def test_draws_without_a_path_are_paid_as_well():
    """The score function's signal is what is ascended: enumeration over two bits, with p's layer learned."""
    for text in ("elbo:beta=3", "elbo_a:beta=3", "elbo:rate=0.3,weight=2"):
        model = models.VAE(D, 2, "bernoulli", "gaussian", (), dtype="float64", start="glorot")
        params = {name: v + 0.3 * rng.normal(size=v.shape) for name, v in model.init(random.key(0)).items()}
        x = X[:1]
        objective = objectives.parse(text)

        def exact(p, x=x, model=model, text=text):
            q = model.encoder(p, x)
            bits = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])[:, None]
            likelihood = model.decoder(p, bits).log_prob(x)
            share = np.exp(q.log_prob(bits))
            R = q.kl()[0]
            paid = 3 * R if "beta" in text else 2 * abs(R - 0.3)
            return (share * likelihood).sum() - paid

        h, name = 1e-6, "encoder.0.weight"
        at = (1, 0)
        up, down = ({**params, name: params[name].copy()} for _ in range(2))
        up[name][at] += h
        down[name][at] -= h
        expected = (exact(up) - exact(down)) / (2 * h)
        slopes = []
        for k in range(200):
            batch = Batch({"x": x}, np.arange(1))
            noise = model.noise(random.key(k), batch, 100)
            _, slope = value_and_gradient(
                lambda p, b=batch, n=noise, m=model, o=objective: o(m.terms(p, {}, b, n, 0))[0], params
            )
            slopes.append(slope[name][at])
        error = np.std(slopes) / math.sqrt(len(slopes))
        assert abs(np.mean(slopes) - expected) < 5 * error
        assert error < 0.1 * abs(expected) + 0.05


# ---- rate and distortion of a linear decoder -----------------------------------------------------


def factor_analysis():
    """(model, its parameters, W, psi): a linear VAE with the full posterior whose decoder is fixed."""
    r = np.random.default_rng(5)
    W, psi = r.normal(size=(D, 2)), 0.5 + r.random(D)
    b = r.normal(size=D)
    exact = models.FactorAnalysis(W, b, psi)
    return exact, *exact.as_vae("full"), W, psi


@pytest.mark.parametrize("beta", [0.25, 1.0, 4.0])
def test_the_best_encoder_for_beta_of_a_linear_decoder(beta):
    """It is Gaussian with precision I + Wᵀ Psi⁻¹ W / beta, and there the objective's derivative vanishes (Alemi et al.)."""
    exact, _, _, W, psi = factor_analysis()
    x = exact.sample(random.key(2), 400)
    # D + beta R = beta (D / beta + R): the posterior of a decoder whose noise is beta times as large
    scaled = models.FactorAnalysis(W, exact.b, beta * psi)
    model, params = scaled.as_vae("full")
    truth = exact.as_vae("full")[1]
    params = params | {name: v for name, v in truth.items() if name.startswith("decoder")}
    objective = objectives.parse(f"elbo:beta={beta}")
    batch = Batch({"x": x}, np.arange(len(x)))
    M = np.eye(2) + W.T @ (W / psi[:, None]) / beta
    R = (
        0.5 * (np.linalg.slogdet(M)[1] + np.trace(np.linalg.inv(M)) - 2)
        + 0.5 * (scaled.posterior(x).mean ** 2).sum(1).mean()
    )
    noise = model.noise(random.key(3), batch, 200)
    (_, slope), terms = (
        value_and_gradient(lambda p: objective(model.terms(p, {}, batch, noise, 0))[0], params),
        model.terms(params, {}, batch, noise, 0),
    )
    assert_allclose(objective(terms)[1]["kl"], R, rtol=1e-9)
    largest = max(np.abs(v).max() for name, v in slope.items() if name.startswith("encoder"))
    assert largest < 0.05, largest  # by 80,000 draws


def test_targets_on_both_sides_of_the_bounds_own_rate():
    """With weight 1 a higher rate is reached, a lower one is not: training ends at the rate of the bound itself, R*."""

    def rate(objective, steps=1500):
        settings = {"latent": 2, "observation": "gaussian", "batch_size": None, "learning_rate": 1e-2, "steps": steps}
        model = gvae.LinearVAE(**settings, objective=objective, random_state=0, dtype="float64").fit(X)
        return model, np.mean([row["train_kl"] for row in model.history_[-50:]])

    own = rate("elbo")[1]
    model, higher = rate(f"elbo:rate={own + 1.5:.3f}")
    assert abs(higher - own - 1.5) < 0.1
    assert not model.events_
    model, lower = rate(f"elbo:rate={own / 2:.3f}")
    assert lower > 0.75 * own
    assert model.events_[-1]["event"] == "off target"
    assert rate(f"elbo:rate={own / 2:.3f},weight=20")[1] < 0.65 * own


class FixedDecoder(models.VAE):
    """A linear VAE of which the encoder alone is trained, with a draw for each row that stays the same. The posterior has
    one covariance for all x, as the best one has."""

    pure = True

    def terms(self, params, state, batch, noise, step=None):
        return super().terms(self.fixed | params, state, batch, noise, step)

    def noise(self, key, batch, samples=1):
        return {"z": self.drawn[None, batch.index]}

    def init(self, key):
        return {name: v for name, v in super().init(key).items() if name.startswith("encoder")}


@pytest.fixture(scope="module")
def fixed():
    """(model, batch, curve): curve(beta) is (R, D) of the best encoder. The second moments of data, noise and draws are
    exactly those of the distributions; the loss depends on nothing else, so that it is its own expectation."""
    *_, W, psi = factor_analysis()
    params = models.FactorAnalysis(W, np.zeros(D), psi).as_vae("full")[1]
    z, noise, drawn = np.split(uncorrelated(2 + D + 2, rows=40, seed=8), [2, 2 + D], axis=1)
    x = z @ W.T + np.sqrt(psi) * noise
    model = FixedDecoder(D, 2, "shared:full", "gaussian", (), dtype="float64")
    model.fixed = {name: v for name, v in params.items() if name.startswith("decoder")}
    model.drawn = drawn
    S, G = W @ W.T + np.diag(psi), W.T @ (W / psi[:, None])

    def curve(beta):
        V = np.linalg.inv(np.eye(2) + G / beta)
        A = V @ (W / psi[:, None]).T / beta  # E[z | x] = A x
        second = A @ S @ A.T + V  # of z
        R = 0.5 * (np.trace(second) - 2 - np.linalg.slogdet(V)[1])
        error = np.diag(S) - 2 * (W * (S @ A.T)).sum(axis=1) + (W * (W @ second)).sum(axis=1)
        return R, 0.5 * (np.log(2 * math.pi * psi) + error / psi).sum()

    return model, Batch({"x": x}, np.arange(len(x))), curve


def at_the_optimum(model, batch, text):
    """(terms, metrics) after L-BFGS on the encoder."""
    objective, noise = objectives.parse(text), model.noise(None, batch)
    best = ascended(lambda p: objective(model.terms(p, {}, batch, noise))[0], model.init(random.key(0)))
    terms = model.terms(best, {}, batch, noise)
    return terms, objective(terms)[1]


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_a_trained_encoder_lies_on_the_curve_of_its_decoder(beta, fixed):
    """Rate and distortion of the formulas, to 1e-6: L-BFGS stops about 1e-8 away. Between the neighbours beta / 1.01 and
    1.01 beta, dD/dR = -beta to the square of 0.01. H - D <= I(x; z) <= R with the entropy H of x, all equal at beta = 1."""
    model, batch, curve = fixed
    ends = []
    for b in (beta / 1.01, beta * 1.01):
        terms, metrics = at_the_optimum(model, batch, f"elbo:beta={b}")
        R, D_ = metrics["kl"], -metrics["log_likelihood"]
        assert_allclose((R, D_), curve(b), atol=1e-6)
        ends.append((R, D_))
        q = terms.layers[0].q
        V = q.covariance().reshape(-1, 2, 2)[0]
        told = 0.5 * (np.linalg.slogdet(np.cov(q.mean.T, bias=True) + V)[1] - np.linalg.slogdet(V)[1])
        H = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * np.cov(batch.x.T, bias=True))[1]
        least = H - D_
        assert least <= told + 1e-9
        assert told <= R + 1e-9
        assert (R - least < 1e-4) == (beta == 1)
    assert_allclose((ends[1][1] - ends[0][1]) / (ends[1][0] - ends[0][0]), -beta, rtol=1e-4)


@pytest.mark.parametrize(
    ("at", "weight"),
    [
        (0.4, 1),  # a rate above that of the bound itself: reached
        (2.5, 1),  # a rate below that one: training ends at the bound's own
        (2.5, 4),  # reached with a larger weight
        (math.inf, 1),  # a rate of 0, which no weight reaches with this decoder
        (math.inf, 4),
        (math.inf, 50),
    ],
)
def test_where_training_for_a_rate_ends(at, weight, fixed):
    """On the curve: at the rate, if the weight is more than -dD/dR = `at` there, else where -dD/dR is the weight. To 1e-3:
    at the kink Adam's last steps go back and forth by 1e-4."""
    model, batch, curve = fixed
    target = 0.0 if at == math.inf else curve(at)[0]
    trainer, _ = training.train(
        model,
        Table(batch.x),
        objective=objectives.ELBO(cost=costs.Target(target, weight)),
        steps=800,
        batch_size=len(batch.x),
        learning_rate=5e-2,
        schedule=optim.Cosine(800),
        seed=0,
    )
    metrics = trainer.validate(Table(batch.x))
    assert_allclose((metrics["kl"], -metrics["log_likelihood"]), curve(min(at, weight)), atol=1e-3)
    assert trainer.why_not == ""


# ---- rate and distortion of tables ---------------------------------------------------------------


def tables(r, rows=5, codes=4, of=12):
    """p(x), q(z|x) whose entries are multiples of 1 / of, r(z), p(x|z). So `of` draws, each as often as it is probable, have
    the expectation itself for their mean."""
    counts = 1 + r.multinomial(of - codes, np.full(codes, 1 / codes), size=rows)
    return r.dirichlet(np.ones(rows)), counts / of, r.dirichlet(np.ones(codes)), r.dirichlet(np.ones(rows), size=codes)


def of_tables(p_x, q, r, p, of=12):
    """Terms of a model whose every distribution is a table, and the weights of its rows."""
    z = np.stack([np.repeat(np.arange(len(r)), np.rint(row * of).astype(int)) for row in q], axis=1)  # (of, rows)
    likelihood = np.log(p[z, np.arange(len(q))])
    layer = Layer(CategoricalDistribution(np.log(q)[:, None]), CategoricalDistribution(np.log(r)[None]), z[..., None] * 1.0)
    return Terms({"x": likelihood}, [layer]), p_x * len(p_x)


def information(p_x, q):
    """I(x; z), and q(z)."""
    q_z = p_x @ q
    return (p_x[:, None] * q * np.log(q / q_z)).sum(), q_z


@pytest.mark.parametrize("estimator", ["auto", "A", "B"])
@given(seed=seeds)
def test_what_a_code_tells_lies_between_entropy_less_distortion_and_rate(estimator, seed):
    """H - D <= I(x; z) <= R for any tables, in which R = I + KL(q(z) ‖ r) and D - (H - I) = E KL(q(x|z) ‖ p(x|z)); equality
    with r = q(z) and p(x|z) = q(x|z). Exact but for rounding."""
    p_x, q, r, p = tables(np.random.default_rng(seed))
    told, q_z = information(p_x, q)
    H, joint = -(p_x * np.log(p_x)).sum(), p_x[:, None] * q
    back = (joint / q_z).T  # q(x|z)

    def rate_and_distortion(r, p):
        terms, weight = of_tables(p_x, q, r, p)
        _, metrics = objectives.ELBO(estimator, cost=costs.Beta(0.7))(terms, 0, weight)
        assert_allclose(metrics["objective"], metrics["log_likelihood"] - 0.7 * metrics["kl"], rtol=1e-12, atol=1e-12)
        return metrics["kl"], -metrics["log_likelihood"]

    R, D_ = rate_and_distortion(r, p)
    least = H - D_
    assert least < told < R
    assert_allclose(R, told + (q_z * np.log(q_z / r)).sum(), rtol=1e-11)
    assert_allclose(D_, H - told + (joint * np.log(back.T / p.T)).sum(), rtol=1e-11)
    assert_allclose(rate_and_distortion(q_z, p)[0], told, rtol=1e-11, atol=1e-14)
    assert_allclose(H - rate_and_distortion(r, back)[1], told, rtol=1e-11, atol=1e-12)


# ---- texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("elbo:beta=0.5", costs.Beta(0.5)),
        ("elbo_a:beta=2", costs.Beta(2.0)),
        ("elbo:rate=16", costs.Target(16.0)),
        ("elbo:rate=16,weight=4", costs.Target(16.0, 4.0)),
        ("elbo:weight=4,rate=16", costs.Target(16.0, 4.0)),
        ("elbo:free=0.1", costs.FreeBits(0.1)),
        ("elbo:anchor=3,weight=0.5", costs.Anchor((3,), 0.5)),
        ("elbo:anchor=0+3,weight=1", costs.Anchor((0, 3), 1.0)),
    ],
)
def test_texts(text, cost):
    assert objectives.parse(text) == objectives.ELBO("A" if text.startswith("elbo_a") else "auto", 0, cost)
    assert objectives.parse(text, warmup=5).warmup == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("elbo:", "unknown objective"),
        ("elbo:0.5", "unknown setting '0.5'; elbo takes beta="),
        ("elbo:beta=", "beta is '', expected a number of at least 0"),
        ("elbo:beta=-1", "expected a number of at least 0"),
        ("elbo:rate=-1", "rate is '-1'"),
        ("elbo:rate=2,weight=0", "weight is '0', expected a positive number"),
        ("elbo:beta=1,rate=2", "expected one of beta, rate, free, anchor"),
        ("elbo:weight=2", "expected one of"),
        ("elbo:beta=1,weight=2", "weight with rate or anchor only"),
        ("elbo:beta=1,beta=2", "beta is given twice"),
        ("elbo:gamma=1", "unknown setting 'gamma=1'"),
        ("elbo:anchor=0", "weight is None, expected a number in"),
        ("elbo:anchor=0,weight=1.5", r"expected a number in \(0, 1\]: above 1 nothing is bounded"),
        ("elbo:anchor=0+0,weight=0.5", "different whole numbers of codes"),
        ("elbo:anchor=-1,weight=0.5", "different whole numbers of codes"),
        ("elbo:anchor=x,weight=0.5", "different whole numbers of codes"),
        ("iwae:beta=0.5", "a cost weighs the KL, which elbo, elbo_a, elbo_b alone have"),
        ("miwae:rate=3", "a cost weighs the KL"),
    ],
)
def test_texts_that_are_refused(text, words, tmp_path):
    with pytest.raises(ConfigError, match=words) as caught:
        gvae.VAE(objective=text, epochs=1).fit(X, run=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_costs_that_a_model_cannot_pay(tmp_path):
    for settings, words in (
        ({"objective": "elbo:free=0.1", "posterior": "chain"}, "free needs the KL of each variable; .* take diagonal"),
        ({"objective": "elbo:anchor=5,weight=0.5", "posterior": "diagonal"}, "the code 5, expected one from 0 to 2"),
        (
            {"objective": "elbo:beta=0.5", "gradient": "stl"},
            "its settings take the gradients reparameterized, local, disarm, not 'stl'",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            gvae.VAE(latent=3, hidden=(4,), epochs=1, **settings).fit(X, run=tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="this model draws none"):
        gvae.Autoencoder(latent=3, hidden=(4,), epochs=1, objective="elbo:beta=0.5").fit(X)


def test_a_models_own_key_is_not_an_objectives():
    from three_models import LabelClassifier

    y = (X[:, 0] > 0).astype(int)
    with pytest.raises(ConfigError, match="beta is a setting of the model itself: pass beta= instead"):
        LabelClassifier(epochs=1, objective="elbo:beta=0.5").fit(X, y)


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_steps_are_captured_with_the_same_bits(text):
    table = Table(X.astype(np.float32))
    trainers = [
        training.Trainer(small(dtype="float32"), objective=objectives.parse(text), seed=1, programs=programs)
        for programs in (True, False)
    ]
    for trainer in trainers:
        training.train(trainer.model, table, epochs=3, batch_size=20, trainer=trainer)
    assert trainers[0].why_not == ""
    assert_array_equal(trainers[0].parameters.flat, trainers[1].parameters.flat)


def test_what_is_ascended_is_watched():
    """Early stopping looks at the objective where there is one: the bound falls while a beta of 0 ascends."""
    model = gvae.VAE(
        latent=2,
        posterior="diagonal",
        hidden=(8,),
        objective="elbo:beta=0",
        epochs=60,
        patience=5,
        learning_rate=1e-2,
        random_state=0,
    ).fit(X, validation=X)
    rows = model.history_
    best = max(rows, key=lambda row: row["validation_objective"])
    assert model.n_iter_ == best["step"]
    assert max(rows, key=lambda row: row["validation_bound"])["step"] != best["step"]
    assert all({"train_bound", "train_objective", "validation_bound"} <= row.keys() for row in rows)


def test_the_exponential_schedule():
    schedule = optim.parse_schedule("exponential:0.5/2", 10)
    assert [schedule(step) for step in (0, 19, 20, 39, 40, 60)] == [1, 1, 0.5, 0.5, 0.25, 0.125]
    assert optim.parse_schedule("exponential:0.9", 10)(25) == 0.9**2
    for text in (
        "exponential:",
        "exponential:0",
        "exponential:1.5",
        "exponential:0.5/0",
        "exponential:0.5/x",
        "exponential:0_5",
    ):
        with pytest.raises(ConfigError, match="expected a factor in"):
            optim.parse_schedule(text)

"""The variational information bottleneck: what is ascended and reported, its limits, what it is as a classifier."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from moments import ascended, uncorrelated
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils.estimator_checks import estimator_checks_generator

import gvae
from gvae import evaluation, families, models, objectives, random, training
from gvae.autodiff import value_and_gradient
from gvae.data import Batch, Table
from gvae.errors import ConfigError, DataError
from gvae.evaluation import subject as streams
from gvae.families import LOG_SCALE, Conditional
from gvae.models.codes import Codes
from gvae.ops.elementwise import bounded
from gvae.optim import Cosine

rng = np.random.default_rng(0)
N, D = 150, 4
X = rng.normal(size=(N, D))
LABELS = (X[:, 0] > 0) + (X[:, 1] > 0) * 1
SMALL = {"latent": 3, "hidden": (16,), "batch_size": 50, "learning_rate": 1e-2, "random_state": 0}


def small(**settings):
    given = {"latent": 3, "hidden": (8,), "dtype": "float64"} | settings
    return models.VIB({"x": D, "y": 3}, **given)


def batch_of(rows=X, labels=LABELS):
    return Batch({"x": rows, "y": labels}, np.arange(len(rows)))


@pytest.fixture(scope="module")
def fitted():
    return gvae.VIB(**SMALL, epochs=60).fit(X, LABELS)


def test_log_probabilities_below_the_least_number():
    """A class that is all but impossible: its probability is 0 in float32, its logarithm is not."""
    model = gvae.VIB(latent=2, hidden=(5,), steps=5, random_state=0).fit(X, LABELS)
    model.parameters_["decoder.0.weight"][...] *= 1e4
    found = model.score_samples(X, LABELS, samples=12)
    assert np.isfinite(found).all()
    assert found.min() < -200
    assert (model.predict_proba(X) == 0).any()
    likely = found > -50
    assert likely.any()
    of_class = np.take_along_axis(model.predict_proba(X), np.searchsorted(model.classes_, LABELS)[:, None], 1)[:, 0]
    assert_allclose(found[likely], np.log(of_class[likely]), rtol=1e-4, atol=1e-5)


def test_what_is_ascended_and_reported():
    """E log q(y|z) - beta KL is ascended; the bound of log p(y|x) is E log q(y|z) alone."""
    model = small(beta=0.25)
    params = {n: v + 0.3 * rng.normal(size=v.shape) for n, v in model.init(random.key(0)).items()}
    noise = model.noise(random.key(1), batch_of(), 2)
    terms = model.terms(params, {}, batch_of(), noise, 0)
    value, metrics = objectives.ELBO()(terms)
    q = model.encoder(params, X)
    z = q.mean + np.exp(q.log_scale) * noise["z"]
    assert_array_equal(terms.layers[0].z, z)
    log_p = terms.log_likelihood["y"]
    assert_allclose(metrics["bound"], log_p.mean(), rtol=1e-12)
    assert_allclose(metrics["kl"], q.kl().mean(), rtol=1e-12)
    assert_allclose(value, log_p.mean() - 0.25 * q.kl().mean(), rtol=1e-12)
    assert_allclose(metrics["objective"], value, rtol=1e-12)
    assert_array_equal(terms.log_weights, log_p)


def test_probabilities_add_up_and_are_those_of_the_labels():
    model = small()
    params = {n: v + 0.3 * rng.normal(size=v.shape) for n, v in model.init(random.key(0)).items()}
    noise = model.noise(random.key(1), batch_of(), 5)
    p = model.predict(params, {}, batch_of(), noise)
    assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    terms = model.terms(params, {}, batch_of(), noise)
    assert_allclose(p[np.arange(N), LABELS], np.exp(terms.log_likelihood["y"]).mean(axis=0), rtol=1e-12)


def test_without_noise_and_without_a_price_it_is_a_network():
    """beta = 0 and a code without spread: the cross-entropy of a network with the encoder's mean, softmax at its end."""
    model = small(beta=0)
    params = model.init(random.key(0))
    noise = {"z": np.zeros((1, N, 3))}
    value, _ = objectives.ELBO()(model.terms(params, {}, batch_of(), noise, 0))
    p = model.predict(params, {}, batch_of(), noise)
    assert_allclose(value, np.log(p[np.arange(N), LABELS]).mean(), rtol=1e-12)


def test_evaluation_is_of_y_given_x(fitted):
    result = fitted.evaluate(X, LABELS, samples=50)
    assert result.conditional
    assert (result.log_likelihood >= result.elbo - 1e-6).all()  # Jensen: log E q(y|z) is at least E log q(y|z)
    assert_allclose(result.summary()["distortion"], -result.elbo.mean(), rtol=1e-12)
    told = fitted.evaluate(X, LABELS, samples=5, measures="classification").measures["classification"]
    assert_allclose(result.elbo.mean(), told.log_likelihood.mean(), atol=0.05)
    assert result.kl.mean() > 0.5  # which the bound does not take off
    assert "log p(y|x), 50 importance samples" in evaluation.table(result)
    assert "its bound, E log p(y|z)" in evaluation.table(result)
    assert_allclose(result.log_likelihood.mean(), fitted.score_samples(X, LABELS).mean(), atol=0.05)


def test_the_measure_of_classifiers(fitted):
    found = fitted.evaluate(X, LABELS, samples=5, measures="classification").summary()["classification"]
    wrong, rows = (
        [],
        fitted.views_["x"].seen(X),
    )  # by hand: 12 draws for each batch of 100 rows, from the measure's own stream
    for i, part in enumerate((slice(0, 100), slice(100, N))):
        batch = Batch({"x": rows[part], "y": LABELS[part]}, np.arange(N)[part])
        noise = fitted.model_.noise(random.fold_in(random.key(0), streams.CLASSIFICATION, i), batch, 12)
        p = fitted.model_.predict(fitted.parameters_, {}, batch, noise)
        wrong += list(p.argmax(axis=1) != LABELS[part])
    assert found["error"] == np.mean(wrong)
    share = np.bincount(LABELS) / N
    H = -(share * np.log2(share)).sum()
    assert found["i_zy_bits"] <= H
    assert_allclose(found["i_zx_bits"], fitted.evaluate(X, LABELS, samples=5).kl.mean() / math.log(2), rtol=1e-6)
    told = H + fitted.evaluate(X, LABELS, samples=200).elbo.mean() / math.log(2)
    assert_allclose(found["i_zy_bits"], told, atol=0.05)
    assert_allclose(found["standard_error"], math.sqrt(found["error"] * (1 - found["error"]) / (N - 1)), rtol=1e-6)


def test_all_measures_are_those_that_suit(fitted):
    found = fitted.evaluate(X, LABELS, samples=5, measures="all").measures
    assert list(found) == ["units", "surgery", "reconstruction", "classification"]


def test_the_measure_needs_a_classifier():
    model = gvae.VAE(latent=2, hidden=(4,), epochs=1, random_state=0).fit(X)
    with pytest.raises(ConfigError, match="classification: VAE has no method `predict`"):
        model.evaluate(X, samples=2, measures="classification")


def test_a_large_price_makes_codes_say_nothing():
    """Above a critical beta the best code is independent of x; far below it keeps what tells the labels apart."""
    rate = {}
    for beta in (1e-3, 3.0):
        model = gvae.VIB(**SMALL, beta=beta, epochs=150).fit(X, LABELS)
        rate[beta] = model.history_[-1]["train_kl"]
        told = math.log(3) + model.evaluate(X, LABELS, samples=20).elbo.mean()  # at most I(Z; Y), with H(Y) <= log 3
        assert told <= rate[beta] + math.log(3) + 0.1
    assert rate[3.0] < 0.02
    assert rate[1e-3] > 1


def test_a_learned_marginal(tmp_path):
    model = gvae.VIB(**SMALL, prior="mixture:3", posterior="full", epochs=3).fit(X, LABELS)
    assert "prior.raw" in model.parameters_
    model.save(tmp_path / "model")
    assert_array_equal(gvae.load(tmp_path / "model").predict_proba(X), model.predict_proba(X))


def test_it_classifies(fitted):
    assert fitted.score(X, LABELS) > 0.9
    assert fitted.transform(X).shape == (N, 3)
    for use in (fitted.reconstruct, lambda x: fitted.sample(3)):
        with pytest.raises(ConfigError, match="VIB: the model explains labels and no view"):
            use(X)


@pytest.mark.parametrize("objective", ["elbo:beta=0.5", "iwae", "miwae:2"])
def test_objectives_that_have_a_price_of_their_own(objective):
    with pytest.raises(ConfigError, match=r"beta is a setting of the model itself|have a cost"):
        gvae.VIB(**SMALL, objective=objective, samples=2, epochs=1).fit(X, LABELS)


def test_free_bits_of_a_model_with_a_price():
    with pytest.raises(ConfigError, match="have a cost of their own"):
        gvae.VIB(**SMALL, objective="elbo:free=0.1", epochs=1).fit(X, LABELS)


def test_measures_that_need_a_model_of_x(fitted):
    with pytest.raises(ConfigError, match="bdmc: VIB explains no x, of which this is a measure"):
        fitted.evaluate(X[:5], LABELS[:5], samples=2, measures="bdmc", first=2, chains=2, temperatures=2)


def test_steps_in_python_and_captured_leave_the_same_bits():
    table = Table(X.astype(np.float32), y=LABELS.astype(np.int64))
    trainers = [training.Trainer(small(dtype="float32"), seed=1, programs=programs) for programs in (True, False)]
    for trainer in trainers:
        training.train(trainer.model, table, epochs=3, batch_size=50, trainer=trainer)
    assert_array_equal(trainers[0].parameters.flat, trainers[1].parameters.flat)


# ---- jointly Gaussian x and y: the curve of the information bottleneck in closed form ------------


class LinearBottleneck(models.VIB):
    """VIB with a vector for y, seen through `view`. Its maps are linear where `hidden` is empty."""

    columns = {"x": "matrix", "y": "matrix"}  # noqa: RUF012
    view = "gaussian"

    def build(self, settings):
        super().build(settings)
        view = families.parse(self.view, self.sizes["y"])
        self.decoder = Conditional("decoder", settings.latent, view, settings.decoder_hidden, settings.activation)
        self.decoders = (self.decoder,)

    likelihood = Codes.likelihood


LAMBDAS = np.array([0.1, 0.3, 0.5])  # of Sigma_x|y Sigma_x^-1: the critical betas are 0.9, 0.7, 0.5
ROWS = 64


def jointly_gaussian(rows=ROWS):
    """x, y and draws of the code's noise. y_i tells of one direction u_i of x alone, so that given the best code the
    variables of y are independent, as the family of the view has them."""
    u, noise, drawn = np.split(uncorrelated(9, rows, seed=0), 3, axis=1)
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    return u @ (turned * [0.8, 1.0, 1.25]), np.sqrt(1 - LAMBDAS) * u + np.sqrt(LAMBDAS) * noise, drawn


def linear(beta):
    return LinearBottleneck({"x": 3, "y": 3}, latent=3, posterior="gaussian", beta=beta, hidden=(), dtype="float64")


def optimal_rates(x, y, beta):
    """R_i = 1/2 log((1/beta - 1) (1 - lambda_i) / lambda_i) where that is positive, of the directions' lambda_i, ascending.
    For z = sqrt(1 - t) u_i + sqrt(t) e: I(z; x) = -1/2 log t, I(z; y) = -1/2 log(lambda_i + (1 - lambda_i) t), and the
    derivative of I(z; y) - beta I(z; x) vanishes at t = beta lambda_i / ((1 - beta) (1 - lambda_i))."""
    S = np.cov(np.concatenate([x, y], axis=1).T, bias=True)
    xx, xy, yy = S[:3, :3], S[:3, 3:], S[3:, 3:]
    lambdas = np.sort(np.linalg.eigvals(np.linalg.solve(xx, xx - xy @ np.linalg.solve(yy, xy.T))).real)
    assert_allclose(lambdas, LAMBDAS, rtol=1e-10)
    return np.maximum(0.5 * np.log((1 / beta - 1) * (1 - lambdas) / lambdas), 0)


def information(params, x, y):
    """I(Z; X) and I(Z; Y) of the linear encoder with these parameters."""
    W, scale = params["encoder.0.weight"], np.exp(bounded(params["encoder.shared"], limit=LOG_SCALE))
    to_z = np.linalg.lstsq(y, x @ W, rcond=None)[0]  # E[z | y]
    rest = x @ W - y @ to_z
    noise = np.diag(scale**2)
    logs = [np.linalg.slogdet(part.T @ part / len(x) + noise)[1] for part in (x @ W, rest, 0 * rest)]
    return 0.5 * (logs[0] - logs[2]), 0.5 * (logs[0] - logs[1])


def entropy(y):
    return 0.5 * np.linalg.slogdet(2 * math.pi * math.e * np.cov(y.T, bias=True))[1]


@pytest.mark.parametrize("beta", [0.2, 0.3, 0.6, 0.81, 0.92])
def test_the_optimum_is_that_of_the_gaussian_bottleneck(beta):
    """Ascended by L-BFGS on exact moments, so that what is left is where L-BFGS stops, about 1e-8 nats. A code for each
    direction that is worth its price: 3, 3, 2, 1 and 0 of them."""
    x, y, drawn = jointly_gaussian()
    model, batch = linear(beta), batch_of(x, y)

    def terms(params):
        return model.terms(params, {}, batch, {"z": drawn[None]}, 0)

    params = ascended(lambda p: objectives.ELBO()(terms(p))[0], model.init(random.key(0)))
    ended, metrics = terms(params), objectives.ELBO()(terms(params))[1]
    rates = optimal_rates(x, y, beta)
    assert_allclose(np.sort(ended.layers[0].q.kl_by_unit().mean(axis=0)), np.sort(rates), atol=1e-6)
    of_x, of_y = information(params, x, y)
    assert_allclose([metrics["kl"], of_x], rates.sum(), atol=1e-6)
    told = -0.5 * np.log(LAMBDAS + (1 - LAMBDAS) * np.exp(-2 * rates)).sum()
    assert_allclose([entropy(y) + metrics["bound"], of_y], told, atol=1e-6)
    if beta > (1 - LAMBDAS).max():
        assert metrics["kl"] < 0.01


def test_a_code_tells_no_more_of_y_than_of_x():
    """H(Y) + E log q(y|z) <= I(Z; Y) <= I(Z; X) <= E KL, whatever the parameters: 100 at random, of different size."""
    x, y, drawn = jointly_gaussian()
    model, r = linear(0.3), np.random.default_rng(2)
    for size in np.geomspace(0.1, 2, 100):
        params = {n: v + size * r.normal(size=v.shape) for n, v in model.init(random.key(0)).items()}
        _, metrics = objectives.ELBO()(model.terms(params, {}, batch_of(x, y), {"z": drawn[None]}, 0))
        of_x, of_y = information(params, x, y)
        assert entropy(y) + metrics["bound"] < of_y < of_x < metrics["kl"]


@pytest.mark.parametrize(("beta", "least", "most"), [(0.2, 3.5, 3.7), (0.81, 0.1, 0.4), (0.95, 0, 0.01)])
def test_training_ends_at_the_optimum_of_the_gaussian_bottleneck(beta, least, most):
    """By Adam, with draws of each step's own. The rate is within 0.05 nats of the formula's (with two other seeds within
    0.032): 3.602 far below the critical betas; more than 0.1 at 0.9 of the largest, which is 0.9; above it nothing."""
    x, y, _ = jointly_gaussian(256)
    trainer, history = training.train(
        linear(beta), Table(x, y=y), steps=1000, batch_size=256, samples=2, learning_rate=2e-2, schedule=Cosine(1000), seed=0
    )
    rate = np.mean([row["train_kl"] for row in history.rows[-50:]])
    assert abs(rate - optimal_rates(x, y, beta).sum()) < 0.05
    assert least < rate < most
    assert trainer.why_not == ""
    of_x, of_y = information(dict(trainer.parameters), x, y)
    assert of_y <= of_x


# ---- y := x is a VAE whose KL costs beta ---------------------------------------------------------


def values_and_gradients(model, objective, params, batch, noise):
    return value_and_gradient(lambda p: objective(model.terms(p, {}, batch, noise, 0))[0], params)


class OfBits(LinearBottleneck):
    view = "bernoulli"


def test_accuracy_of_labels_of_any_kind():
    """A column of labels is one label a row, as in fit; of other lengths or of classes that fit has not seen is refused."""
    fitted = gvae.VIB(latent=2, hidden=(8,), epochs=3, random_state=0).fit(X, LABELS)
    share = (fitted.predict(X) == LABELS).mean()
    assert fitted.score(X, LABELS) == share
    with pytest.warns(Warning, match="column-vector y"):
        assert fitted.score(X, LABELS[:, None]) == share
    for wrong, said in (
        (LABELS[:5], "y has 5 labels"),
        (LABELS[:1], "y has 1 labels"),
        (LABELS.astype(str) + "?", "not seen by fit"),
    ):
        with pytest.raises(DataError, match=said):
            fitted.score(X, wrong)


@pytest.mark.parametrize("prior", [None, "mixture:2"])
@pytest.mark.parametrize("kind", ["labels", "bits"])
def test_with_x_for_y_it_is_a_vae_with_that_beta(kind, prior):
    """Of labels, VIB itself; of many bits, through a Bernoulli view. The same arithmetic, so the same bits."""
    r = np.random.default_rng(3)
    shared = {"latent": 3, "hidden": (8,), "activation": "relu", "prior": prior, "dtype": "float64"}
    if kind == "labels":
        x = r.integers(0, 3, size=(N, 1))
        bottleneck, observation = models.VIB({"x": 1, "y": 3}, beta=0.3, **shared), "categorical:3"
        batch = batch_of(x.astype(float), x[:, 0])
    else:
        x = (r.random((N, 6)) < 0.4).astype(float)
        bottleneck, observation = OfBits({"x": 6, "y": 6}, beta=0.3, **shared), "bernoulli"
        batch = batch_of(x, x)
    vae = models.VAE(x.shape[1], posterior="diagonal", observation=observation, decoder_hidden=(), **shared)
    params = {n: v + 0.3 * r.normal(size=v.shape) for n, v in vae.init(random.key(0)).items()}
    assert params.keys() == bottleneck.init(random.key(0)).keys()
    noise = vae.noise(random.key(1), batch, 2)
    value, slope = values_and_gradients(bottleneck, objectives.ELBO(), params, batch, noise)
    expected, expected_slope = values_and_gradients(vae, objectives.parse("elbo:beta=0.3"), params, batch, noise)
    assert value == expected
    for name in params:
        assert np.abs(slope[name]).max() > 0
        assert_array_equal(slope[name], expected_slope[name])


# ---- as a classifier of scikit-learn, from the shell, and what it refuses ------------------------


POSITIONS = ("check_methods_sample_order_invariance", "check_methods_subset_invariance")
EXPECTED = dict.fromkeys(POSITIONS, "this check calls score_samples(X), which here needs y as well") | {
    "check_sample_weight_equivalence_on_dense_data": "minibatches and their noise belong to rows' positions"
}


def checks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not inherit from BaseEstimator: on purpose
        estimator = gvae.VIB(latent=2, hidden=(8,), epochs=30, learning_rate=1e-2, random_state=0)
        for one, check in estimator_checks_generator(estimator):
            name = getattr(check, "func", check).__name__
            marks = pytest.mark.xfail(reason=EXPECTED[name], strict=True) if name in EXPECTED else ()
            yield pytest.param(one, check, id=name, marks=marks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_from_the_shell(gvae_, here):
    code, out, err = gvae_("train", "digits", "--model", "vib", "--latent", 8, "--hidden", 64, "--epochs", 5, "--out", "run")
    assert (code, err) == (0, "")
    assert out.startswith("vib: read (grey levels")
    model = gvae.load("run")
    assert list(model.classes_) == list(range(10))
    code, out, _ = gvae_("evaluate", "run", "--samples", 10)
    assert code == 0
    assert "log p(y|x), 10 importance samples" in out


@pytest.mark.parametrize(
    ("settings", "y", "error", "words"),
    [
        ({}, None, DataError, "requires y"),
        ({}, X[:, 0], DataError, "fractional labels"),
        ({}, LABELS[:3], DataError, "y has 3 labels, but X has 150 rows"),
        ({"beta": -1}, LABELS, ConfigError, "beta is -1, expected a number of at least 0"),
        ({"prior": "nope"}, LABELS, ConfigError, "unknown family"),
        ({"binarize": "dynamic"}, LABELS, DataError, r"values outside \[0, 1\]"),
    ],
)
def test_bad_input(settings, y, error, words, tmp_path):
    with pytest.raises(error, match=words):
        gvae.VIB(**SMALL | settings, epochs=1).fit(X, y, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()

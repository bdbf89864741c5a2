"""The ladder VAE: merges against dense products, the exact posterior of a linear-Gaussian model, refusals."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from run_cases import kept_and_captured

import gvae
from gvae import bounds, data, evaluation, models, objectives, random, training
from gvae.autodiff import gradient, value_and_gradient
from gvae.data import Batch
from gvae.families import LOG_SCALE
from gvae.families.base import unbounded
from gvae.ops import arrays

rng = np.random.default_rng(0)
N, D = 20, 7
BITS = (rng.random((N, D)) < 0.4).astype(np.float64)


def ladder(latent=(4, 3, 2), **settings):
    given = {"hidden": (6,), "normalize": None, "output_bias": "zero"}
    return models.Ladder(D, latent, **given | settings, dtype="float64")


def at(model, samples=3, x=BITS):
    batch = Batch({"x": x}, np.arange(len(x)))
    return model.init(random.key(0)), batch, model.noise(random.key(1), batch, samples)


def moved(model):
    """Parameters that are not those of the start, where many distributions are standard ones."""
    own = np.random.default_rng(1)
    return {name: value + 0.3 * own.normal(size=value.shape) for name, value in model.init(random.key(0)).items()}


def test_one_layer_is_a_vae():
    """With the same bits: trunk and encoder are the VAE's encoder in two parts."""
    model = ladder(3, hidden=(6, 5), activation="elu", posterior="chain")
    vae = models.VAE(D, 3, "chain", "bernoulli", hidden=(6, 5), dtype="float64")
    params, batch, noise = at(model)
    names = {"encoder.0": "trunk.0.0", "encoder.1": "trunk.0.1", "encoder.2": "encoder1.0"}
    names |= {f"decoder.{i}": f"decoder0.{i}" for i in range(3)}
    own = {f"{a}.{part}": params[f"{b}.{part}"] for a, b in names.items() for part in ("weight", "bias")}
    ours = value_and_gradient(lambda p: objectives.ELBO()(model.terms(p, {}, batch, noise, 0))[0], params)
    theirs = value_and_gradient(lambda p: objectives.ELBO()(vae.terms(p, {}, batch, {"z": noise["z1"]}, 0))[0], own)
    assert ours[0] == theirs[0]
    for a, b in names.items():
        np.testing.assert_array_equal(ours[1][f"{b}.weight"], theirs[1][f"{a}.weight"])


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("posterior", ["diagonal", "chain", "band:2", "ar1"])
def test_layers_are_products(posterior, share):
    model = ladder(posterior=posterior, share=share)
    params, batch, noise = at(model)
    terms = model.terms(params, {}, batch, noise)
    features = model.tower(params, batch.x)
    for i in (0, 1):
        layer, above = terms.layers[i], terms.layers[i + 1].z
        says = model.encoders[i](params, features[i])
        other = model.merged[i + 1](params, above)
        precisions = [np.linalg.inv(np.asarray(q.covariance())) for q in (says, other)]
        covariance = np.linalg.inv(precisions[0] + precisions[1])
        weighed = sum((P @ np.asarray(q.mean)[..., None])[..., 0] for P, q in zip(precisions, (says, other), strict=True))
        assert_allclose(layer.q.covariance(), covariance, rtol=1e-9, atol=1e-12)
        assert_allclose(layer.q.mean, (covariance @ weighed[..., None])[..., 0], rtol=1e-9, atol=1e-12)
        assert_allclose(layer.p.mean, model.decoders[i + 1](params, above).mean)
        assert layer.kl is not None
        assert not layer.coupled


@pytest.mark.parametrize("share", [True, False])
def test_codes_are_at_the_mean_of_the_layer_above(share):
    """q(z_l | z_(l+1), x) of a draw is that of the terms; of the mean of q(z_(l+1) | ..) it is the code."""
    model = ladder(share=share)
    _, batch, noise = at(model)
    params = moved(model)
    layers = {layer.name: layer for layer in model.terms(params, {}, batch, noise).layers}
    codes = model.code(params, {}, batch)
    assert list(codes) == list(layers) == ["z1", "z2", "z3"]
    assert_allclose(codes["z3"].mean, layers["z3"].q.mean)
    for name, above in (("z1", "z2"), ("z2", "z3")):
        of_draw, of_mean, of_zero = (
            model.posterior_given(params, {}, batch, name, {above: z})
            for z in (layers[above].z, codes[above].mean, 0 * codes[above].mean)
        )
        assert_allclose(of_draw.mean, layers[name].q.mean, rtol=1e-12)
        assert_allclose(of_draw.variance(), layers[name].q.variance(), rtol=1e-12)
        assert_allclose(codes[name].mean, of_mean.mean, rtol=1e-12)
        assert_allclose(codes[name].variance(), of_mean.variance(), rtol=1e-12)
        assert np.abs(of_mean.mean - of_zero.mean).max() > 0.01


def test_uninformative_data_leave_the_prior():
    model = ladder()
    params, batch, noise = at(model)
    for i, n in ((1, 4), (2, 3)):
        params[f"encoder{i}.0.weight"][...] = 0
        params[f"encoder{i}.0.bias"][n:] = unbounded(np.full(n, 0.999 * LOG_SCALE), LOG_SCALE)  # deviations of nearly 1e3
    first, second, top = (layer.kl for layer in model.terms(params, {}, batch, noise).layers)
    assert first.max() < 1e-4
    assert second.max() < 1e-4
    assert top.min() >= 0


def raw_scale(variance, n):
    return unbounded(np.full(n, 0.5 * np.log(variance)), LOG_SCALE)


def linear_gaussian():
    """(ladder, its exact parameters, a hierarchy, its best parameters, the gap of the hierarchy, x, exact log p(x))

    x | z1 ~ N(W1 z1, psi I), z1 | z2 ~ N(W2 z2, s I), z2 ~ N(0, I): W1 and W2 have orthogonal columns, those of W1 of one
    length, so that p(z1 | z2, x) and p(z2 | x) have independent variables, and p(z1 | x) does not.
    """
    n1, n2, psi, s = 4, 2, 2.0, 0.3
    W1 = 1.3 * np.linalg.qr(rng.normal(size=(D, n1)))[0]
    W2 = np.linalg.qr(rng.normal(size=(n1, n2)))[0] * [2.5, 1.0]
    a = 1.3**2 / psi  # W1ᵀ W1 / psi
    x = rng.normal(size=(5, D))
    C = W1 @ (W2 @ W2.T + s * np.eye(n1)) @ W1.T + psi * np.eye(D)
    log_p = -0.5 * (np.einsum("bi,ij,bj->b", x, np.linalg.inv(C), x) + np.linalg.slogdet(2 * np.pi * C)[1])
    common = {"activation": "identity", "observation": "gaussian", "normalize": None, "output_bias": "zero"}
    model = models.Ladder(D, (n1, n2), hidden=((D,), (D,)), decoder_hidden=((), ()), dtype="float64", **common)
    params = {name: np.zeros_like(value) for name, value in model.init(random.key(0)).items()}
    params["trunk.0.0.weight"] = params["trunk.1.0.weight"] = np.eye(D)
    to_z1 = W1.T / (psi * a)
    P2 = np.diag(1 + (W2**2).sum(axis=0) / (1 / a + s))
    to_z2 = np.linalg.inv(P2) @ W2.T @ to_z1 / (1 / a + s)
    variances = {"encoder1": np.full(n1, 1 / a), "encoder2": 1 / np.diag(P2), "decoder1": np.full(n1, s)}
    for name, weight in (("encoder1", to_z1), ("encoder2", to_z2), ("decoder1", W2)):
        n = len(weight)
        params[f"{name}.0.weight"][:, :n] = weight.T
        params[f"{name}.0.bias"][n:] = unbounded(0.5 * np.log(variances[name]), LOG_SCALE)
    params["decoder0.0.weight"], params["decoder0.shared"] = W1.T, raw_scale(psi, D)

    bottom = models.Hierarchical(D, (n1, n2), hidden=((), ()), dtype="float64", **common)
    own = {name: np.zeros_like(value) for name, value in bottom.init(random.key(0)).items()}
    P1 = a * np.eye(n1) + np.linalg.inv(W2 @ W2.T + s * np.eye(n1))
    P21 = np.diag(1 + (W2**2).sum(axis=0) / s)
    weights = {"encoder1": np.linalg.inv(P1) @ W1.T / psi, "encoder2": np.linalg.inv(P21) @ W2.T / s, "decoder1": W2}
    variances = {"encoder1": 1 / np.diag(P1), "encoder2": 1 / np.diag(P21), "decoder1": np.full(n1, s)}
    for name, weight in weights.items():
        n = len(weight)
        own[f"{name}.0.weight"][:, :n] = weight.T
        own[f"{name}.0.bias"][n:] = unbounded(0.5 * np.log(variances[name]), LOG_SCALE)
    own["decoder0.0.weight"], own["decoder0.shared"] = W1.T, raw_scale(psi, D)
    gap = 0.5 * (np.log(np.diag(P1)).sum() - np.linalg.slogdet(P1)[1])
    return model, params, bottom, own, gap, x, log_p


def test_the_posterior_of_a_linear_gaussian_model():
    """Inferred downwards it is exact; inferred upwards by independent variables it is not, by a gap in closed form."""
    model, params, bottom, own, gap, x, log_p = linear_gaussian()
    _, batch, noise = at(model, 50, x)
    assert_allclose(model.terms(params, {}, batch, noise).log_weights, np.broadcast_to(log_p, (50, 5)), atol=1e-10)
    assert gap > 0.05
    noise = bottom.noise(random.key(2), batch, 4000)
    weights = bottom.terms(own, {}, batch, noise).log_weights
    error = weights.std(axis=0) / 4000**0.5
    assert (np.abs(weights.mean(axis=0) - (log_p - gap)) < 4 * error).all()


def test_the_path_gradient_vanishes_at_the_posterior():
    """Of every draw: q's parameters are constant in log q along the path, those of the merge included."""
    model, params, *_, x, _ = linear_gaussian()
    _, batch, noise = at(model, 3, x)
    objective = objectives.parse("elbo", gradient="stl")
    _, gradient = value_and_gradient(lambda p: objective(model.terms(p, {}, batch, noise, 0))[0], params)
    for name in ("trunk.0.0.weight", "encoder1.0.weight", "encoder2.0.weight", "encoder2.0.bias"):
        assert np.abs(gradient[name]).max() < 1e-9, name


@pytest.mark.parametrize("estimator", ["vimco", "rws"])
def test_the_score_of_networks_that_inference_alone_merges(estimator):
    """share=False: a step moves every network of q, those it merges with included, by log q of draws that are constant."""
    model = ladder(share=False)
    _, batch, _ = at(model)
    params = moved(model)
    objective = objectives.parse("iwae", gradient=estimator)
    trainer = training.Trainer(model, objective=objective, samples=4, parameters=params)
    terms = model.terms(params, {}, batch, trainer.noise(trainer.inputs().noise, batch), 0)
    z, log_weights = {layer.name: layer.z for layer in terms.layers}, terms.log_weights
    share = bounds.IWAE.weights(log_weights)
    if estimator == "vimco":
        share = bounds.IWAE(log_weights) - bounds.leave_one_out(bounds.IWAE, log_weights) - share

    def score(p):
        log_q = sum(model.posterior_given(p, {}, batch, name, z).log_prob(z[name]) for name in z)
        return arrays.sum(share * log_q) / N

    expected = gradient(score, params)
    trainer.step(batch)
    of_q = [name for name in params if not name.startswith("decoder")]
    assert {name.partition(".")[0] for name in of_q} == {"trunk", "encoder1", "encoder2", "encoder3", "merged1", "merged2"}
    for name in of_q:
        assert_allclose(-trainer.gradient[name], expected[name], rtol=1e-9, atol=1e-12)
        assert np.abs(expected[name]).max() > 1e-4, name


@pytest.mark.parametrize(("prior", "closed"), [(None, True), ("ar1", True), ("mixture:2", False)])
def test_whether_all_kls_have_a_closed_form(prior, closed):
    model = ladder(prior=prior)
    params, batch, noise = at(model)
    assert model.has_closed_kl is closed
    assert [layer.kl is not None for layer in model.terms(params, {}, batch, noise).layers] == [True, True, closed]


def test_the_output_starts_at_the_means_of_the_data():
    model = models.Ladder(D, (4, 2), hidden=(6,), dtype="float64")
    params, _ = model.prepare(model.init(random.key(0)), {}, data.Table(BITS, dtype=np.float64), random.key(1))
    assert_allclose(params["decoder0.1.bias"], np.log(BITS.mean(axis=0) / (1 - BITS.mean(axis=0))), rtol=1e-12)


@pytest.mark.parametrize("posterior", ["diagonal", "chain"])
def test_kl_in_closed_form(posterior):
    model = ladder(posterior=posterior)
    params, batch, noise = at(model, 4000)
    for layer in model.terms(params, {}, batch, noise).layers:
        drawn = np.asarray(layer.log_q - layer.log_p)
        closed = np.broadcast_to(layer.kl, drawn.shape)
        error = (drawn - closed).std(axis=0) / 4000**0.5
        assert (np.abs((drawn - closed).mean(axis=0)) < 5 * error + 1e-12).all()


@pytest.mark.parametrize("posterior", ["diagonal", ("chain", "chain", "diagonal")])
def test_saved_and_captured(posterior, tmp_path):
    settings = {"latent": (4, 3, 2), "hidden": (8,), "posterior": posterior, "observation": "bernoulli", "warmup": 1}
    model = gvae.LadderVAE(**settings, epochs=2, batch_size=10, random_state=0).fit(BITS)
    kept_and_captured(model, BITS, tmp_path / "model")
    assert {name: z.shape for name, z in model.codes(BITS).items()} == {"z1": (N, 4), "z2": (N, 3), "z3": (N, 2)}
    np.testing.assert_array_equal(model.transform(BITS), model.codes(BITS)["z1"])
    assert model.sample(3).shape == (3, D)
    found = evaluation.bits(evaluation.Subject(model.model_, model.parameters_, data.Table(BITS.astype(np.float32))))
    assert found.decoded


def test_refusals():
    with pytest.raises(gvae.errors.ConfigError, match="product"):
        ladder((6, 2), posterior=("extended_grid:2x3", "diagonal"))
    with pytest.raises(gvae.errors.ConfigError, match="product"):
        ladder((4, 2), posterior=("bernoulli", "diagonal"))
    with pytest.raises(gvae.errors.ConfigError, match="level without layers"):
        ladder((4, 2), hidden=((6,), ()))
    settings = {"latent": (4, 2), "hidden": (6,), "epochs": 1}
    estimators = settings | {"normalize": None, "objective": "iwae", "gradient": "dreg", "samples": 2}
    with pytest.raises(gvae.errors.ConfigError, match="share=False"):
        gvae.LadderVAE(**estimators).fit(BITS)
    gvae.LadderVAE(**estimators, share=False).fit(BITS)
    with pytest.raises(gvae.errors.ConfigError, match="batch normalisation"):
        gvae.LadderVAE(**estimators | {"normalize": "batch"}, share=False).fit(BITS)
    with pytest.raises(gvae.errors.ConfigError, match="larger batches"):
        gvae.LadderVAE(**settings, batch_size=1).fit(BITS)

"""Variational canonical correlation analysis: its limits, the linear-Gaussian model, private codes, and wrong data."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import linalg

import gvae
from gvae import families, models, objectives, ops, random
from gvae.autodiff import value_and_gradient
from gvae.data import Batch, Table
from gvae.errors import ConfigError, DataError
from gvae.families import LOG_SCALE
from gvae.families.base import unbounded
from gvae.training import Trainer

rng = np.random.default_rng(0)
N, DX, DY = 30, 6, 4
Z = rng.normal(size=(N, 2))
X = Z @ rng.normal(size=(2, DX)) + 0.7 * rng.normal(size=(N, DX))
Y = Z @ rng.normal(size=(2, DY)) + 0.7 * rng.normal(size=(N, DY))
SIZES, BATCH = {"x": DX, "y": DY}, Batch({"x": X, "y": Y}, np.arange(N))


def vcca(latent=3, **settings):
    given = {"hidden": (5,), "observation": "gaussian", "activation": "tanh"}
    return models.VCCA(SIZES, latent, **given | settings, dtype="float64")


def moved(model, seed=1):
    r = np.random.default_rng(seed)
    return {name: value + 0.3 * r.normal(size=value.shape) for name, value in model.init(random.key(0)).items()}


def ascended(model, params, noise, batch=BATCH):
    return value_and_gradient(lambda p: objectives.ELBO()(model.terms(p, {}, batch, noise, 0))[0], params)


def test_without_the_second_view_it_is_a_vae():
    """weight_y=0: all bits of the step's value and gradient. Rows are scored with both views nevertheless."""
    model, vae = vcca(weight_y=0.0), models.VAE(DX, 3, "diagonal", "gaussian", (5,), "tanh", dtype="float64")
    params = moved(model)
    noise = model.noise(random.key(2), BATCH, 2)
    ours, theirs = ascended(model, params, noise), ascended(vae, {n: params[n] for n in vae.init(random.key(0))}, noise)
    assert ours[0] == theirs[0]
    for name, slope in theirs[1].items():
        assert_array_equal(ours[1][name], slope)
    assert not any(slope.any() for name, slope in ours[1].items() if name.startswith("decoder_y."))
    scored = model.terms(params, {}, BATCH, noise)
    assert_allclose(scored.total_log_likelihood, scored.log_likelihood["x"] + scored.log_likelihood["y"])
    assert (scored.log_likelihood["y"] != 0).all()


def test_no_private_codes():
    a, b = vcca(private=(0, 0)), vcca()
    params, noise = moved(a), a.noise(random.key(2), BATCH, 2)
    assert list(a.coded) == ["z"]
    assert_array_equal(noise["z"], b.noise(random.key(2), BATCH, 2)["z"])
    assert ascended(a, params, noise)[0] == ascended(b, params, noise)[0]


def test_the_weight_of_the_second_view():
    model, whole = vcca(weight_y=0.3), vcca()
    params, noise = moved(model), model.noise(random.key(2), BATCH, 2)
    terms, full = model.terms(params, {}, BATCH, noise, 0), whole.terms(params, {}, BATCH, noise, 0)
    assert_allclose(terms.log_likelihood["y"], 0.3 * full.log_likelihood["y"])
    assert_array_equal(terms.log_likelihood["x"], full.log_likelihood["x"])


@pytest.mark.parametrize("objective", ["elbo", "elbo:beta=2", "iwae"])
@pytest.mark.parametrize("weight", [0.0, 4.0])
def test_the_bound_is_reported_without_weights_and_the_objective_with_them(objective, weight):
    """Whatever the weight, "bound" and "log_likelihood" are those of both views; what training ascends is "objective", and
    held-out rows are watched by it, too."""
    found = {}
    for w in (1.0, weight):
        trainer = Trainer(vcca(weight_y=w), objective=objectives.parse(objective), samples=2, seed=1)
        found[w] = trainer.validate(Table(X, y=Y, dtype="float64"))
    for name in ("bound", "log_likelihood"):
        assert_allclose(found[weight][name], found[1.0][name])
    model, noise = vcca(weight_y=weight), vcca().noise(random.key(2), BATCH, 2)
    params = moved(model)
    of_step = objectives.terms.ascended(objectives.parse(objective), model.terms(params, {}, BATCH, noise, 0), 0, None)
    watched = objectives.terms.ascended(objectives.parse(objective), model.watch(params, {}, BATCH, noise), 0, None)
    assert_allclose(of_step[0], watched[1]["objective"])
    assert_allclose(of_step[1]["objective"], watched[1]["objective"])
    assert_allclose(of_step[1]["bound"], objectives.parse(objective)(model.terms(params, {}, BATCH, noise), 0)[1]["bound"])
    assert abs(of_step[1]["bound"] - of_step[1]["objective"]) > 1


def test_many_rows_have_the_posteriors_of_few(monkeypatch):
    """Codes of the second view are not inferred from the first one, however many rows there are."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 3))
    model = gvae.VCCA(latent=1, private=(1, 1), hidden=(4,), epochs=1, random_state=0).fit(X, Y)
    few, several = model.posterior_of(X), model.posterior_of(X, Y)
    monkeypatch.setattr("gvae.estimator.base.CHUNK", 10)
    np.testing.assert_array_equal(model.posterior_of(X).mean, few.mean)
    np.testing.assert_array_equal(model.posterior_of(X, Y).mean, several.mean)


def test_private_codes_take_part_in_estimators_that_arrange_or_dream_the_codes():
    """DisARM's gradient is that of the ELBO enumerated over three bits; wake-sleep trains the encoders of private codes."""
    model = models.VCCA({"x": 3, "y": 3}, 1, "bernoulli", "bernoulli", private=(1, 1), hidden=(), dtype="float64")
    params, draws = moved(model), np.random.default_rng(3)
    batch = Batch({view: (draws.random((4, 3)) < 0.4).astype(float) for view in "xy"}, np.arange(4))
    assert model.inference_order == ("z", "h_x", "h_y") == tuple(model.noise(random.key(0), batch))

    def enumerated(p):
        q = {name: model.encode(p, name, model.read(p, batch), batch) for name in model.coded}
        value = 0.0
        for bits in itertools.product((0.0, 1.0), repeat=3):
            z = {name: np.full((1, 4, 1), bit) for name, bit in zip(q, bits, strict=True)}
            views = model.decode(p, {}, z)
            log_q = sum(q[name].log_prob(z[name]) for name in q)
            log_p = sum(views[view].log_prob(getattr(batch, view)) for view in views) + 3 * np.log(0.5)
            value = value + ops.mean(ops.exp(log_q) * (log_p - log_q))
        return value

    objective = objectives.ELBO(gradient="disarm")
    noise = objective.arrange(model.noise(random.key(4), batch, 24_000), model.inference_order)
    found = value_and_gradient(lambda p: objective(model.terms(p, {}, batch, noise, 0))[0], params)[1]
    expected = value_and_gradient(enumerated, params)[1]
    for name in ("encoder.0.weight", "encoder_h_x.0.weight", "encoder_h_y.0.weight"):
        assert_allclose(found[name], expected[name], atol=0.02)  # five standard errors
        assert np.abs(expected[name]).max() > 0.08
    dreaming = gvae.VCCA(latent=2, private=(1, 1), hidden=(4,), objective="wake_sleep", epochs=1, random_state=0).fit(X, Y)
    start = dreaming.model_.init(random.key(0))
    assert all(
        np.abs(dreaming.parameters_[f"encoder_h_{v}.0.weight"] - start[f"encoder_h_{v}.0.weight"]).any() for v in "xy"
    )


def test_private_codes():
    """Each is inferred from its own view, explains its own view, and has its own KL."""
    model = vcca(private=(2, 1))
    params, noise = moved(model), model.noise(random.key(2), BATCH, 2)
    other = Batch({"x": X, "y": Y[::-1].copy()}, np.arange(N))
    first, second = model.code(params, {}, BATCH), model.code(params, {}, other)
    for name in ("z", "h_x"):
        assert_array_equal(first[name].mean, second[name].mean)
    assert np.abs(first["h_y"].mean - second["h_y"].mean).max() > 0.1
    assert [layer.name for layer in model.terms(params, {}, BATCH, noise).layers] == ["z", "h_x", "h_y"]
    z = {"z": np.zeros((4, 3)), "h_x": np.zeros((4, 2)), "h_y": np.zeros((4, 1))}
    before, after = (model.decode(params, {}, z | {"h_y": np.full((4, 1), h)}) for h in (0.0, 2.0))
    assert_array_equal(before["x"].mean, after["x"].mean)
    assert np.abs(before["y"].mean - after["y"].mean).max() > 1e-3
    assert_array_equal(model.decode(params, {}, {"z": z["z"]})["y"].mean, before["y"].mean)  # at the prior's mean


def widths(model):
    """(inputs, hidden .., outputs) of each network, from the shapes of its weights."""
    found = {}
    for name, value in model.init(random.key(0)).items():
        if name.endswith(".weight"):
            found.setdefault(name.partition(".")[0], [len(value)]).append(value.shape[1])
    return {name: tuple(sizes) for name, sizes in found.items()}


BITS = {"posterior": "bernoulli", "observation": "bernoulli"}  # of which networks emit a number for each variable


@pytest.mark.parametrize("reads", ["x", "both"])
@pytest.mark.parametrize("private", [None, (2, 1), (0, 1)])
def test_the_widths_of_networks(private, reads):
    """Each decoder mirrors the encoder of its view; `layers` tells without building them."""
    given = {"hidden": ((7, 5), (6,)), "private": private, "reads": reads}
    model = vcca(**given | BITS)
    h_x, h_y = private or (0, 0)
    expected = {"encoder": (DX + DY if reads == "both" else DX, 7, 5, 3)}
    expected |= {"encoder_h_x": (DX, 7, 5, h_x)} if h_x else {}
    expected |= {"encoder_h_y": (DY, 6, h_y)} if h_y else {}
    expected |= {"decoder": (3 + h_x, 5, 7, DX), "decoder_y": (3 + h_y, 6, DY)}
    assert widths(model) == expected
    assert sorted(models.VCCA.layers(models.VCCA.Settings(3, **given | BITS), SIZES)) == sorted(expected.values())


def test_widths_of_decoders_that_are_given():
    given = {"hidden": ((7, 5), (6,)), "decoder_hidden": ((8,), (9, 4))}
    expected = {"encoder": (DX, 7, 5, 3), "decoder": (3, 8, DX), "decoder_y": (3, 9, 4, DY)}
    assert widths(vcca(**given, **BITS)) == expected
    assert sorted(models.VCCA.layers(models.VCCA.Settings(3, **given | BITS), SIZES)) == sorted(expected.values())
    assert widths(vcca(decoder_hidden=(8,), **BITS)) == {
        "encoder": (DX, 5, 3), "decoder": (3, 8, DX), "decoder_y": (3, 8, DY)
    }  # fmt: skip


def test_a_learned_prior_of_the_shared_code():
    """Of z alone: private codes keep the standard one."""
    model = vcca(prior="ar1", private=(2, 1))
    params = moved(model)
    assert [name for name in params if name.startswith("prior")] == ["prior.raw"]
    layers = model.terms(params, {}, BATCH, model.noise(random.key(2), BATCH, 2)).layers
    ar1 = families.parse("ar1", 3)(params["prior.raw"])
    for layer, p in zip(layers, (ar1, layers[1].q.standard, layers[2].q.standard), strict=True):
        assert_allclose(layer.log_p, p.log_prob(layer.z), rtol=1e-12)
    drawn = model.sample_prior(params, random.key(0), 100_000)["z"]
    assert_allclose(np.cov(drawn.T), ar1.covariance(), atol=0.05)


def test_dropout_of_codes():
    """Where a step drops them, all or none, views are as decoded from 0 or from scaled codes."""
    model = vcca(private=(2, 1), dropout=0.5, decoder_hidden=())
    params, noise, masks = moved(model), model.noise(random.key(2), BATCH, 2), model.masks(random.key(3), BATCH, 2)
    assert {name: u.shape for name, u in masks.items() if "decoder" in name} == {
        "dropout.decoder.inputs": (2, N, 5), "dropout.decoder_y.inputs": (2, N, 4)
    }  # fmt: skip
    for u, scale in ((0.0, 0.0), (0.9, 2.0)):
        terms = model.terms(params, {}, BATCH, noise | {name: np.full_like(m, u) for name, m in masks.items()}, 0)
        expected = model.decode(params, {}, {layer.name: scale * layer.z for layer in terms.layers})
        for view in SIZES:
            assert_allclose(terms.views[view].mean, np.broadcast_to(expected[view].mean, terms.views[view].mean.shape))


def sigma_points(n, rows):
    """Noise whose mean is 0 and whose covariance is I exactly: expectations of quadratic functions have no error."""
    points = np.sqrt(n) * np.concatenate([np.eye(n), -np.eye(n)])
    return np.broadcast_to(points[:, None], (2 * n, rows, n)).copy()


def linear(n, observation, reads="both"):
    return vcca(n, hidden=(), observation=observation, reads=reads, posterior="full")


def exact(model, W, blocks):
    """Parameters of p(x, y | z) = N(W z, blocks), with the exact q(z | x, y)."""
    n = W.shape[1]
    noise = linalg.block_diag(*blocks)
    P = np.eye(n) + W.T @ np.linalg.solve(noise, W)
    C = np.linalg.inv(P)
    to_z = C @ W.T @ np.linalg.inv(noise)
    params = {name: np.zeros_like(value) for name, value in model.init(random.key(0)).items()}
    q = families.parse("full", n)
    for view, rows in (("decoder", slice(0, DX)), ("decoder_y", slice(DX, None))):
        params[f"{view}.0.weight"] = W[rows].T.copy()
    params["encoder.0.weight"][:, :n] = to_z.T
    params["encoder.0.bias"] = raw_of(q, C)
    return params


def raw_of(q, covariance):
    """Unconstrained parameters of a full Gaussian of mean 0 and this covariance, found by a search from the standard one."""
    from scipy.optimize import root

    n, lower = q.n, np.tril_indices(q.n)
    start = q.start(random.key(0), np.float64)

    def miss(rest):
        raw = np.concatenate([np.zeros(n), rest])
        return np.asarray(q(raw).covariance())[lower] - covariance[lower]

    found = root(miss, start[n:], tol=1e-14)
    assert np.abs(miss(found.x)).max() < 1e-10
    return np.concatenate([np.zeros(n), found.x])


def test_codes_of_both_views_need_both():
    model = gvae.VCCA(reads="both", latent=2, hidden=(4,), epochs=1, random_state=0).fit(X, Y)
    assert model.posterior_of(X, Y).mean.shape == model.codes(X, Y)["z"].shape == (len(X), 2)
    for method, has in (("posterior_of", "posterior_of"), ("codes", "codes"), ("transform", "codes")):
        said = rf"VCCA\.{method}: the code z is inferred from X and y together; {has}\(X, y\) has it"
        with pytest.raises(DataError, match=said):
            getattr(model, method)(X)


def test_inference_from_both_views_is_exact():
    """With q(z | x, y) of the linear-Gaussian model each weight is p(x, y), as factor analysis of both views has it."""
    psi = 0.5
    W = rng.normal(size=(DX + DY, 2))
    model = linear(2, "gaussian")
    params = exact(model, W, [psi * np.eye(DX), psi * np.eye(DY)])
    for name, size in (("decoder", DX), ("decoder_y", DY)):
        params[f"{name}.shared"] = unbounded(np.full(size, 0.5 * np.log(psi)), LOG_SCALE)
    rows, C = np.concatenate([X, Y], axis=1), W @ W.T + psi * np.eye(DX + DY)
    log_p = -0.5 * (np.einsum("bi,ij,bj->b", rows, np.linalg.inv(C), rows) + np.linalg.slogdet(2 * np.pi * C)[1])
    weights = model.terms(params, {}, BATCH, model.noise(random.key(3), BATCH, 5)).log_weights
    assert_allclose(weights, np.broadcast_to(log_p, (5, N)), atol=1e-8)
    exact_analysis = gvae.models.FactorAnalysis(W, np.zeros(DX + DY), np.full(DX + DY, psi))
    assert_allclose(exact_analysis.log_prob(rows), log_p, atol=1e-9)


def test_canonical_correlations_are_the_optimum():
    """Bach and Jordan (2005): with full noise in each view, weights from CCA are where the likelihood is stationary."""
    x, y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    Sxx, Syy, Sxy = x.T @ x / N, y.T @ y / N, x.T @ y / N
    A, B = (np.linalg.inv(linalg.sqrtm(S).real) for S in (Sxx, Syy))
    U, rho, Vt = np.linalg.svd(A @ Sxy @ B)
    n = 2
    M = np.sqrt(rho[:n])
    W = np.concatenate([Sxx @ A @ U[:, :n] * M, Syy @ B @ Vt[:n].T * M])
    Wx, Wy = W[:DX], W[DX:]
    model = linear(n, "shared:full")
    blocks = [Sxx - Wx @ Wx.T, Syy - Wy @ Wy.T]
    params = exact(model, W, blocks)
    for name, size, S in (("decoder", DX, blocks[0]), ("decoder_y", DY, blocks[1])):
        params[f"{name}.shared"] = raw_of(families.parse("full", size), S)[size:]
    batch = Batch({"x": x, "y": y}, np.arange(N))
    _, slope = ascended(model, params, {"z": sigma_points(n, N)}, batch)
    for name in ("decoder.0.weight", "decoder_y.0.weight", "decoder.shared", "decoder_y.shared"):
        assert np.abs(slope[name]).max() < 1e-7, name
    params["decoder.0.weight"] *= 1.1  # and not elsewhere
    assert np.abs(ascended(model, params, {"z": sigma_points(n, N)}, batch)[1]["decoder.0.weight"]).max() > 1e-3


@pytest.mark.parametrize("settings", [{}, {"private": (2, 1)}, {"reads": "both"}, {"normalize": "batch", "dropout": 0.2}])
def test_the_estimator(settings, tmp_path):
    model = gvae.VCCA(latent=2, hidden=(8,), epochs=3, batch_size=10, random_state=0, **settings).fit(X, Y)
    both = {"x": (5, DX), "y": (5, DY)}
    assert {name: view.shape for name, view in model.sample(5).items()} == both
    assert {name: view.shape for name, view in model.inverse_transform(np.zeros((5, 2))).items()} == both
    codes = model.codes(X[:5], Y[:5])
    assert codes["z"].shape == (5, 2)
    assert set(codes) == {"z"} | ({"h_x", "h_y"} if "private" in settings else set())
    if "reads" in settings:
        for method in (model.transform, model.reconstruct):
            with pytest.raises(DataError, match=r"codes\(X, y\)"):
                method(X[:5])
    else:
        assert_array_equal(model.transform(X[:5]), codes["z"])
        assert {name: view.shape for name, view in model.reconstruct(X[:5]).items()} == both
    model.save(tmp_path / "model")
    assert_array_equal(gvae.load(tmp_path / "model").score_samples(X[:5], Y[:5]), model.score_samples(X[:5], Y[:5]))


def test_captured():
    from gvae import data, training

    trainer = training.Trainer(vcca(private=(2, 1)), seed=1)
    training.train(trainer.model, data.Table(X, y=Y), epochs=2, batch_size=10, trainer=trainer)
    assert trainer.why_not == ""
    assert all(program.verified for program in trainer.programs.known.values())


def test_refusals():
    wrong = np.where(np.arange(DY) == 2, np.where(np.arange(N)[:, None] == 3, np.nan, Y), Y)
    cases = [
        (lambda m: m.fit(X), DataError, "second view"),
        (lambda m: m.fit(X, Y[:9]), DataError, "different lengths"),
        (lambda m: m.fit(X, wrong), DataError, "y.*row 3, column 2"),
        (lambda m: m.fit(wrong, X), DataError, "X.*row 3, column 2"),
        (lambda m: m.fit(X, Y).transform(X[:, :2]), gvae.errors.ShapeError, "2 features"),
        (lambda m: m.set_params(private=(-1, 0)).fit(X, Y), ConfigError, "private is"),
        (lambda m: m.set_params(private=None, weight_y=-1).fit(X, Y), ConfigError, "weight_y"),
    ]
    for call, error, said in cases:
        with pytest.raises(error, match=said):
            call(gvae.VCCA(latent=2, hidden=(4,), epochs=1))
    with pytest.raises(TypeError):
        gvae.VCCA(latent=2, hidden=(4,), epochs=1).fit(X, Y).transform(X, Y)

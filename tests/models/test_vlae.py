"""Variational ladder autoencoders: the limits, the way down in NumPy, what each level pays, and the claim about chains."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from run_cases import kept_and_captured
from scipy import linalg

import gvae
from gvae import evaluation, models, random
from gvae.autodiff import value_and_gradient
from gvae.data import Batch, Table
from gvae.errors import ConfigError
from gvae.objectives import ELBO

rng = np.random.default_rng(0)
D, N = 6, 40
BITS = (rng.random((N, D)) < 0.4).astype(np.float64)
BATCH = Batch({"x": BITS}, np.arange(N))


def vlae(latent=(2, 1, 3), **settings):
    given = {"observation": "bernoulli", "hidden": ((5, 4), (4,), (3,)), "activation": "tanh", "dtype": "float64"}
    return models.VLAE(D, latent, **given | settings)


def moved(model, seed=1):
    r = np.random.default_rng(seed)
    return {name: v + 0.3 * r.normal(size=v.shape) for name, v in model.init(random.key(0)).items()}


def of_vae(name):
    """The name in a VLAE of one level of two layers of the parameter of a VAE."""
    network, i, kind = name.split(".")
    if network == "encoder":
        return f"trunk.0.{i}.{kind}" if i < "2" else f"encoder1.0.{kind}"
    return f"decoder1.{i}.{kind}" if i < "2" else f"decoder0.0.{kind}"


@pytest.mark.parametrize("posterior", ["diagonal", "chain"])
def test_one_level_is_the_vae(posterior):
    """All bits of value and gradient."""
    ladder = vlae(3, hidden=(5, 4), posterior=posterior)
    plain = models.VAE(D, 3, posterior, "bernoulli", (5, 4), "tanh", dtype="float64")
    params = moved(plain)
    noise = plain.noise(random.key(2), BATCH, 2)
    assert_array_equal(ladder.noise(random.key(2), BATCH, 2)["z1"], noise["z"])
    value, slope = value_and_gradient(lambda p: ELBO()(plain.terms(p, {}, BATCH, noise, 0))[0], params)
    other, its = value_and_gradient(
        lambda p: ELBO()(ladder.terms(p, {}, BATCH, {"z1": noise["z"]}, 0))[0], {of_vae(n): v for n, v in params.items()}
    )
    assert value == other
    for name in params:
        assert_array_equal(slope[name], its[of_vae(name)])


def test_closed_gates_leave_the_vae_of_the_top_code():
    """With gates of 0, x depends on z_L alone, through the networks of all levels one after another."""
    ladder = vlae((2, 3), hidden=((5,), (4,)), combine="gate")
    params = moved(ladder)
    params["join1.gate"] = np.zeros_like(params["join1.gate"])
    plain = models.VAE(D, 3, "diagonal", "bernoulli", (5, 4), "tanh", dtype="float64")
    names = {"trunk.0.0": "encoder.0", "trunk.1.0": "encoder.1", "encoder2.0": "encoder.2"}
    names |= {"decoder2.0": "decoder.0", "decoder1.0": "decoder.1", "decoder0.0": "decoder.2"}
    single = {f"{its}.{kind}": params[f"{mine}.{kind}"] for mine, its in names.items() for kind in ("weight", "bias")}
    noise = ladder.noise(random.key(3), BATCH, 2)
    mine = ladder.terms(params, {}, BATCH, noise)
    its = plain.terms(single, {}, BATCH, {"z": noise["z2"]})
    assert_allclose(mine.total_log_likelihood, its.total_log_likelihood, rtol=1e-12)
    assert_allclose(mine.layers[1].kl, its.layers[0].kl, rtol=1e-12)
    assert ladder.init(random.key(0))["join1.gate"].tolist() == [0.1] * 4


@pytest.mark.parametrize("combine", ["concat", "gate"])
def test_the_way_down(combine):
    model = vlae(combine=combine)
    params = moved(model)
    z = {name: rng.normal(size=(2, 7, n)) for name, n in model.codes.items()}

    def layer(name, h):
        return h @ params[f"{name}.weight"] + params[f"{name}.bias"]

    def joined(i, above, own):
        if combine == "concat":
            return np.concatenate([above, own], axis=-1)
        return above + params[f"join{i}.gate"] * layer(f"join{i}.lift.0", own)

    h = np.tanh(layer("decoder3.0", z["z3"]))
    h = np.tanh(layer("decoder2.0", joined(2, h, z["z2"])))
    h = np.tanh(layer("decoder1.1", np.tanh(layer("decoder1.0", joined(1, h, z["z1"])))))
    expected = 1 / (1 + np.exp(-layer("decoder0.0", h)))
    assert_allclose(model.decode(params, {}, z)["x"].mean, expected, rtol=1e-12)


def test_the_way_up_and_what_each_level_pays():
    """h_1, h_2, h_3 one after another; KLs of levels add up; a head of zeros is the prior and pays nothing."""
    model = vlae()
    params = moved(model)
    for kind in ("weight", "bias"):
        params[f"encoder2.0.{kind}"] = np.zeros_like(params[f"encoder2.0.{kind}"])

    def layer(name, h):
        return h @ params[f"{name}.weight"] + params[f"{name}.bias"]

    h1 = np.tanh(layer("trunk.0.1", np.tanh(layer("trunk.0.0", BITS))))
    h3 = np.tanh(layer("trunk.2.0", np.tanh(layer("trunk.1.0", h1))))
    q = model.code(params, {}, BATCH)
    assert_allclose(q["z1"].mean, layer("encoder1.0", h1)[:, :2], rtol=1e-12)
    assert_allclose(q["z3"].mean, layer("encoder3.0", h3)[:, :3], rtol=1e-12)
    terms = model.terms(params, {}, BATCH, model.noise(random.key(0), BATCH, 1), 0)
    _, metrics = ELBO()(terms)
    kl = [q[name].kl().mean() for name in ("z1", "z2", "z3")]
    assert kl[1] == 0
    assert min(kl[0], kl[2]) > 0.01
    assert metrics["kl"] == pytest.approx(sum(kl), rel=1e-12)
    assert terms.inference == ("encoder1", "encoder2", "encoder3", "trunk")


@pytest.mark.parametrize("exact", [True, False])
def test_the_chain_of_a_hierarchy(exact):
    """The claim against hierarchies: with an exact q(z1|x) the chain x, z1, x has p(x) as its law, upper layers or not. 10^5
    chains of a linear-Gaussian model with two layers after 40 steps: their covariance is the model's within 5 standard
    errors; with another q it is that of the chain's own linear recursion, which is another."""
    model = models.Hierarchical(4, (3, 2), ("full", "diagonal"), observation="gaussian", hidden=(), dtype="float64")
    params = {name: 0.5 * v for name, v in moved(model).items()}
    params["decoder0.0.bias"] *= 0
    params["decoder1.0.bias"] *= 0
    params["decoder0.shared"] *= 0
    params["decoder1.0.weight"][:, 3:] = 0  # deviations of 1, whatever z2
    W1, W2 = params["decoder0.0.weight"].T, params["decoder1.0.weight"][:, :3].T
    P = np.linalg.inv(W2 @ W2.T + np.eye(3))
    M = P + W1.T @ W1
    B, S = np.linalg.solve(M, W1.T), np.linalg.inv(M)  # p(z1|x) = N(B x, S)
    if not exact:
        B, S = 0.6 * B, 0.5 * S
    params["encoder1.0.weight"] = np.concatenate([B.T, np.zeros((4, 6))], axis=1)
    family = model.posterior
    params["encoder1.0.bias"] = np.concatenate([np.zeros(3), family.unconstrained(np.linalg.cholesky(S))])

    n, law = 100_000, W1 @ np.linalg.inv(P) @ W1.T + np.eye(4)
    subject = evaluation.Subject(model, params, Table(np.zeros((n, 4))), key=random.key(3), batch_size=25_000)
    x = evaluation.gibbs(subject, steps=40, keep=np.zeros(4, bool)).x
    A = W1 @ B
    assert np.abs(np.linalg.eigvals(A)).max() ** 80 < 1e-4  # it has forgotten where it began
    expected = linalg.solve_discrete_lyapunov(A, W1 @ S @ W1.T + np.eye(4))
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / n)
    assert (np.abs(np.cov(x.T) - expected) < 5 * error).all()
    if exact:
        assert_allclose(expected, law, rtol=1e-9)
    else:
        assert (np.abs(expected - law) > 20 * error).any()


def test_by_name(tmp_path):
    model = gvae.VLAE(latent=(2, 1), hidden=(8,), combine="gate", epochs=3, random_state=0).fit(BITS)
    assert {name: z.shape for name, z in model.codes(BITS).items()} == {"z1": (N, 2), "z2": (N, 1)}
    assert model.transform(BITS).shape == (N, 3)
    assert model.reconstruct(BITS[:3]).shape == model.sample(3).shape == (3, D)
    assert set(model.posterior_of(BITS[:2])) == {"z1", "z2"}
    kept_and_captured(model, BITS, tmp_path / "m")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent": ()}, r"latent is \(\), expected a whole number of at least 1, or one for each layer"),
        ({"latent": (2, 0)}, "latent is"),
        ({"combine": "add"}, "combine is 'add'; known are concat, gate"),
        ({"hidden": ((4,),)}, "hidden has 1 entries, expected one for each of 2 layers"),
        ({"hidden": ()}, "hidden has a level without layers, expected at least one width for each level"),
        ({"hidden": ((4,), ())}, "hidden has a level without layers"),
        ({"posterior": ("chain",) * 3}, "posterior has 3 entries, expected one for each of 2 layers"),
        ({"activation": "sine"}, "activation is 'sine'; known are"),
    ],
)
def test_refusals(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        gvae.VLAE(**{"latent": (2, 1), "hidden": (4,), "epochs": 1} | settings).fit(BITS, run=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()

"""Canonical correlations of two views: the op at its edges, the closed form against other ways to it, and the networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose, assert_array_equal

import gvae
from gvae import evaluation, objectives, ops, training
from gvae.autodiff import value_and_gradient
from gvae.data import Table
from gvae.errors import ConfigError, DataError, NonFiniteError, ShapeError
from gvae.ops.correlation import paired

rng = np.random.default_rng(0)
N = 300
COMMON = rng.normal(size=(N, 2))
X1 = COMMON @ rng.normal(size=(2, 5)) + rng.normal(size=(N, 5))
X2 = COMMON @ rng.normal(size=(2, 4)) + rng.normal(size=(N, 4))
SMALL = {"hidden": (16,), "batch_size": 100, "epochs": 3, "random_state": 1}


def graded(f, g, ridge):
    value, bars = value_and_gradient(lambda f, g: ops.canonical_correlation(f, g, ridge=ridge), f, g)
    return value, bars


def differences(f, g, ridge, df, dg, h=1e-5):
    up, down = (ops.canonical_correlation(f + s * df, g + s * dg, ridge=ridge) for s in (h, -h))
    return (up - down) / (2 * h)


def by_eigenvalues(x, y, ridge=0):
    """Canonical correlations as the roots of a generalized symmetric eigenvalue problem."""
    n = x.shape[1]
    s = np.cov(np.concatenate([x, y], axis=1).T)
    within = scipy.linalg.block_diag(
        *(part + ridge * np.diag(part).mean() * np.eye(len(part)) for part in (s[:n, :n], s[n:, n:]))
    )
    across = np.zeros_like(s)
    across[:n, n:], across[n:, :n] = s[:n, n:], s[n:, :n]
    return scipy.linalg.eigh(across, within, eigvals_only=True)[::-1][: min(n, y.shape[1])]


# ---- the op --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 3), (3, 2), (2, 4), (4, 4)])
def test_the_derivative_is_that_of_differences(n, m, ridge):
    f, g = X1[:40, :n], X2[:40, :m]
    _, (f_bar, g_bar) = graded(f, g, ridge)
    for df, dg in ((rng.normal(size=f.shape), 0 * g), (0 * f, rng.normal(size=g.shape))):
        expected = differences(f, g, ridge, df, dg)
        assert (f_bar * df).sum() + (g_bar * dg).sum() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_ridge_depends_on_the_view():
    """Scaling a view changes nothing, as the ridge is relative: the derivative along the view itself is 0."""
    for ridge in (0.0, 0.3):
        value, (f_bar, _) = graded(X1, X2, ridge)
        assert ops.canonical_correlation(7 * X1, X2, ridge=ridge) == pytest.approx(value, rel=1e-12)
        assert abs((f_bar * X1).sum()) < 1e-12


def test_equal_singular_values():
    """Eigenvectors are not unique there; the derivative is, and agrees with differences in any direction."""
    g = X1[:, :3] @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    value, (f_bar, g_bar) = graded(X1[:, :3], g, 0.2)
    assert np.isfinite(f_bar).all()
    assert np.isfinite(g_bar).all()
    q, _ = np.linalg.qr(X1 - X1.mean(axis=0))  # two views whose correlations are both 1/sqrt(2)
    f, g = q[:, :2], (q[:, :2] + q[:, 2:4])
    value, (f_bar, g_bar) = graded(f, g, 0.0)
    assert value == pytest.approx(2**0.5, rel=1e-12)
    df, dg = rng.normal(size=f.shape), rng.normal(size=g.shape)
    assert (f_bar * df + g_bar * dg).sum() == pytest.approx(differences(f, g, 0.0, df, dg, 1e-7), rel=1e-4)


def test_zero_singular_values_and_views_of_lower_rank():
    q, _ = np.linalg.qr(X1 - X1.mean(axis=0))
    cases = {
        "no correlation at all": (q[:, :2], q[:, 2:4], 0.0),
        "one of two": (q[:, :2], q[:, 1:3], 1.0),
        "a column twice": (q[:, [0, 1, 1]], q[:, :2], 2.0),
        "a constant column": (np.where([True, False], q[:, :2], 3.0), q[:, :2], 1.0),
        "nothing varies": (np.ones((N, 2)), q[:, :2], 0.0),
    }
    for name, (f, g, expected) in cases.items():
        for ridge in (0.0, 1e-6):
            value, bars = graded(f, g, ridge)
            assert value == pytest.approx(expected, abs=1e-5), name
            assert all(np.isfinite(bar).all() for bar in bars), name
            if expected == 0:  # a kink, where the derivative is chosen as 0
                assert max(np.abs(bar).max() for bar in bars) < 1e-12, name


def test_affine_maps_and_equal_views():
    a, b = rng.normal(size=(3, 3)), rng.normal(size=(4, 4))
    expected = ops.canonical_correlation(X1[:, :3], X2)
    assert_allclose(ops.canonical_correlation(X1[:, :3] @ a + 5, X2 @ b - 1e3), expected, rtol=1e-9)
    assert ops.canonical_correlation(X1, X1) == pytest.approx(5, rel=1e-12)
    w = np.linalg.eigvalsh(np.cov(X1.T))
    assert ops.canonical_correlation(X1, X1, ridge=0.01) == pytest.approx((w / (w + 0.01 * w.mean())).sum(), rel=1e-12)
    white = scipy.linalg.solve_triangular(np.linalg.cholesky(np.cov(X1[:, :3].T)), X1[:, :3].T, lower=True).T
    small = 0.0525**0.5 * white  # an absolute ridge of 0.01 takes a part of such a variance away
    assert ops.canonical_correlation(small, small, ridge=0.01 / 0.0525) == pytest.approx(2.52, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_rounding_leaves_is_no_variance(dtype):
    """Four outputs that are linear in two columns have the correlations of these, whatever the offsets and the dtype."""
    for seed, rows, offset in ((0, 20, 3), (1, 60, 0), (2, 2000, -20)):
        draw = np.random.default_rng(seed)
        x, y = draw.normal(size=(rows, 2)).astype(dtype), draw.normal(size=(rows, 2)).astype(dtype)
        to_f, to_g = draw.normal(size=(2, 4)).astype(dtype), draw.normal(size=(2, 4)).astype(dtype)
        expected = ops.canonical_correlation(x.astype("d"), y.astype("d"))
        value, bars = graded(x @ to_f + np.asarray(offset, dtype), y @ to_g, 0.0)
        assert value == pytest.approx(expected, rel=1e-4)
        assert all(np.isfinite(bar).all() for bar in bars)


def test_small_variances_count_beside_large_means():
    """A column's rounding is relative to its own entries."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(200, 2)), draw.normal(size=(200, 2))
    years = (x * [10, 1e-3] + [2000, 0]).astype("f")
    expected = ops.canonical_correlation(years.astype("d") * [1, 1e4] - [2000, 0], y)
    assert ops.canonical_correlation(years, y.astype("f")) == pytest.approx(expected, rel=1e-5)


def test_correlations_of_pairs():
    draw = np.random.default_rng(0)
    a = draw.normal(size=(200, 2))
    b = a + draw.normal(size=a.shape)
    expected = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(2)]
    assert_allclose(paired(a * [1e200, 1e-200], b * [1e-200, 1e-250]), expected, rtol=1e-12)
    assert_allclose(paired(1e8 + 0.1 * a, 1e8 + 0.1 * b), expected, rtol=1e-6)  # a variation of 1e-9, which float64 resolves
    bits = draw.integers(0, 2, size=(200, 1))
    for dtype in ("f", "d"):
        rounding = (1 + np.finfo(dtype).eps * bits).astype(dtype)
        assert_array_equal(paired(rounding, bits.astype(dtype)), 0)
        assert_array_equal(paired(bits.astype(dtype), rounding), 0)
    a[7, 0] = np.nan
    assert_allclose(paired(a, b), [np.nan, expected[1]])


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("power", [1020, 500, -500, -1000])
def test_views_in_any_units(ridge, power):
    """Neither sums nor squares overflow or underflow, and no bit depends on a power of 2."""
    value, (f_bar, g_bar) = graded(X1, X2, ridge)
    large, (f_large, g_large) = graded(X1 * 2.0**power, X2, ridge)
    assert large == value
    assert_allclose(f_large * 2.0**power, f_bar, rtol=1e-9)
    assert_array_equal(g_large, g_bar)


def test_independent_views_have_their_sampling_law():
    """sqrt(N) T is then a matrix of independent normal numbers, whose singular values have the sum that is expected."""
    n, sets, size = 3, 300, 2000
    draw = np.random.default_rng(3)
    found = [
        np.sqrt(size) * ops.canonical_correlation(draw.normal(size=(size, n)), draw.normal(size=(size, 2)))
        for _ in range(sets)
    ]
    law = np.linalg.svd(draw.normal(size=(20000, n, 2)), compute_uv=False).sum(axis=1)
    assert abs(np.mean(found) - law.mean()) < 4 * law.std() / sets**0.5
    assert abs(np.std(found) - law.std()) < 4 * law.std() / (2 * sets) ** 0.5


def test_what_the_op_refuses():
    with pytest.raises(ShapeError, match=r"canonical_correlation: f and g have 10 rows, expected more than 10, twice the"):
        ops.canonical_correlation(X1[:10], X2[:10])
    with pytest.raises(ShapeError):
        ops.canonical_correlation(X1, X2[:-1])
    for ridge in (-1e-3, np.nan, "much", True):
        with pytest.raises(ConfigError, match=r"canonical_correlation: ridge is .*, expected a number of at least 0"):
            ops.canonical_correlation(X1, X2, ridge=ridge)
    x = X1.copy()
    x[3, 1] = np.nan
    value, bars = graded(x, X2, 0.1)
    assert np.isnan(value)
    assert all(np.isnan(bar).all() for bar in bars)


# ---- closed form ---------------------------------------------------------------------------------


def test_cca_is_the_eigenvalue_problem():
    model = gvae.CCA(latent=4, ridge=0, random_state=0).fit(X1, X2)
    expected = by_eigenvalues(X1, X2)
    z = model.codes(X1, X2)
    assert_allclose(paired(z["z_x"], z["z_y"]), expected, rtol=1e-9)
    assert_allclose(np.cov(z["z_x"].T), np.eye(4), atol=1e-9)  # canonical variables are uncorrelated, of unit variance
    assert_allclose(np.cov(z["z_y"].T), np.eye(4), atol=1e-9)
    across = (z["z_x"] - z["z_x"].mean(axis=0)).T @ z["z_y"] / (N - 1)
    assert_allclose(across, np.diag(expected), atol=1e-9)
    assert model.score(X1, X2) == pytest.approx(expected.sum(), rel=1e-9)
    assert model.history_[-1]["train_bound"] == pytest.approx(expected.sum(), rel=1e-9)
    assert_array_equal(model.transform(X1), z["z_x"])
    assert set(model.codes(X1)) == {"z_x"}
    moved = gvae.CCA(latent=4, ridge=0, random_state=0).fit(X1 @ rng.normal(size=(5, 5)) - 3, X2)
    assert moved.history_[-1]["train_bound"] == pytest.approx(expected.sum(), rel=1e-9)


def test_cca_with_a_ridge_is_the_eigenvalue_problem():
    model = gvae.CCA(latent=4, ridge=0.3, standardize=False).fit(X1, X2)
    z = model.codes(X1, X2)
    assert_allclose(np.cov(z["z_x"].T, z["z_y"].T)[:4, 4:], np.diag(by_eigenvalues(X1, X2, 0.3)), atol=1e-9)


def test_signs_of_pairs():
    """The largest entry of a projection of x is positive, whatever the signs of the columns."""
    for signs in ([1, 1, 1, 1, 1], [-1, 1, -1, 1, -1], [-1, -1, -1, -1, -1]):
        to_x = gvae.CCA(latent=4).fit(X1 * signs, X2).parameters_["x.projection"]
        assert (to_x.max(axis=0) == np.abs(to_x).max(axis=0)).all()


def test_more_columns_than_rows_and_one_column():
    wide = rng.normal(size=(30, 50))
    model = gvae.CCA(latent=3, ridge=0.5).fit(wide, wide[:, :40] + rng.normal(size=(30, 40)))
    assert np.isfinite(model.transform(wide)).all()
    with pytest.raises(DataError, match=r"CCA: 30 rows .* of views of up to 50 columns determine no correlations"):
        gvae.CCA(latent=3, ridge=0).fit(wide, wide)
    one = gvae.CCA(latent=1).fit(X1[:, :1], X2[:, 0])  # a view of one axis is one column
    assert one.score(X1[:, :1], X2[:, 0]) == pytest.approx(abs(np.corrcoef(X1[:, 0], X2[:, 0])[0, 1]), rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ridge", [0, 1e-4])
def test_pairs_beyond_the_rank_of_a_view(dtype, ridge):
    """A column twice has the one pair of that column; the codes of the other pair are 0, and so is its correlation."""
    for seed in range(3):
        draw = np.random.default_rng(seed)
        a, y = draw.normal(size=(200, 1)), draw.normal(size=(200, 3))
        y[:, ::2] += a * [1, -1]
        for standardize in (True, False):
            settings = {"ridge": ridge, "dtype": dtype, "standardize": standardize}
            expected = gvae.CCA(latent=1, **settings).fit(a, y).score(a, y)
            twice = np.concatenate([a, 2 * a], axis=1)
            model = gvae.CCA(latent=2, **settings).fit(twice, y)
            assert model.score(twice, y) == pytest.approx(expected, rel=1e-5)
            assert model.history_[-1]["train_bound"] == pytest.approx(expected, rel=1e-5)
            assert all((code[:, 1] == 0).all() for code in model.codes(twice, y).values())
            found = model.evaluate(twice, y).measures["correlation"].summary()
            assert found["canonical"][1] == 0
            assert found["total"] <= found["canonical_total"] + 1e-6
    constant = np.full((5000, 2), 0.1)  # whose mean is rounded
    model = gvae.CCA(latent=2, ridge=ridge, dtype=dtype, standardize=False).fit(constant, rng.normal(size=constant.shape))
    assert_array_equal(model.parameters_["x.projection"], 0)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_closed_form_in_any_units(scale):
    known = gvae.CCA(latent=2, standardize=False).fit(X1, X2)
    model = gvae.CCA(latent=2, standardize=False).fit(X1 * scale, X2)
    assert_allclose(model.transform(X1 * scale), known.transform(X1), rtol=1e-9, atol=1e-9)
    assert model.score(X1 * scale, X2) == pytest.approx(known.score(X1, X2), rel=1e-9)


def test_held_out_rows():
    """The variables are those of the fit: of independent views, rows held out have correlations around 0."""
    draw = np.random.default_rng(5)
    a, b = draw.normal(size=(200, 20)), draw.normal(size=(200, 20))
    model = gvae.CCA(latent=5).fit(a[:100], b[:100])
    assert model.score(a[:100], b[:100]) > 2.5
    assert abs(model.score(a[100:], b[100:])) < 1
    found = model.evaluate(a[100:], b[100:]).measures["correlation"]
    assert found.summary()["canonical_total"] >= found.summary()["total"]
    z = model.codes(a[100:], b[100:])
    assert_allclose(found.canonical, by_eigenvalues(*z.values()), rtol=1e-9)
    assert_allclose(found.correlations, [np.corrcoef(z["z_x"][:, i], z["z_y"][:, i])[0, 1] for i in range(5)], rtol=1e-9)


# ---- networks ------------------------------------------------------------------------------------


def test_linear_networks_approach_the_closed_form():
    closed = gvae.CCA(latent=2, ridge=1e-6, standardize=False).fit(X1, X2)
    settings = {"hidden": (), "batch_size": None, "epochs": 300, "learning_rate": 5e-2, "schedule": "cosine"}
    deep = gvae.DCCA(latent=2, ridge=1e-6, standardize=False, dtype="float64", random_state=0, **settings).fit(X1, X2)
    assert deep.score(X1, X2) == pytest.approx(closed.score(X1, X2), rel=1e-6)
    for z, w in zip(deep.codes(X1, X2).values(), closed.codes(X1, X2).values(), strict=True):
        assert abs(paired(z, w)).min() > 0.999


def test_the_closed_form_is_stationary_for_linear_networks():
    closed = gvae.CCA(latent=2, ridge=0, standardize=False).fit(X1, X2)
    model = gvae.models.DCCA({"x": 5, "y": 4}, latent=2, ridge=0.0, hidden=(), dtype="float64")
    params = {f"{v}.0.weight": closed.parameters_[f"{v}.projection"] for v in "xy"} | {
        f"{v}.0.bias": np.zeros(2) for v in "xy"
    }
    trainer = training.Trainer(model, objective=objectives.Correlation(), parameters=params)
    table = Table(X1, y=X2)
    trainer.step(table.batch(np.arange(N), gvae.random.key(0)))
    assert np.abs(trainer.gradient.flat).max() < 1e-12


def test_networks_find_what_is_not_linear():
    draw = np.random.default_rng(7)
    a = draw.normal(size=(2000, 3))
    b = np.abs(a) + 0.3 * draw.normal(size=a.shape)
    deep = gvae.DCCA(latent=3, hidden=(64,), batch_size=500, epochs=60, random_state=0).fit(a[:1500], b[:1500])
    assert deep.score(a[1500:], b[1500:]) > 2.2
    assert gvae.CCA(latent=3).fit(a[:1500], b[:1500]).score(a[1500:], b[1500:]) < 0.5


def test_canonical_variables_are_those_of_the_outputs_on_training_rows():
    model = gvae.DCCA(latent=2, ridge=0.0, dtype="float64", **SMALL).fit(X1, X2)
    z = model.codes(X1, X2)
    assert_allclose(np.cov(z["z_x"].T), np.eye(2), atol=1e-9)
    assert model.score(X1, X2) == pytest.approx(ops.canonical_correlation(*z.values()), rel=1e-9)


def test_canonical_variables_of_normalised_networks_on_many_rows():
    """Codes have covariance I: outputs take the moments that were settled with them, and no row is left out."""
    draw = np.random.default_rng(2)
    x = draw.normal(size=(12_000, 3)) * np.linspace(0.5, 2, 12_000)[:, None]
    x[::3] += 1
    y = x + draw.normal(size=x.shape)
    settings = {"hidden": (8,), "normalize": "batch", "dtype": "float64", "random_state": 0}
    model = gvae.DCCA(latent=2, ridge=0, batch_size=4000, epochs=1, **settings).fit(x, y)
    for code in model.codes(x, y).values():
        assert_allclose(np.cov(code.T), np.eye(2), atol=1e-9)


def test_steps_and_canonical_variables_take_the_ridge():
    model = gvae.models.DCCA({"x": 5, "y": 4}, latent=2, ridge=0.3, hidden=(), dtype="float64")
    params = model.init(gvae.random.key(0))
    f, g = (x @ params[f"{v}.0.weight"] + params[f"{v}.0.bias"] for v, x in (("x", X1), ("y", X2)))
    table, expected = Table(X1, y=X2), by_eigenvalues(f, g, 0.3)
    batch, state = table.batch(np.arange(N), gvae.random.key(1)), model.init_state(gvae.random.key(2))
    assert model.terms(params, state, batch, {}, 0).extras["correlation"] == pytest.approx(expected.sum(), rel=1e-9)
    codes = model.code(params, model.settle(params, state, table)[1], batch)  # the canonical variables take it, too
    assert_allclose(np.cov(codes["z_x"].mean.T, codes["z_y"].mean.T)[:2, 2:], np.diag(expected), atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ridge", [0, 1e-4])
def test_more_outputs_than_their_rank(dtype, ridge):
    """Four outputs that are linear in two columns have no more correlation than these."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(300, 2)), draw.normal(size=(300, 2))
    y[:, 0] += x[:, 0]
    most = gvae.CCA(latent=2, ridge=0).fit(x, y).score(x, y)
    settings = {"hidden": (), "batch_size": 100, "epochs": 1, "random_state": 0, "dtype": dtype}
    model = gvae.DCCA(latent=4, ridge=ridge, **settings).fit(x, y)
    assert model.score(x, y) == pytest.approx(most, rel=1e-3 if ridge else 1e-5)
    assert model.score(x, y) <= most + 1e-6
    assert all((code[:, 2:] == 0).all() for code in model.codes(x, y).values())


def test_outputs_that_are_large_or_not_finite():
    settings = {"hidden": (4,), "activation": "identity", "batch_size": 100, "epochs": 2, "dtype": "float64"}
    large = gvae.DCCA(latent=2, learning_rate=1e90, on_nonfinite="skip", random_state=0, **settings).fit(X1, X2)
    assert 0 < large.score(X1, X2) <= 2
    with pytest.raises(NonFiniteError, match=r"training: .* not finite"):
        gvae.DCCA(latent=2, learning_rate=1e200, random_state=0, **settings).fit(X1, X2)
    params = dict(large.parameters_) | {"x.0.bias": np.full(4, np.inf)}
    _, state = large.model_.settle(params, large.model_.init_state(gvae.random.key(0)), Table(X1, y=X2))
    assert all(np.isnan(value).all() for value in state.values())


def test_batches_that_are_too_small():
    with pytest.raises(ConfigError, match=r"batches have 8 rows .* DCCA .* takes 9 or more: give larger batches"):
        gvae.DCCA(latent=4, hidden=(5,), batch_size=8, epochs=1).fit(X1, X2)
    with pytest.raises(ConfigError, match=r"batches have 12 rows \(batch_size is 1000, of 12 rows\)"):
        gvae.DCCA(latent=6, hidden=(5,), epochs=1).fit(X1[:12], X2[:12])
    model = gvae.DCCA(latent=4, hidden=(5,), batch_size=98, epochs=2, random_state=0).fit(X1, X2)  # 6 rows are left
    assert model.n_iter_ == 6
    assert model.events_ == [{"event": "last batch left out", "rows": 6, "least": 9}]
    assert gvae.DCCA(latent=2, hidden=(5,), batch_size=98, epochs=2).fit(X1, X2).n_iter_ == 8  # they are enough


def test_steps_are_captured_and_held_out_rows_are_scored_together():
    model = gvae.DCCA(latent=2, **SMALL).fit(X1, X2, validation=(X1[:50], X2[:50]))
    assert model.history_[-1]["validation_bound"] == pytest.approx(model.score(X1[:50], X2[:50]), rel=1e-5)
    trainer = training.Trainer(model.model_, objective=objectives.Correlation())
    training.train(model.model_, Table(X1.astype("f"), y=X2.astype("f")), epochs=3, batch_size=100, trainer=trainer)
    assert trainer.why_not == ""
    assert all(known.verified for known in trainer.programs.known.values())
    with pytest.raises(ConfigError, match="the model reports no terms of a bound"):
        training.train(model.model_, Table(X1.astype("f"), y=X2.astype("f")), epochs=1)
    with pytest.raises(ConfigError, match="the model reports no correlation of two views"):
        objectives.Correlation()(objectives.Terms({}, []))


def test_a_setting_for_each_view():
    model = gvae.DCCA(latent=2, hidden=((8, 7), (6,)), epochs=1).fit(X1, X2)
    assert model.parameters_["x.1.weight"].shape == (8, 7)
    assert model.parameters_["y.1.weight"].shape == (6, 2)


# ---- both, as estimators -------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("make", [lambda **s: gvae.CCA(latent=2, **s), lambda **s: gvae.DCCA(latent=2, **SMALL, **s)])


@BOTH
def test_bad_input(make):
    with pytest.raises(DataError, match=r"requires y to be passed, .* it reads a second view as y"):
        make().fit(X1)
    with pytest.raises(DataError, match="300 rows of x, 299 rows of y"):
        make().fit(X1, X2[:-1])
    for which in (0, 1):
        views = [X1.copy(), X2.copy()]
        views[which][7, 2] = np.nan
        with pytest.raises(DataError, match=rf"{'Xy'[which]}: NaN .* row 7, column 2"):
            make().fit(*views)
    with pytest.raises(ConfigError, match="rows have weights"):
        make().fit(X1, X2, sample_weight=np.ones(N))
    with pytest.raises(ConfigError, match="ridge is -1"):
        make(ridge=-1).fit(X1, X2)
    model = make().fit(X1, X2)
    with pytest.raises(DataError, match="y is missing"):
        model.score(X1)
    with pytest.raises(ShapeError, match="y has 3 features"):
        model.score(X1, X2[:, :3])


def test_too_many_pairs():
    with pytest.raises(ConfigError, match="CCA: latent is 5, expected at most 4: views of 5 and 4 columns"):
        gvae.CCA(latent=5).fit(X1, X2)


@BOTH
def test_what_there_is_not(make):
    model = make().fit(X1, X2)
    name = type(model).__name__
    for method, arguments in {
        "sample": (3,),
        "reconstruct": (X1,),
        "inverse_transform": (np.zeros((1, 2)),),
        "posterior_of": (X1,),
        "score_samples": (X1, X2),
    }.items():
        with pytest.raises(ConfigError, match=rf"{name}.{method}: {name} has no "):
            getattr(model, method)(*arguments)
    for measure in ("units", "ais", "reconstruction", "gaps"):
        with pytest.raises(ConfigError, match=rf"{measure}: {name} has no bound .* its measures are correlation"):
            model.evaluate(X1, X2, measures=measure)
    result = model.evaluate(X1, X2, measures="all")
    assert list(result.measures) == ["correlation"]
    assert "their sum" in evaluation.table(result)
    assert evaluation.warnings(result) == []
    vae = gvae.VAE(latent=2, hidden=(5,), epochs=1).fit(X1)
    assert "correlation" not in vae.evaluate(X1[:20], samples=2, measures=["units"]).measures
    with pytest.raises(ConfigError, match="correlation: VAE has no method `view_codes`"):
        vae.evaluate(X1, measures="correlation")


@BOTH
def test_files_and_runs(make, tmp_path):
    model = make().fit(X1, X2, run=tmp_path / "run")
    model.save(tmp_path / "file")
    for other in (gvae.load(tmp_path / "file"), gvae.load(tmp_path / "run")):
        assert type(other) is type(model)
        assert_array_equal(other.transform(X1), model.transform(X1))
        assert other.score(X1, X2) == model.score(X1, X2)
    assert_array_equal(make().fit(X1, X2).get_feature_names_out(), model.get_feature_names_out())


def test_a_stopped_run_continues_with_the_same_numbers(tmp_path):
    model = gvae.DCCA(latent=2, **SMALL).fit(X1, X2)
    asked = iter(range(100))
    with pytest.raises(gvae.errors.StoppedError):
        gvae.DCCA(latent=2, **SMALL).fit(X1, X2, run=tmp_path / "run", stop=lambda: next(asked) == 4)
    halfway = gvae.load(tmp_path / "run")  # its canonical variables are those of its weights
    z = halfway.codes(X1, X2)
    assert halfway.score(X1, X2) == pytest.approx(ops.canonical_correlation(*z.values()), rel=1e-3)
    again = gvae.DCCA(latent=2, **SMALL).fit(X1, X2, run=tmp_path / "run", resume=True)
    assert_array_equal(again.transform(X1), model.transform(X1))


@pytest.mark.parametrize("name", ["cca", "dcca"])
def test_from_the_shell(name, gvae_, here):
    np.savez("views.npz", train=X1[:200], train_y=X2[:200], test=X1[200:], test_y=X2[200:])
    flags = ["--hidden", "8", "--epochs", "2", "--batch-size", "100"] if name == "dcca" else []
    code, out, err = gvae_("train", "views.npz", "--model", name, "--latent", "2", *flags, "--ridge", "1e-3", "--out", "run")
    assert code == 0, err
    assert "sum of correlations" in out
    assert "nats" not in out
    code, out, err = gvae_("evaluate", "run")
    assert code == 0, err
    assert "correlations of the codes of two views, 100 rows" in out
    found = json.loads(gvae_("evaluate", "run", "--with", "correlation", "--json")[1])["correlation"]
    assert found["total"] == pytest.approx(gvae.load("run").score(X1[200:], X2[200:]))
    code, _, err = gvae_("evaluate", "run", "--rows", "rows.csv")
    assert (code, "no values per row" in err) == (2, True)
    code, _, err = gvae_("sample", "run", "--out", "draws.npy")
    assert (code, "no model of the data" in err) == (2, True)
    assert gvae_("report", "run", "--out", "page.html")[0] == 0
    assert gvae_("train", "--resume", "run")[0] == 0

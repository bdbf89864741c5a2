"""Draws of bits: by enumeration, against loops, and their surrogate paths against exact gradients."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from gradcheck import check_vjp
from scipy import optimize, special, stats

from gvae import families, ops, random
from gvae.autodiff import gradient, vjp
from gvae.distributions import AutoregressiveBernoulli, BernoulliDistribution, NADEDistribution
from gvae.errors import ConfigError, ShapeError

r = np.random.default_rng(5)


def bits(n):
    return np.array(list(itertools.product((0.0, 1.0), repeat=n)))


def autoregressive(n, rows=()):
    return r.normal(size=(*rows, n)), np.triu(r.normal(size=(n, n)), 1)


def nade(n, H, rows=(), weights=()):
    c = r.normal(size=(*rows, n)), r.normal(size=(*rows, H))
    return (*c, r.normal(size=(*weights, n, H)), r.normal(size=(*weights, n, H)))


def nade_by_loop(x, bias, hidden, W, V):
    total, a = 0.0, hidden.copy()
    for j, h in enumerate(x):
        p = special.expit(bias[j] + V[j] @ special.expit(a))
        total += np.log(p if h else 1 - p)
        a += W[j] * h
    return total


# ---- probabilities


@pytest.mark.parametrize("kind", ["autoregressive", "nade:3"])
def test_probabilities_add_up_to_one(kind):
    family = families.parse(kind, 8)
    p = family(r.normal(size=(4, 1, family.n_params)))
    total = np.exp(p.log_prob(bits(8))).sum(axis=-1)
    np.testing.assert_allclose(total, 1, rtol=1e-12)


@pytest.mark.parametrize("kind", ["autoregressive", "nade:3"])
def test_terms_of_each_variable_are_those_of_its_conditional(kind):
    family, x = families.parse(kind, 6), bits(6)
    p = family(r.normal(size=family.n_params))
    terms, q = p.log_prob(x, reduce=False), p.probabilities(x)
    np.testing.assert_allclose(terms.sum(axis=-1), p.log_prob(x), rtol=1e-12)
    np.testing.assert_allclose(np.exp(terms), np.where(x > 0, q, 1 - q), rtol=1e-10)
    np.testing.assert_allclose(q[0::2, -1], q[1::2, -1], rtol=1e-12)  # of the last variable, whatever it is itself


def test_nade_is_its_loop():
    bias, hidden, W, V = nade(7, 4, rows=(3,))
    x = (r.random((5, 3, 7)) < 0.4).astype(float)
    found = ops.nade_log_prob(x, bias, hidden, W, V)
    wanted = [[nade_by_loop(x[k, b], bias[b], hidden[b], W, V) for b in range(3)] for k in range(5)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    single = ops.nade_log_prob(*(a.astype(np.float32) for a in (x, bias, hidden, W, V)))
    np.testing.assert_allclose(single, wanted, rtol=1e-5)


def test_nade_without_output_weights_is_its_biases():
    bias, hidden, W, _ = nade(5, 3)
    x = bits(5)
    wanted = BernoulliDistribution(bias).log_prob(x)
    np.testing.assert_allclose(ops.nade_log_prob(x, bias, hidden, W, np.zeros((5, 3))), wanted, rtol=1e-12)


def test_nade_fits_any_joint_distribution_of_four_bits():
    """Sixteen hidden units, by the gradient of its own log-probability: KL below 1e-4."""
    target, x = r.dirichlet(np.ones(16)), bits(4)
    family = families.parse("nade:16", 4)

    def loss(raw):
        value, pull = vjp(lambda raw: family(raw).log_prob(x), raw)
        return -(target @ value), -pull(target)

    start = family.start(random.key(0), np.float64)
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 3000})
    assert found.fun + target @ np.log(target) < 1e-4


def test_autoregressive_bits_are_logistic_regressions():
    """At SciPy's optimum of each variable's own regression the gradient of the joint log-probability vanishes."""
    n, x = 4, (r.random((200, 4)) < [0.3, 0.6, 0.5, 0.4]).astype(float)
    x[:, 2] = np.where(r.random(200) < 0.7, x[:, 0], x[:, 2])
    bias, weight = np.zeros(n), np.zeros((n, n))
    for j in range(n):
        inputs = np.concatenate([np.ones((200, 1)), x[:, :j]], axis=1)

        def loss(w, inputs=inputs, y=x[:, j]):
            a = inputs @ w
            return np.logaddexp(0, a).sum() - y @ a, inputs.T @ (special.expit(a) - y)

        w = optimize.minimize(loss, np.zeros(j + 1), jac=True, method="BFGS", options={"gtol": 1e-9}).x
        bias[j], weight[:j, j] = w[0], w[1:]
    entries = weight[np.triu_indices(n, 1)]
    family = families.parse("autoregressive", n)
    slope = gradient(lambda raw: family(raw).log_prob(x).sum(), np.concatenate([bias, entries]))
    np.testing.assert_allclose(slope, 0, atol=1e-6)


# ---- draws


@pytest.mark.parametrize("kind", ["autoregressive", "nade:3"])
def test_draws_have_the_probabilities(kind):
    """Chi-square over 2^4 cells, 100,000 draws; the key is fixed, a false alarm is one in 10^4 keys."""
    family = families.parse(kind, 4)
    p = family(r.normal(size=family.n_params))
    z = p.sample(p.noise(random.key(1), (100_000,)))
    cells = np.bincount((z @ [8, 4, 2, 1]).astype(int), minlength=16)
    assert stats.chisquare(cells, 100_000 * np.exp(p.log_prob(bits(4)))).pvalue > 1e-4


def test_without_links_bits_are_independent():
    bias, u = r.normal(size=(50, 6)), r.random((3, 50, 6))
    wanted = BernoulliDistribution(bias).sample(u)
    np.testing.assert_array_equal(AutoregressiveBernoulli(bias, np.zeros((6, 6))).sample(u), wanted)
    weights = np.zeros((6, 2)), np.zeros((6, 2))
    np.testing.assert_array_equal(NADEDistribution(bias, np.zeros(2), *weights).sample(u), wanted)


@pytest.mark.parametrize("path", [None, "taylor"])
def test_draws_are_one_after_the_other(path):
    bias, weight = autoregressive(40, rows=(7,))
    u = r.random((2, 7, 40))
    h = np.zeros_like(u)
    for j in range(40):
        h[..., j] = u[..., j] < special.expit(bias[:, j] + h @ weight[:, j])
    np.testing.assert_array_equal(ops.autoregressive_draw(bias, weight, u, path=path), h)


def test_what_lies_below_the_diagonal_is_not_read():
    bias, weight = autoregressive(6)
    u, rubbish = r.random((4, 6)), np.tril(np.full((6, 6), 9.0))
    np.testing.assert_array_equal(
        ops.autoregressive_draw(bias, weight + rubbish, u), ops.autoregressive_draw(bias, weight, u)
    )
    slope = gradient(lambda w: ops.autoregressive_draw(bias, w, u, path="taylor").sum(), weight + rubbish)
    np.testing.assert_array_equal(np.tril(slope), 0)


# ---- gradients


def poisson_tail(k, rate):
    """P(x > k) in the upper tail, where SciPy's is off by 8 % at a rate of 1e7."""
    with mpmath.workdps(40):
        p = float(mpmath.exp(k * mpmath.log(rate) - rate - mpmath.loggamma(mpmath.mpf(k) + 1)))
    return p * np.cumprod(rate / (k + np.arange(1, 50 + 6 * np.sqrt(rate)))).sum()


@pytest.mark.parametrize("rate", [1e-3, 1.0, 30.0, 240.0, 1e4, 1e7, 1e10])
def test_counts_of_any_rate_are_the_quantiles(rate):
    for u in np.linspace(0.001, 0.999, 21):
        k = ops.poisson_draw(np.log([rate]), np.array([u]))[0]
        assert special.pdtr(k, rate) >= u - 1e-9
        assert k == 0 or special.pdtr(k - 1, rate) <= u + 1e-9
    for above in 2.0 ** -np.arange(12, 25, 3):
        k = ops.poisson_draw(np.log([rate]), np.array([1 - above]))[0]
        assert poisson_tail(k, rate) <= above + 1e-9
        assert k == 0 or poisson_tail(k - 1, rate) >= above - 1e-9
    least, most = ops.poisson_draw(np.full(2, np.log(rate)), np.array([0.0, 1 - 2.0**-53]))
    assert least <= max(rate - 11 * np.sqrt(rate), 0)
    assert special.pdtrc(most - 2, rate) >= 1e-17


@pytest.mark.parametrize("weights", [(), (5,)])
def test_nade_by_differences(weights):
    args = nade(6, 3, rows=(5,), weights=weights)
    x = (r.random((2, 5, 6)) < 0.5).astype(float)
    for i in range(4):  # each of them, the others constant

        def op(a, i=i):
            return ops.nade_log_prob(x, *args[:i], a, *args[i + 1 :])

        check_vjp(op, [args[i]], r)
    check_vjp(lambda *a: ops.nade_log_prob(x, *a), args, r)


def test_nade_in_its_data_by_differences():
    """As a prior it is evaluated at draws with a path; log p is smooth in x."""
    args = nade(6, 3)
    check_vjp(lambda x: ops.nade_log_prob(x, *args), [r.uniform(0.1, 0.9, size=(4, 6))], r)


@pytest.mark.parametrize("weights", [(), (5,)])
def test_autoregressive_by_differences(weights):
    bias, entries, x = r.normal(size=(5, 6)), r.normal(size=(*weights, 15)), r.uniform(size=(2, 5, 6))

    def op(bias, entries, x):
        return AutoregressiveBernoulli(bias, ops.strict_triangle(entries, n=6)).log_prob(x)

    check_vjp(op, [bias, entries, x], r)


def by_enumeration(a, f_bar, slope, n):
    """The mean over all h of a surrogate gradient, with independent units of logits a."""
    h, p = bits(n), special.expit(a)
    q = np.prod(np.where(h > 0, p, 1 - p), axis=1)
    return (q[:, None] * f_bar(h) * slope(h, p)).sum(axis=0)


def test_taylors_path_is_exact_for_quadratic_functions():
    """One layer of independent units: the mean of the estimates, over all draws, is the gradient of E f. For a cubic f it is
    off by f'''/12 q (1 - q) (and exact where that is 0), which is what the rule leaves out."""
    n = 4
    a, b, C = r.normal(size=n), r.normal(size=n), r.normal(size=(n, n))
    C = C + C.T
    h, u = bits(n), np.empty((2**n, n))
    p = special.expit(a)
    u[:] = np.where(h > 0, 0.5 * p, 0.5 * (1 + p))  # noise that leads to each h
    q = np.prod(np.where(h > 0, p, 1 - p), axis=1)

    def f(h):
        return (h * b).sum(axis=-1) + 0.5 * ((h @ C) * h).sum(axis=-1)

    exact = gradient(lambda a: (ops.exp(BernoulliDistribution(a).log_prob(h)) * f(h)).sum(), a)
    np.testing.assert_array_equal(ops.bernoulli_draw(a, u), h)

    def estimates(a):
        z = ops.bernoulli_draw(a, u, path="taylor")
        return ((z * b).sum(axis=-1) + 0.5 * ((z @ C) * z).sum(axis=-1)) * q

    np.testing.assert_allclose(gradient(lambda a: estimates(a).sum(), a), exact, rtol=1e-10)
    cubic = gradient(lambda a: ((ops.bernoulli_draw(a, u, path="taylor") ** 3).sum(axis=-1) * q).sum(), a)
    np.testing.assert_allclose(cubic - p * (1 - p), 0.5 * p * (1 - p), rtol=1e-10)  # f''' = 6


@pytest.mark.parametrize("path", ["taylor", "straight_through"])
def test_the_reverse_scan_is_the_tape_of_a_loop(path):
    """Unit by unit with `bernoulli_draw` on the tape: the same numbers, for biases and weights."""
    bias, weight = autoregressive(7, rows=(3,))
    u, c = r.random((2, 3, 7)), r.normal(size=(2, 3, 7))

    def by_loop(bias, weight):
        units = []
        for j in range(7):
            a = bias[:, j] + np.zeros((2, 3))
            for i in range(j):
                a = a + units[i] * weight[i, j]
            units.append(ops.bernoulli_draw(a[..., None], u[..., j : j + 1], path=path)[..., 0])
        return sum((units[j] * c[..., j]).sum() for j in range(7))

    wanted = gradient(by_loop, bias, weight)
    found = gradient(lambda b, w: (ops.autoregressive_draw(b, w, u, path=path) * c).sum(), bias, weight)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, np.triu(theirs, 1) if theirs.shape == (7, 7) else theirs, rtol=1e-10, atol=1e-12)
    rows = np.broadcast_to(weight, (3, 7, 7)).copy()  # a matrix for each row
    _, by_row = gradient(lambda b, w: (ops.autoregressive_draw(b, w, u, path=path) * c).sum(), bias, rows)
    np.testing.assert_allclose(by_row.sum(axis=0), found[1], rtol=1e-10, atol=1e-12)


# ---- mistakes


def test_what_is_refused():
    for text, message in (
        ("bernoulli:exact", "path is 'exact', expected one of taylor, straight_through"),
        ("autoregressive:3", "path is '3'"),
        ("nade:0", "its number is 0, expected at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            families.parse(text, 4)
    with pytest.raises(ConfigError, match="bernoulli_draw: path is 'x'"):
        ops.bernoulli_draw(np.zeros(2), np.zeros(2), path="x")
    with pytest.raises(ShapeError, match=r"entries has shape \(4,\), expected \(..., 3\) for n = 3"):
        ops.strict_triangle(np.zeros(4), n=3)
    with pytest.raises(ShapeError, match="nade_log_prob: "):
        ops.nade_log_prob(np.zeros(3), np.zeros(3), np.zeros(2), np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(NotImplementedError, match=r"NADEDistribution has no mean in closed form: .* probabilities\(x\)"):
        families.parse("nade:2", 3)(np.zeros(17)).mean  # noqa: B018

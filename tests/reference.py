"""Dense, slow, obvious oracles in float64. Imports nothing of gvae: an oracle must not share our mistakes.

Every function takes one system (no batch axes unless said); `batched` maps it over broadcast batch axes.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special


def batched(function, *cores):
    """Lift a function of arrays with `cores[i]` trailing axes to broadcast batch axes, by a Python loop."""

    def lifted(*args):
        args = [np.asarray(a, np.float64) for a in args]
        leads = [a.shape[: a.ndim - c] for a, c in zip(args, cores, strict=True)]
        batch = np.broadcast_shapes(*leads)
        wide = [np.broadcast_to(a, batch + a.shape[a.ndim - c :]) for a, c in zip(args, cores, strict=True)]
        results = [function(*(a[i] for a in wide)) for i in np.ndindex(batch)]
        if not results:
            return None
        return np.array(results).reshape(batch + np.shape(results[0]))

    return lifted


def dense_factor(chol, offsets):
    """L (N, N) from its stored diagonals (M, N)."""
    M, N = chol.shape
    L = np.zeros((N, N))
    for k in range(M):
        for j in range(N):
            i = j + offsets[k]
            if i < N:
                L[i, j] = chol[k, j]
    return L


def stored(dense, offsets):
    """The diagonals (M, N) of a dense matrix, zero where an entry does not exist."""
    N = len(dense)
    chol = np.zeros((len(offsets), N))
    for k, o in enumerate(offsets):
        for j in range(N - o):
            chol[k, j] = dense[j + o, j]
    return chol


def solve(chol, b, offsets, trans=False):
    L = dense_factor(chol, offsets)
    return np.linalg.solve(L.T if trans else L, b)


def cho_solve(chol, b, offsets):
    L = dense_factor(chol, offsets)
    return np.linalg.solve(L @ L.T, b)


def dense_symmetric(ab, offsets):
    lower = dense_factor(ab, tuple(offsets))
    return lower + lower.T - np.diag(np.diag(lower))


def multiply(chol, x, offsets, trans=False):
    L = dense_factor(chol, offsets)
    return (L.T if trans else L) @ x


def covariance_from_factor(chol, offsets):
    L = dense_factor(chol, offsets)
    return np.linalg.inv(L @ L.T)


def inverse_banded(chol, offsets, fill=False):
    pattern = range(offsets[-1] + 1) if fill else offsets
    return stored(covariance_from_factor(chol, offsets), tuple(pattern))


def gaussian_log_prob(x, mean, covariance):
    e = x - mean
    _, logdet = np.linalg.slogdet(covariance)
    return -0.5 * (len(x) * math.log(2 * math.pi) + logdet + e @ np.linalg.solve(covariance, e))


def gaussian_kl(mean, covariance, prior_mean=None, prior_covariance=None):
    n = len(mean)
    m = np.zeros(n) if prior_mean is None else prior_mean
    P = np.eye(n) if prior_covariance is None else prior_covariance
    inverse = np.linalg.inv(P)
    logdets = np.linalg.slogdet(P)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(inverse @ covariance) + (mean - m) @ inverse @ (mean - m) - n + logdets)


def gaussian_entropy(covariance):
    n = len(covariance)
    return 0.5 * (n * (1 + math.log(2 * math.pi)) + np.linalg.slogdet(covariance)[1])


def covariance_ar1(variance, rho, N):
    lag = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    return variance * rho**lag


def covariance_lowrank(d, u):
    return np.linalg.inv(np.diag(d) + u.T @ u)


def bernoulli_log_prob(x, logits):
    p = 1 / (1 + np.exp(-logits))
    return float(np.sum(x * np.log(p) + (1 - x) * np.log(1 - p)))


def normal_log_prob(x, mean, log_scale):
    return gaussian_log_prob(x, mean, np.diag(np.exp(2 * log_scale)))


def log_mean_exp(log_weights):
    return math.log(np.mean(np.exp(log_weights)))


def activation(name, t):
    return {
        "identity": lambda: t,
        "relu": lambda: np.where(t > 0, t, 0.0),
        "leaky_relu": lambda: np.where(t > 0, t, 0.01 * t),
        "elu": lambda: np.where(t > 0, t, np.exp(np.minimum(t, 0)) - 1),
        "tanh": lambda: np.tanh(t),
        "sigmoid": lambda: 1 / (1 + np.exp(-t)),
        "softplus": lambda: np.log(1 + np.exp(t)),
    }[name]()


def batch_norm(x, scale, shift, name="identity"):
    """Column by column, all leading axes being rows; the variance divides by their number."""
    rows = x.reshape(-1, x.shape[-1])
    y = np.empty_like(rows)
    for j in range(rows.shape[1]):
        mean = math.fsum(rows[:, j]) / len(rows)
        variance = math.fsum((rows[:, j] - mean) ** 2) / len(rows)
        y[:, j] = scale[j] * (rows[:, j] - mean) / np.sqrt(variance + 1e-5) + shift[j]
    return activation(name, y).reshape(x.shape)


def rbf(x, z, a, v):
    return v * np.exp(-0.5 * (a * (x[:, None] - z) ** 2).sum(axis=-1))


def psi1(mean, variance, z, a, v):
    """E k(x_n, z_m) over x_n ~ N(mean_n, diag variance_n)."""
    wide = a * variance[:, None] + 1
    return v * (wide**-0.5 * np.exp(-0.5 * a * (mean[:, None] - z) ** 2 / wide)).prod(axis=-1)


def psi2(mean, variance, z, a, v):
    """The sum over n of E k(z_m, x_n) k(x_n, z_m')."""
    wide, middle = 2 * a * variance[:, None, None] + 1, (z[:, None] + z) / 2
    exponent = a * (z[:, None] - z) ** 2 / 4 + a * (mean[:, None, None] - middle) ** 2 / wide
    return v**2 * (wide**-0.5 * np.exp(-exponent)).prod(axis=-1).sum(axis=0)


class FactorAnalysis:
    """x = W z + b + e, z ~ N(0, I), e ~ N(0, diag Psi): everything in closed form (models' oracle 0.1)."""

    def __init__(self, W, b, psi):
        self.W, self.b, self.psi = W, b, psi
        self.M = np.eye(W.shape[1]) + W.T @ (W / psi[:, None])  # the posterior's precision

    def log_prob(self, x):
        return gaussian_log_prob(x, self.b, self.W @ self.W.T + np.diag(self.psi))

    def posterior_mean(self, x):
        return np.linalg.solve(self.M, self.W.T @ ((x - self.b) / self.psi))

    def diagonal_gap(self):
        """log p(x) - ELBO of the best diagonal q, the same for every x."""
        return 0.5 * (np.log(np.diag(self.M)).sum() - np.linalg.slogdet(self.M)[1])


class OneDimensionalEstimators:
    """Expectations of gradient estimators for p(z) = N(0, 1), p(x|z) = N(z + b, 1), q = N(m, s²), K draws, by quadrature.

    `bound` gives B(l) and B_k = dB/dl_k, for l_k = log p(x, z_k) - log q(z_k) and z_k = m + s e_k:

        gradient  d/dm E B, by a difference of E B        path   E sum B_k dl_k/dz_k
        score     E sum B_k d/dm log q(z_k)               theta  d/db E B
    """

    def __init__(self, x, m, log_s, K, bound, nodes=26):
        self.x, self.s, self.K, self.bound = x, np.exp(log_s), K, bound
        points, weights = np.polynomial.hermite_e.hermegauss(nodes)
        self.e = np.stack([g.ravel() for g in np.meshgrid(*[points] * K, indexing="ij")])
        products = np.stack([g.ravel() for g in np.meshgrid(*[weights / weights.sum()] * K, indexing="ij")])
        self.weights = products.prod(axis=0)
        h = 1e-4
        self.gradient = (self.value(m + h) - self.value(m - h)) / (2 * h)
        z, l = self.draws(m)
        share = np.broadcast_to(bound.weights(l), l.shape)
        along = (x - z) - z + (z - m) / self.s**2  # d/dz of log p(x|z) + log p(z) - log q(z)
        self.path = self.mean((share * along).sum(axis=0))
        self.score = self.mean((share * (z - m) / self.s**2).sum(axis=0))
        self.theta = self.mean((share * (x - z)).sum(axis=0))

    def draws(self, m):
        z = m + self.s * self.e
        log_q = -0.5 * self.e**2 - np.log(self.s)
        return z, -0.5 * (self.x - z) ** 2 - 0.5 * z**2 - 0.5 * np.log(2 * np.pi) - log_q

    def mean(self, values):
        return float((self.weights * values).sum())

    def value(self, m):
        return self.mean(self.bound(self.draws(m)[1]))


def pareto_k(log_weights, tail):
    """k of the generalised Pareto tail of one row's weights (Zhang and Stephens 2009; Vehtari et al. 2024)."""
    w = sorted(math.exp(l - max(log_weights)) for l in log_weights)
    x = [v - w[-tail - 1] for v in w[-tail:]]
    points = 30 + int(math.sqrt(tail))
    thetas, profiles = [], []
    for j in range(1, points + 1):
        theta = 1 / x[-1] + (1 - math.sqrt(points / (j - 0.5))) / (3 * x[int(tail / 4 + 0.5) - 1])
        k = -sum(math.log(1 - theta * v) for v in x) / tail  # Zhang and Stephens' k, of the other sign
        thetas.append(theta)
        profiles.append(tail * (math.log(theta / k) + k - 1))
    weights = [1 / sum(math.exp(p - own) for p in profiles) for own in profiles]
    theta = sum(t * v for t, v in zip(thetas, weights, strict=True))
    k = sum(math.log(1 - theta * v) for v in x) / tail
    return (tail * k + 5) / (tail + 10)


class DiscreteCodes:
    """N rows x (N, D) of whole numbers, equally likely, and codes by enumeration (models' oracle 0.3), in nats.

    q[n, z_1, .., z_k] = q(z|x_n), and p[z_1, .., z_k] = p(z)
    """

    def __init__(self, x, q, p):
        self.x, self.q, self.p, self.axes = x, q, p, tuple(range(1, q.ndim))
        self.marginals = [self.of_variable(q, j) for j in self.axes]  # q(z_j|x_n), (N, C_j)
        self.mixtures = [m.mean(axis=0) for m in self.marginals]

    def of_variable(self, table, j):
        """The marginal of the code of axis j, where axis 0 of the table is that of rows."""
        return table.sum(axis=tuple(axis for axis in self.axes if axis != j))

    @staticmethod
    def entropy(table):
        return -sum(value * math.log(value) for value in table.ravel() if value > 0)

    @staticmethod
    def kl(q, p):
        return sum(a * math.log(a / b) for a, b in zip(q.ravel(), p.ravel(), strict=True) if a > 0)

    def information(self, rows, table):
        """I of what tells rows apart, a label each, and the code of a table (N, ..)."""
        joint = np.array([table[rows == label].sum(axis=0) for label in np.unique(rows)]) / len(rows)
        labels = joint.reshape(len(joint), -1).sum(axis=1)
        return self.entropy(labels) + self.entropy(joint.sum(axis=0)) - self.entropy(joint)

    @property
    def of_codes(self):
        """I(z_j; x)."""
        return np.array([self.information(np.arange(len(self.x)), marginal) for marginal in self.marginals])

    @property
    def of_views(self):
        """I(x_i; z)."""
        return np.array([self.information(column, self.q) for column in self.x.T])

    @property
    def joint(self):
        """I(z; x)."""
        return self.information(np.arange(len(self.x)), self.q)

    @property
    def total_correlation(self):
        """TC(z)."""
        return sum(map(self.entropy, self.mixtures)) - self.entropy(self.q.mean(axis=0))

    @property
    def code_kl(self):
        """KL(q(z_j) ‖ p(z_j))."""
        return np.array(
            [self.kl(m, self.of_variable(self.p[None], j)[0]) for j, m in zip(self.axes, self.mixtures, strict=True)]
        )

    def view_entropies(self):
        """H(x_i)."""
        return np.array([self.entropy(np.unique(column, return_counts=True)[1] / len(self.x)) for column in self.x.T])

    @property
    def explained(self):
        """TC(x; z) = TC(x) - TC(x|z), from entropies of z with x, with each x_i, and alone."""
        _, rows = np.unique(self.x, axis=0, return_inverse=True)

        def given_z(labels):
            """H(labels), H(labels | z)."""
            joint = np.array([self.q[labels == label].sum(axis=0) for label in np.unique(labels)]) / len(self.x)
            own = self.entropy(joint.reshape(len(joint), -1).sum(axis=1))
            return np.array([own, self.entropy(joint) - self.entropy(self.q.mean(axis=0))])

        parts = sum(given_z(column) for column in self.x.T) - given_z(rows.reshape(-1))  # TC(x), TC(x|z)
        return parts[0] - parts[1]


def gamma_poisson_by_coordinate_ascent(x, k, prior_z, prior_w, iterations, seed):
    """Posteriors of x_nd ~ Poisson(sum_k z_nk w_dk), z ~ Gamma(*prior_z), w ~ Gamma(*prior_w), each (shape, rate): counts
    are divided among the k units. Returns ((shapes, rates) of z (n, k), of w (d, k), and the bound with the parts)."""
    g = np.random.default_rng(seed)
    n, d = x.shape
    z = [prior_z[0] + g.gamma(5.0, 0.2, (n, k)), np.ones((n, k))]
    w = [prior_w[0] + g.gamma(5.0, 0.2, (d, k)), np.ones((d, k))]

    def logs(q):
        return special.psi(q[0]) - np.log(q[1])

    def kl(q, prior):
        (a, b), (a0, b0) = q, prior
        each = (a - a0) * special.psi(a) - special.gammaln(a) + special.gammaln(a0) + a0 * np.log(b / b0) + a * (b0 - b) / b
        return each.sum()

    for _ in range(iterations):
        weights = np.exp(logs(z))[:, None] * np.exp(logs(w))[None]  # (n, d, k)
        parts = x[..., None] * weights / weights.sum(axis=-1, keepdims=True)
        z = [prior_z[0] + parts.sum(axis=1), prior_z[1] + np.broadcast_to((w[0] / w[1]).sum(axis=0), (n, k))]
        weights = np.exp(logs(z))[:, None] * np.exp(logs(w))[None]
        parts = x[..., None] * weights / weights.sum(axis=-1, keepdims=True)
        w = [prior_w[0] + parts.sum(axis=0), prior_w[1] + np.broadcast_to((z[0] / z[1]).sum(axis=0), (d, k))]
    log_rates = np.log((np.exp(logs(z))[:, None] * np.exp(logs(w))[None]).sum(axis=-1))  # at the best division
    rates = (z[0] / z[1]) @ (w[0] / w[1]).T
    bound = (x * log_rates - rates - special.gammaln(x + 1)).sum() - kl(z, prior_z) - kl(w, prior_w)
    return tuple(z), tuple(w), bound

"""A state-space model under jit: chain posteriors fitted by the ELBO, and how far from the exact answer they end.

Each of 8 series is a stationary AR(1) path seen through noise at some of its times. Per series, q(z) is a Gaussian whose
precision has a bidiagonal factor; these and the model's own parameters (rho and the noise, shared by all series) are fitted
together, by Adam in one compiled loop, with one series' ELBO written down and vmapped over the others. The exact posterior
has a factor of the same form, so that at the end the ELBO is log p(y), which NumPy computes densely.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gvae.interop import jax as gj

SERIES, N, STEPS = 8, 64, 3000
RHO, NOISE = 0.95, 0.5  # the truth; z_j has variance 1


def prior(rho):
    """The factor L of the precision of a stationary AR(1) path: z_j given z_j+1 is N(rho z_j+1, 1 - rho²)."""
    scale = 1 / jnp.sqrt(1 - rho**2)
    return jnp.stack([jnp.full(N, scale).at[-1].set(1.0), jnp.full(N, -rho * scale).at[-1].set(0.0)])


def model(theta):
    return jnp.tanh(theta["rho"]), jnp.exp(theta["log_noise"])


def elbo(q, theta, y, seen):
    """The ELBO of one series in nats: its q, the shared parameters, y where seen is 1."""
    rho, noise = model(theta)
    chol = jnp.stack([jnp.exp(q["log_diagonal"]), q["below"]])
    error = (y - q["mean"]) ** 2 + gj.variance_banded(chol)
    reconstruction = -0.5 * jnp.sum(seen * (error / noise**2 + jnp.log(2 * jnp.pi * noise**2)))
    return reconstruction - gj.kl_divergence_banded(q["mean"], chol, jnp.zeros(N), prior(rho))


def total(parameters, y, seen):
    q, theta = parameters
    return jax.vmap(elbo, in_axes=(0, None, 0, 0))(q, theta, y, seen).sum()


@jax.jit
def fit(parameters, y, seen):
    """Adam, upwards, with a step that falls to zero."""
    zeros = jax.tree.map(jnp.zeros_like, parameters)

    def step(carry, t):
        parameters, m, v = carry
        g = jax.grad(total)(parameters, y, seen)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, v, g)
        rate = 0.05 * (1 - t / STEPS) / (1 - 0.9 ** (t + 1))
        move = jax.tree.map(lambda m, v: rate * m / (jnp.sqrt(v / (1 - 0.99 ** (t + 1))) + 1e-8), m, v)
        return (jax.tree.map(jnp.add, parameters, move), m, v), None

    (parameters, _, _), _ = jax.lax.scan(step, (parameters, zeros, zeros), jnp.arange(STEPS))
    return parameters


def exact(rho, noise, y, seen):
    """log p(y) and the posterior's mean and variances of one series, by dense Gaussian conditioning."""
    index, times = np.arange(N), np.flatnonzero(seen)
    prior = rho ** np.abs(index[:, None] - index)
    covariance = prior[np.ix_(times, times)] + noise**2 * np.eye(len(times))
    gain = np.linalg.solve(covariance, prior[times]).T
    evidence = -0.5 * (y[times] @ np.linalg.solve(covariance, y[times]) + np.linalg.slogdet(2 * np.pi * covariance)[1])
    return evidence, gain @ y[times], np.diag(prior - gain @ prior[times])


rng = np.random.default_rng(0)
z = np.asarray(gj.sample_banded(jnp.zeros(N), prior(RHO), rng.normal(size=(SERIES, N))))
y = z + NOISE * rng.normal(size=z.shape)
seen = rng.random(z.shape) < 0.7

q = {name: jnp.zeros((SERIES, N)) for name in ("mean", "log_diagonal", "below")}
theta = {"rho": jnp.array(1.0), "log_noise": jnp.array(0.0)}
q, theta = fit((q, theta), jnp.asarray(y), jnp.asarray(seen, float))

rho, noise = (float(p) for p in model(theta))
evidence, means, variances = map(np.stack, zip(*(exact(rho, noise, y[i], seen[i]) for i in range(SERIES)), strict=True))
bound = float(total((q, theta), jnp.asarray(y), jnp.asarray(seen, float)))
chol = jnp.stack([jnp.exp(q["log_diagonal"]), q["below"]], axis=1)
gap = (evidence.sum() - bound) / SERIES
error = max(np.abs(q["mean"] - means).max(), np.abs(gj.variance_banded(chol) - variances).max())

print(f"rho {rho:.3f} and noise {noise:.3f}, fitted to {int(seen.sum())} values (the truth: {RHO} and {NOISE})")
print(f"log p(y) {evidence.sum() / SERIES:.4f} nats per series, ELBO {gap:.5f} below it")
print(f"posterior means and variances within {error:.1e} of the exact ones")

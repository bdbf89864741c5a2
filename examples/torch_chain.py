"""A PyTorch module whose posterior is a chain: on a linear-Gaussian model it finds the exact posterior, a diagonal cannot.

The model: z is a stationary AR(1) series of N values, x = z + noise. Its posterior has a tridiagonal precision Q, and
log p(x) is known in closed form. An encoder is trained on sampled ELBOs; what is left between its ELBO and log p(x) is
KL(q ‖ p(z | x)), of which the best diagonal posterior keeps 1/2 (sum_j log Q_jj - log |Q|) nats per series.
"""

import numpy as np
import torch

from gvae.interop import torch as gt
from gvae.ops import band_to_dense, cholesky_banded, dense_to_band

N, RHO, NOISE = 16, 0.9, 0.7  # z_j has variance 1, neighbours correlation RHO; NOISE is the noise's standard deviation

index = np.arange(N)
covariance = RHO ** np.abs(index[:, None] - index)
PRIOR = torch.from_numpy(cholesky_banded(dense_to_band(np.linalg.inv(covariance), offsets=(0, 1)))).float()
MEAN = torch.zeros(N)


class Posterior(torch.nn.Module):
    """q(z | x): an encoder for the mean, and a factor L with precision L Lᵀ that is the same for every x."""

    def __init__(self, chain):
        super().__init__()
        self.mean = torch.nn.Linear(N, N)
        self.log_diagonal = torch.nn.Parameter(torch.zeros(N))
        self.below = torch.nn.Parameter(torch.zeros(N), requires_grad=chain)  # stays zero in a diagonal posterior

    def forward(self, x):
        return self.mean(x), torch.stack([self.log_diagonal.exp(), self.below])


def elbo(mean, chol, x, eps=None):
    """ELBO per series in nats, by a sample z from eps or exactly."""
    if eps is None:
        error = (x - mean).square() + gt.variance_banded(chol)
    else:
        error = (x - gt.sample_banded(mean, chol, eps)).square()
    reconstruction = -0.5 * (error / NOISE**2 + np.log(2 * np.pi * NOISE**2)).sum(-1)
    return reconstruction - gt.kl_divergence_banded(mean, chol, MEAN, PRIOR)


def series(count):
    z = gt.sample_banded(MEAN, PRIOR, torch.randn(count, N))
    return z + NOISE * torch.randn(count, N)


def train(chain, steps=2000, batch=128):
    q = Posterior(chain)
    optimizer = torch.optim.Adam(q.parameters(), lr=0.02)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = series(batch)
        loss = -elbo(*q(x), x, torch.randn(batch, N)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return q


torch.manual_seed(0)
torch.set_num_threads(1)  # the arrays are small
x = series(1000)
evidence = torch.distributions.MultivariateNormal(
    MEAN.double(), torch.from_numpy(covariance + NOISE**2 * np.eye(N))
).log_prob(x.double())
Q = np.linalg.inv(covariance) + np.eye(N) / NOISE**2
least = 0.5 * (np.log(np.diag(Q)).sum() - np.linalg.slogdet(Q)[1])

gap, found = {}, {}
for name in ("chain", "diagonal"):
    q = train(chain=name == "chain")
    with torch.no_grad():
        mean, chol = q(x)
        gap[name] = float((evidence - elbo(mean, chol, x)).mean())
        L = band_to_dense(chol.double().numpy(), offsets=(0, 1))
        found[name] = np.abs(L @ L.T - Q).max() / np.abs(Q).max()

print(f"log p(x) of 1000 series of {N}: {evidence.mean():.3f} nats per series")
print(f"chain:    ELBO {gap['chain']:.3f} nats below it; precision within {100 * found['chain']:.1f} % of the exact one")
print(f"diagonal: ELBO {gap['diagonal']:.3f} nats below it; the least a diagonal posterior can reach is {least:.3f}")

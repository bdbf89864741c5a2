"""One training step: noise, forward, backward, Adam. Two hidden layers of 200 in either network, 16 latent variables; and of
counts, without networks."""

from __future__ import annotations

from .common import Benchmark

PIXELS = {"digits": 64, "mnist": 784}
POSTERIORS = ["diagonal", "chain", "extended_grid"]
BATCHES = [(100, 1), (20, 50)]  # (rows, samples): with one sample the ELBO, with several the importance-weighted bound


class Training(Benchmark):
    param_names = ("implementation", "data", "posterior", "batch")

    def gvae(self, data, posterior, batch):
        import numpy as np

        from gvae import objectives, random
        from gvae.data import Table
        from gvae.models.vae import VAE
        from gvae.training import Trainer

        rows, samples = batch
        x = self.binary(rows, PIXELS[data])
        trainer = Trainer(
            VAE(PIXELS[data], latent=16, posterior=posterior, hidden=(200, 200)),
            objective=objectives.parse("iwae" if samples > 1 else "elbo"),
            samples=samples,
            learning_rate=1e-8,  # the same work in every step: parameters that move change the spread of the weights
        )
        minibatch = Table(x).batch(np.arange(rows), random.key(0))
        return lambda: trainer.step(minibatch)["bound"]


class Step(Training):
    params = (["gvae"], list(PIXELS), POSTERIORS, BATCHES)

    def time_step(self, *_):
        return self.call()


class CountsStep(Benchmark):
    """A step of a deep exponential family on sparse counts as of 20 newsgroups, five steps of its rows included."""

    params = (["gvae"], ["gamma", "sigmoid", "poisson"], [(100,), (100, 30)])
    param_names = ("implementation", "kind", "latent")

    def gvae(self, kind, latent):
        import numpy as np
        import scipy.sparse

        from gvae import objectives, random
        from gvae.data import Table
        from gvae.models import DEF
        from gvae.training import Trainer

        rows, columns = 200, 1995
        counts = (self.rng.random((rows, columns)) < 0.03) * (1 + self.rng.poisson(2.0, size=(rows, columns)))
        table = Table(scipy.sparse.csr_array(counts.astype(np.float64)), dtype=np.float64)
        model = DEF(columns, latent=latent, kind=kind, dtype="float64", n_rows=rows)
        objective = objectives.ELBO(gradient="local")
        trainer = Trainer(model, objective=objective, learning_rate=1e-8, n_rows=rows)
        minibatch = table.batch(np.arange(rows), random.key(0))
        return lambda: trainer.step(minibatch)["bound"]

    def time_step(self, *_):
        return self.call()


class Memory(Training):
    """Peak memory of a process that trains: Python, NumPy and Numba included."""

    params = (["gvae"], ["mnist"], ["chain"], BATCHES)

    def peakmem_steps(self, *_):
        for _ in range(5):
            self.call()


class Checkpoint(Training):
    """A save of a run, and bringing it back: the wait for the disk is in it. asv_bench/checkpoint_cost.py has its share."""

    params = (["gvae"], list(PIXELS), ["save", "load"])
    param_names = ("implementation", "data", "direction")

    def gvae(self, data, direction):
        import shutil
        import tempfile
        import weakref
        from pathlib import Path

        from gvae.models.vae import VAE
        from gvae.training import RunFolder, Trainer, load_checkpoint

        trainer = Trainer(VAE(PIXELS[data], latent=16, posterior="chain", hidden=(200, 200)))
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder)
        run = RunFolder(Path(folder, "run"), {})
        run.save(trainer)

        def load():
            checkpoint = load_checkpoint(run.path / "checkpoint.safetensors")
            return float(sum(x.sum() for x in checkpoint.parameters().values()))

        return load if direction == "load" else lambda: run.save(trainer)

    def time_checkpoint(self, *_):
        return self.call()

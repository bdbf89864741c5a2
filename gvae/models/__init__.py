"""Models, one file per system of the papers. Each follows the model protocol and nothing else:

    init(key) -> params                                   dict of named arrays; the name up to the first dot is the group
    noise(key, batch, samples=1) -> dict of arrays        all randomness of one evaluation, drawn ahead
    terms(params, state, batch, noise, step=0) -> Terms   see gvae.objectives

    optionally
    init_state(key) -> dict of arrays                     running statistics, baselines; Terms carry their successors
    init_rows(key, n_rows) -> dict of arrays              per-datum parameters; `params` then holds the batch's rows of them
    pure = True                                           terms depends on its arguments only and has no other effect, so
                                                          that a step can be replayed without calling it again; a subclass
                                                          with terms of its own has to say so itself
    generate(params, state, noise) -> Terms               the model without q: each layer's z is drawn from its prior, by
                                                          noise as `noise` draws it, and its q is that prior; `views` are
                                                          p(view | z); there is no log_likelihood
    raw(params, state, batch) -> dict of arrays           the raw numbers (B, ..) of which q(z|x) is made; where `params`
                                                          have arrays of these names, `terms` takes those for q

`params` maps names to plain arrays (evaluation) or Vars (training); a model cannot tell the difference. `batch` has the
columns of the data as attributes (x, ...), `index` (the rows' numbers) and `weight` (None, or (B,)). The sample axis leads.
"""

from collections.abc import Callable

from gvae.models.autoencoder import Autoencoder
from gvae.models.denoising import Denoising
from gvae.models.factor_analysis import FactorAnalysis, LinearVAE
from gvae.models.hierarchical import Hierarchical
from gvae.models.nlfa import NonlinearFactorAnalysis
from gvae.models.vae import VAE
from gvae.models.weights import MAP, Bayes

# what `gvae train --model` and gvae.VAE(model=) know: VAE's arguments and n_rows, of the training data -> a VAE or its kin
MODELS: dict[str, Callable[..., VAE]] = {
    "vae": lambda *args, n_rows, **settings: VAE(*args, **settings),
    "map": MAP,
    "bayes": Bayes,
    "denoising": lambda *args, n_rows, **settings: Denoising(*args, **settings),
    "autoencoder": lambda *args, n_rows, **settings: Autoencoder(*args, **settings),
    "factor_analysis": lambda *args, n_rows, **settings: LinearVAE(*args, **settings),
}

__all__ = [
    "MAP",
    "MODELS",
    "VAE",
    "Autoencoder",
    "Bayes",
    "Denoising",
    "FactorAnalysis",
    "Hierarchical",
    "LinearVAE",
    "NonlinearFactorAnalysis",
]

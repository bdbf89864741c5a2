"""Models, one file per system of the papers. Each follows the model protocol and nothing else:

    init(key) -> params                                   dict of named arrays; the name up to the first dot is the group
    noise(key, batch, samples=1) -> dict of arrays        all randomness of one evaluation, drawn ahead
    terms(params, state, batch, noise, step=None)         -> Terms, see gvae.objectives. `step` is the number of a training
                                                          step, and None where rows are scored: in validation, evaluation
                                                          and the inference of per-datum parameters. Then dropout and
                                                          corruption are off, running statistics take the place of the
                                                          batch's, no row pays for the weights, and the state that the
                                                          Terms carry is ignored

    optionally
    init_state(key) -> dict of arrays                     running statistics, baselines; Terms carry their successors
    init_rows(key, n_rows) -> dict of arrays              per-datum parameters; `params` then holds the batch's rows of them.
                                                          Those of rows not trained on are inferred: see training.infer
    row_steps, row_rate                                   steps of a batch's per-datum parameters alone before each step of
                                                          all (0); their learning rate, in learning rates (1)
    update(params, batch) -> dict of arrays               the parameters after a step of the model's own, not a gradient's
    caution                                               text to be said where figures of the model are reported
    pure = True                                           terms depends on its arguments only and has no other effect, so
                                                          that a step can be captured, and launched without calling it; a
                                                          subclass with terms of its own has to say so itself
    generate(params, state, noise) -> Terms               the model without q: each layer's z is drawn from its prior, by
                                                          noise as `noise` draws it, and its q is that prior; `views` are
                                                          p(view | z); there is no log_likelihood
    raw(params, state, batch) -> dict of arrays           the raw numbers (B, ..) of which q(z|x) is made; where `params`
                                                          have arrays of these names, `terms` takes those for q

`params` maps names to plain arrays (evaluation) or Vars (training); a model cannot tell the difference. `batch` has the
columns of the data as attributes (x, ...), `index` (the rows' numbers) and `weight` (None, or (B,)). The sample axis leads.
"""

from gvae.models.autoencoder import Autoencoder
from gvae.models.denoising import Denoising
from gvae.models.factor_analysis import FactorAnalysis, FactorAnalysisEM, LinearVAE
from gvae.models.hierarchical import Hierarchical
from gvae.models.nlfa import NonlinearFactorAnalysis
from gvae.models.vae import VAE
from gvae.models.weights import MAP, Bayes

MODELS: dict[str, type[VAE] | type[Hierarchical]] = {  # what `gvae train --model` and gvae.VAE(model=) know
    "vae": VAE,
    "map": MAP,
    "bayes": Bayes,
    "denoising": Denoising,
    "autoencoder": Autoencoder,
    "linear": LinearVAE,
    "factor_analysis": FactorAnalysisEM,
    "nlfa": NonlinearFactorAnalysis,
    "hierarchical": Hierarchical,
}

__all__ = [
    "MAP",
    "MODELS",
    "VAE",
    "Autoencoder",
    "Bayes",
    "Denoising",
    "FactorAnalysis",
    "FactorAnalysisEM",
    "Hierarchical",
    "LinearVAE",
    "NonlinearFactorAnalysis",
]

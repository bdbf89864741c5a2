"""Models, one file per system of the papers, each with the dataclass of its settings. A model follows the protocol
`gvae.models.base.Model`: training, evaluation, estimators and the command line use nothing else of it.

    columns, views, codes                                 the columns it reads, those of them it explains, its codes
    init(key) -> params                                   dict of named arrays; the name up to the first dot is the group
    noise(key, batch, samples=1) -> dict of arrays        all randomness of one evaluation, drawn ahead
    terms(params, state, batch, noise, step=None) -> Terms    see gvae.objectives; step: None where rows are scored
    code(params, state, batch) -> dict of distributions   q(code | x), by code
    decode(params, state, z, noise=None) -> dict of distributions     p(view | codes z), by view
    sample_prior(params, key, n) -> dict of arrays        n draws of the codes

    optionally
    prepare(params, state, table, key) -> params, state   what is learned from the training rows before the first step
    init_state(key) -> dict of arrays                     running statistics, baselines; Terms carry their successors
    init_rows(key, n_rows) -> dict of arrays              per-datum parameters; `params` then holds the batch's rows of them.
                                                          Those of rows not trained on are inferred: see training.infer
    start_rows(params, state, batch) -> dict of arrays    where that inference begins; without it, as init_rows says
    infers_rows = False                                   unless scored rows have no such parameters
    has_posterior = False                                 where codes have no posterior given the rows that are scored
    variant(values) -> type                               the class of the model, where settings decide what it reads
    row_steps, row_rate                                   separate steps of a batch's per-datum parameters before each step
                                                          of all (0); their learning rate, in learning rates (1)
    update(params, batch) -> dict of arrays               the parameters after a step that the model defines, in place of a
                                                          gradient step
    masks(key, batch, samples=1) -> dict of arrays        noise that only training steps need, for dropout
    dream_noise(key, batch, samples=1) -> dict of arrays  noise of draws from the model, for objectives that learn from them
    prior_noise(key, batch, samples=1) -> dict of arrays  noise of draws of the codes from their priors, for `generate`
    settle(params, state, table, exact=True) -> params, state    what of both is determined by the rest of them and by the
                                                          training rows, such as the moments of normalised layers: at the
                                                          end of each epoch, before held-out rows are scored, from a part
                                                          of the rows; at the end of training exactly, from all
    least_rows                                            above 1 where the rows of a batch depend on each other: the
                                                          fewest that a batch may have. Smaller last batches are left
                                                          out. An objective may have this attribute, too
    separable = False                                     the objective is not a mean over rows for another reason: a batch
                                                          cannot be cut into shards. An objective may have this, too
    view_codes                                            mapping of columns to codes, where each of two views has a code
                                                          of its own: for their correlation
    watch(params, state, batch, noise) -> Terms           in place of terms for the held-out rows that training looks at:
                                                          where steps ascend something else, or scoring a row is costly
    inference_order                                       names of the codes' noise, each before those inferred from it
    generation_order                                      names of the codes as p draws them; default: the reverse
    posterior_given(params, state, batch, name, z) -> q, prior_given(params, state, name, z) -> p     of a code, given
                                                          draws of those before it in the order concerned: for bits
    thinned(params, share) -> params                      those under which x, counts, has a share of its rates
    predict(params, state, batch, noise) -> array         p(y | x) of classifiers: probabilities (B, classes)
    pure = True                                           terms depends on its arguments only and has no other effect, so
                                                          that a step can be captured, and launched without calling it; a
                                                          subclass that overrides terms has to declare it again
    generate(params, state, noise) -> Terms               the model without q: each layer's z is drawn from its prior, by
                                                          noise as `noise` draws it, and its q is that prior; `views` are
                                                          p(view | z); there is no log_likelihood
    raw(params, state, batch) -> dict of arrays           the unconstrained parameters (B, ..) of q(z|x); where `params`
                                                          have arrays of these names, `terms` takes those for q

`params` maps names to plain arrays (evaluation) or Vars (training); a model does not distinguish them. `batch` has the
columns of the data as attributes (x, ...), `index` (the rows' indices) and `weight` (None, or (B,)). The sample axis leads.
The estimator of each model: gvae.estimators().
"""

from gvae import discover
from gvae.models.autoencoder import Autoencoder
from gvae.models.base import Base, Model
from gvae.models.cca import CCA, DCCA
from gvae.models.codes import Code, Codes
from gvae.models.darn import DARN
from gvae.models.deep_exponential import DEF
from gvae.models.deep_gp import DeepGP
from gvae.models.denoising import Denoising
from gvae.models.density import Density
from gvae.models.dlgm import DLGM
from gvae.models.double_def import DoubleDEF
from gvae.models.eonade import EoNADE
from gvae.models.factor_analysis import FactorAnalysis, FactorAnalysisEM, LinearVAE
from gvae.models.hierarchical import Hierarchical
from gvae.models.hvm import HVM
from gvae.models.ladder import Ladder
from gvae.models.mutual import Mutual
from gvae.models.nlfa import NonlinearFactorAnalysis
from gvae.models.registry import model
from gvae.models.sbn import SBN
from gvae.models.vae import VAE
from gvae.models.vcca import VCCA
from gvae.models.vib import VIB
from gvae.models.vlae import VLAE
from gvae.models.weights import MAP, Bayes

__all__ = [
    "CCA",
    "DARN",
    "DCCA",
    "DEF",
    "DLGM",
    "HVM",
    "MAP",
    "SBN",
    "VAE",
    "VCCA",
    "VIB",
    "VLAE",
    "Autoencoder",
    "Base",
    "Bayes",
    "Code",
    "Codes",
    "DeepGP",
    "Denoising",
    "Density",
    "DoubleDEF",
    "EoNADE",
    "FactorAnalysis",
    "FactorAnalysisEM",
    "Hierarchical",
    "Ladder",
    "LinearVAE",
    "Model",
    "Mutual",
    "NonlinearFactorAnalysis",
    "model",
]

__all__ += discover.further(__name__, __path__, globals())

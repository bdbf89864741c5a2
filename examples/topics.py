"""Deep exponential families of documents: topics, which of them occur together, and the perplexity of held-out words.

Documents are made up: each belongs to one of three fields, and mixes the field's two topics and some words that all use. A
family of two layers finds topics in its first layer, and in its second which of them occur together. A fifth of the
words of test documents is seen, from which each model infers the others; the perplexity of these is exp(-mean log
probability of a word). For comparison: the frequencies of words in all documents, scikit-learn's latent Dirichlet allocation
if it is installed, and the topics that made the documents. Run time: about ten seconds.
"""

import argparse

import numpy as np
from scipy import sparse

import gvae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=50)
options = parser.parse_args()

FIELDS = (
    ("orbit moon rocket planet launch crew", "compiler memory thread kernel stack loop"),
    ("goal league keeper match striker coach", "chord guitar drum melody tempo bass"),
    ("oven butter flour garlic simmer salt", "cell gene protein virus blood dose"),
)
COMMON = ["the", "of", "and", "in", "to", "is"]
topics = [topic.split() for field in FIELDS for topic in field]
words = np.array([*COMMON, *(word for topic in topics for word in topic)])
rng = np.random.default_rng(0)

share = np.zeros((len(topics), len(words)))  # the share of each word in each topic: a quarter of it on the common words
for k, topic in enumerate(topics):
    share[k, np.isin(words, topic)] = 0.75 * rng.dirichlet(np.full(len(topic), 5.0))
share[:, : len(COMMON)] = 0.25 * rng.dirichlet(np.full(len(COMMON), 5.0))


def documents(n):
    """Counts of words, and the topics' weights that made them."""
    weights = np.zeros((n, len(topics)))
    for row in weights:
        row[2 * rng.integers(3) + np.arange(2)] = 10 * rng.gamma(1.0, size=2)
    return sparse.csr_array(rng.poisson(weights @ share).astype(float)), weights


(train, _), (test, made_by) = documents(600), documents(300)
seen, held = gvae.data.split_counts(test, 0.2, key=gvae.random.key(1))


def perplexity(z, w):
    """The perplexity of the held-out words, with rates z . w of each document and word."""
    return np.exp(-gvae.evaluation.log_shares(held, z, w).sum() / held.sum())


found = {"frequencies of words": perplexity(np.ones((300, 1)), train.sum(axis=0)[:, None] + 1e-9)}
common = {"epochs": options.epochs, "batch_size": 200, "learning_rate": 0.05, "random_state": 0}
for latent in ((6,), (6, 3)):
    model = gvae.DEF(latent=latent, **common).fit(train)
    found[f"DEF, layers of {' and '.join(map(str, latent))}"] = perplexity(
        model.transform(seen), model.model_.loadings(model.parameters_)["z1"]
    )
try:
    from sklearn.decomposition import LatentDirichletAllocation
except ImportError:
    pass
else:
    lda = LatentDirichletAllocation(6, max_iter=30, random_state=0).fit(train)
    found["latent Dirichlet allocation, 6 topics"] = perplexity(
        lda.transform(seen), (lda.components_ / lda.components_.sum(axis=1, keepdims=True)).T
    )
found["the topics that made them"] = perplexity(made_by + 1e-9, share.T)

usage = model.codes(train)
for layer, units in model.top_words(12).items():
    print(f"{layer}:")
    for k in np.argsort(-usage[layer].sum(axis=0)):
        telling = [word for word in words[units[k]] if word not in COMMON]
        print(f"  {usage[layer][:, k].mean():8.3f}  {', '.join(telling[:6])}")
print()
for name, value in found.items():
    print(f"{name:<40}{value:>8.2f}")

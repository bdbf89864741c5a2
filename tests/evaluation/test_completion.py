"""Held-out words: perplexities by hand, of models whose rates are known, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse

import gvae
from gvae import evaluation, models, random
from gvae.data import Table
from gvae.errors import ConfigError, DataError
from gvae.evaluation import Subject, completion, log_shares

rng = np.random.default_rng(0)
X = rng.poisson(2.0, size=(40, 6)).astype(np.float64)


def test_shares_by_hand():
    z, w = rng.gamma(1.0, size=(40, 3)), rng.gamma(1.0, size=(6, 3))
    rates = z @ w.T
    expected = (X * np.log(rates / rates.sum(axis=1, keepdims=True))).sum(axis=1)
    np.testing.assert_allclose(log_shares(sparse.csr_array(X), z, w), expected, rtol=1e-12)
    np.testing.assert_allclose(log_shares(sparse.csr_array(X), 5 * z, w / 3), expected, rtol=1e-12)  # of ratios alone


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_equal_rates_have_the_number_of_columns_as_perplexity(kind):
    model = models.DEF(6, latent=(2,), n_rows=40, dtype="float64")
    params = model.output.init(random.key(0), np.float64, mean=0.7, spread=0.0)
    table = Table(sparse.csr_array(X) if kind == "sparse" else X, dtype=np.float64)
    found = completion(Subject(model, params, table), seen=0.3)
    assert found.summary()["perplexity"] == pytest.approx(6)
    assert 0.55 * X.sum() < found.counts.sum() < 0.85 * X.sum()
    assert completion(Subject(model, params, table), seen=0.3).counts.tolist() == found.counts.tolist()


def test_codes_are_inferred_from_the_seen_part():
    """Of two sets of columns each row has one: the seen tenth tells which, so that the perplexity is that of a set."""
    rows = np.kron(np.eye(2), np.ones((50, 4))) * rng.poisson(8.0, size=(100, 8))
    model = gvae.DEF(latent=(2,), epochs=60, random_state=0).fit(rows)
    found = model.evaluate(rows, samples=2, measures="completion").summary()["completion"]
    assert 3.9 < found["perplexity"] < 5.0
    assert found["seen"] == 0.1


def test_from_the_shell(gvae_, here):
    np.save("counts.npy", X)
    assert gvae_("train", "counts.npy", "--model", "def", "--latent", "2", "--epochs", "2", "--out", "run")[0] == 0
    code, out, err = gvae_("evaluate", "run", "--with", "completion", "--seen", "0.3", "--samples", "2", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)["completion"]
    assert set(shown) == {"rows", "seen", "held_out", "perplexity"}
    assert (shown["rows"], shown["seen"]) == (4, 0.3)
    code, out, _ = gvae_("evaluate", "run", "--with", "completion", "--samples", "2")
    assert code == 0
    assert f"{'perplexity':<34}" in out
    assert "completion, 4 rows of which a share of 0.1 is seen" in out


def test_what_is_refused(refused, gvae_, here):
    np.save("rows.npy", rng.normal(size=(40, 3)))
    gvae_("train", "rows.npy", "--latent", "2", "--hidden", "4", "--epochs", "1", "--out", "run")
    refused(["evaluate", "run", "--samples", "2", "--with", "completion"], "completion: x is explained by", "counts")
    refused(["evaluate", "run", "--samples", "2", "--with", "completion", "--seen", "1.5"], "seen is 1.5")
    model = models.DEF(6, latent=(2,), n_rows=40)
    params = model.init(random.key(0))
    with pytest.raises(DataError, match="no held-out counts"):
        completion(Subject(model, params, Table(sparse.csr_array((3, 6)))))
    for seen in (0, 1, -0.1, "x", None):
        with pytest.raises(ConfigError, match="seen is"):
            evaluation.evaluate(model, params, Table(sparse.csr_array(X)), seen=seen)

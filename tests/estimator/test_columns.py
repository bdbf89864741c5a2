"""Labels, second views, counts, weights, names of columns: from the caller, or a file, to the model and back."""

from __future__ import annotations

import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from three_models import LabelClassifier, PairVAE, TopicModel

import gvae
from gvae import ops
from gvae.errors import ConfigError, DataError, ShapeError
from gvae.estimator import REGISTRY, Estimator, declared
from gvae.models import vae
from gvae.objectives import Layer, Terms
from gvae.settings import Ascent, Length, Machine, Objective, Presentation

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 5))
Y = X[:, :2] @ rng.normal(size=(2, 3)) + 0.1 * rng.normal(size=(120, 3))  # the second view
LABELS = np.where(X[:, 0] + X[:, 1] > 0, "yes", "no")
COUNTS = sparse.csr_array(rng.poisson(0.2, size=(80, 30)))
SMALL = {"epochs": 2, "batch_size": 32, "random_state": 1}


@pytest.fixture(scope="module")
def classifier():
    return LabelClassifier(epochs=40, batch_size=32, learning_rate=1e-2, random_state=1).fit(X, LABELS)


@pytest.fixture(scope="module")
def pair():
    return PairVAE(epochs=30, batch_size=32, learning_rate=1e-2, random_state=1).fit(X, Y)


@pytest.fixture(scope="module")
def topics():
    return TopicModel(**SMALL).fit(COUNTS)


# ---- scikit-learn's checks, for each kind of estimator -------------------------------------------


def whole(X):
    return np.rint(X) if isinstance(X, np.ndarray) and X.dtype.kind == "f" else X


class WholeTopics(TopicModel):
    """Takes what scikit-learn's checks hand over, which are no whole numbers, for counts."""

    def _columns(self, X, *rest):
        return super()._columns(self._rounded(X), *rest)

    def _read(self, X, *rest, **named):
        return super()._read(self._rounded(X), *rest, **named)

    def _rounded(self, X):
        if hasattr(X, "tocsr"):
            return X.tocsr().astype(np.float64).rint() if np.isrealobj(X) else X
        X = np.asarray(X)
        if X.dtype == object:
            try:
                X = X.astype(np.float64)
            except (TypeError, ValueError):
                return X
        return whole(X)


WEIGHTS = "minibatches and their noise belong to rows' positions: a row twice is not a row of weight 2, but in expectation"
POSITION = "the noise of score_samples belongs to a row's position, not to its content"
TARGET = "this check calls score_samples(X), which here needs y as well"
POSITIONS = ("check_methods_sample_order_invariance", "check_methods_subset_invariance")
EXPECTED = {
    LabelClassifier: dict.fromkeys(POSITIONS, TARGET) | {"check_sample_weight_equivalence_on_dense_data": WEIGHTS},
    PairVAE: dict.fromkeys(POSITIONS, TARGET) | {"check_sample_weight_equivalence_on_dense_data": WEIGHTS},
    WholeTopics: dict.fromkeys(POSITIONS, POSITION)
    | {f"check_sample_weight_equivalence_on_{kind}_data": WEIGHTS for kind in ("dense", "sparse")},
    gvae.FactorAnalysis: {},  # EM takes all rows at once, so that nothing depends on their places
}
CHECKED = (
    LabelClassifier(latent=2, epochs=30, learning_rate=1e-2, random_state=0),
    PairVAE(latent=2, hidden=(8,), epochs=1, random_state=0),
    WholeTopics(latent=2, epochs=1, random_state=0),
    gvae.FactorAnalysis(latent=2, epochs=20, dtype="float64", random_state=0),
)


def checks():
    for estimator in CHECKED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they do not inherit from BaseEstimator: on purpose
            for one, check in estimator_checks_generator(estimator):
                name = getattr(check, "func", check).__name__
                expected = EXPECTED[type(estimator)].get(name)
                marks = () if expected is None else pytest.mark.xfail(reason=expected, strict=True)
                yield pytest.param(one, check, id=f"{type(estimator).__name__}-{name}", marks=marks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


# ---- labels --------------------------------------------------------------------------------------


def test_a_classifier(classifier, tmp_path):
    assert list(classifier.classes_) == ["no", "yes"]
    p = classifier.predict_proba(X)
    assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert_array_equal(classifier.predict(X), classifier.classes_[p.argmax(axis=1)])
    assert classifier.score(X, LABELS) == np.mean(classifier.predict(X) == LABELS) > 0.9
    drawn = classifier.predict_proba(X, samples=100)
    assert_allclose(classifier.score_samples(X, LABELS), np.log(drawn[np.arange(120), (LABELS == "yes") * 1]), rtol=1e-6)
    assert classifier.transform(X).shape == (120, 4)
    classifier.save(tmp_path / "model")
    again = gvae.load(tmp_path / "model")
    assert_array_equal(again.predict(X), classifier.predict(X))
    assert again.classes_.tolist() == ["no", "yes"]


def test_one_row_does_not_depend_on_others(classifier):
    assert_allclose(classifier.predict_proba(X[7:9]), classifier.predict_proba(X)[7:9], rtol=1e-5)


def test_what_a_classifier_only_reads():
    """Real numbers in standardized units, bits as they are; neither has a density."""
    assert LabelClassifier(**SMALL).fit(X, LABELS).views_["x"].units is not None
    bits = LabelClassifier(**SMALL).fit(X > 0, LABELS)
    assert bits.views_["x"].units is None
    assert (bits.observation_, bits.binarize_) == (None, "none")


def test_a_classifier_among_others():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LabelClassifier(**SMALL)), {"labelclassifier__beta": [1e-3, 1.0]}, cv=2
    )
    assert np.isfinite(search.fit(X, LABELS).cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("kind", [int, float, bool, np.uint8, object])
def test_kinds_of_labels(kind):
    y = (LABELS == "yes").astype(kind)
    model = LabelClassifier(**SMALL).fit(X, y)
    assert set(model.predict(X).tolist()) <= {0, 1}
    assert_array_equal(model.transform(X), LabelClassifier(**SMALL).fit(X, LABELS).transform(X))


BAD_LABELS = {
    "missing": (None, DataError, "requires y to be passed, but the target y is None: it reads labels as y"),
    "another length": (LABELS[:5], DataError, "y has 5 labels, but X has 120 rows"),
    "fractional": (X[:, 0], DataError, r"fractional labels, 120 in all, the first, .*, at row 0"),
    "NaN": (np.where(LABELS == "yes", 1, np.nan), DataError, "y: NaN or infinite"),
    "of several types": (
        np.array(["a", 1] * 60, object),
        DataError,
        "y has labels of type int, str, expected text, numbers or booleans, all of one type",
    ),
    "that no file can hold": (np.array([b"a", b"b"] * 60), DataError, "y has labels of type bytes, expected text"),
    "None among them": (np.array([None, *LABELS[1:]], object), DataError, "the label of row 0 .* is missing"),
    "one class": (np.zeros(120), DataError, "y has 1 class, 0.0; expected at least two"),
    "two axes": (Y, ShapeError, r"y has shape \(120, 3\), expected labels of shape \(120,\)"),
    "complex": (X[:, 0] * 1j, DataError, "Complex data not supported"),
}


@pytest.mark.parametrize(("y", "error", "words"), list(BAD_LABELS.values()), ids=list(BAD_LABELS))
def test_labels_that_are_refused(y, error, words, tmp_path):
    with pytest.raises(error, match=words) as caught:
        LabelClassifier(**SMALL).fit(X, y, run=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_labels_unseen_by_the_fit(classifier):
    for y in (np.full(120, "maybe"), np.where(np.arange(120) == 3, "maybe", LABELS)):
        with pytest.raises(DataError, match=r"the label maybe of row [03] .* was not seen by fit; known are no, yes"):
            classifier.score_samples(X, y)
    with pytest.raises(DataError, match=r"validation y: the label maybe"):
        LabelClassifier(**SMALL).fit(X, LABELS, validation=(X, np.full(120, "maybe")))
    with pytest.raises(DataError, match="y is missing"):
        classifier.evaluate(X)
    with pytest.raises(DataError, match="y is missing"):
        classifier.score(X)


# ---- two views -----------------------------------------------------------------------------------


def test_two_views(pair, tmp_path):
    assert pair.transform(X).shape == (120, 4)
    shown = pair.reconstruct(X)
    assert set(shown) == {"x", "y"}
    assert np.corrcoef(shown["y"].ravel(), Y.ravel())[0, 1] > 0.9  # inferred from the first view alone
    assert {name: v.shape for name, v in pair.sample(2, draw=True).items()} == {"x": (2, 5), "y": (2, 3)}
    assert set(pair.inverse_transform(pair.transform(X))) == {"x", "y"}
    assert np.isfinite(pair.score_samples(X, Y)).all()
    pair.save(tmp_path / "model")
    again = gvae.load(tmp_path / "model")
    assert_array_equal(again.score_samples(X, Y, samples=3), pair.score_samples(X, Y, samples=3))
    assert again.views_["y"].units.scale.shape == (3,)


def test_the_units_of_a_second_view():
    """Densities are those of the data: a view in other units has the same model, and the Jacobian in its density."""
    settings = SMALL | {"dtype": "float64"}
    one, other = (PairVAE(**settings).fit(X, scale * Y + 7) for scale in (1, 1000))
    assert_allclose(other.transform(X), one.transform(X), rtol=1e-6)
    assert_allclose(other.reconstruct(X)["y"], 1000 * (one.reconstruct(X)["y"] - 7) + 7, rtol=1e-5)
    difference = one.score_samples(X, Y + 7, samples=3) - other.score_samples(X, 1000 * Y + 7, samples=3)
    assert_allclose(difference, 3 * np.log(1000), rtol=1e-6)


def test_each_view_has_its_observation():
    bits = Y > 0
    model = PairVAE(**SMALL).fit(X, bits)
    assert (model.observation_, model.views_["y"].observation) == ("gaussian", "bernoulli")
    named = PairVAE(observation=("gaussian", "bernoulli"), hidden=((16,), (16,)), **SMALL).fit(X, bits)
    assert_array_equal(named.transform(X), model.transform(X))
    with pytest.raises(ConfigError, match="observation has 3 entries, expected one for each of x, y"):
        PairVAE(observation=("gaussian",) * 3, **SMALL).fit(X, bits)


BAD_VIEWS = {
    "missing": (None, DataError, "requires y to be passed.* it reads a second view as y"),
    "another length": (Y[:5], DataError, "X has views of different lengths: 120 rows of x, 5 rows of y"),
    "NaN": (np.where(np.arange(3) == 1, np.nan, Y), DataError, "y: NaN or infinite values: 120 in all, .* row 0, column 1"),
    "text": (LABELS, DataError, "y is an array of"),
    "sparse": (COUNTS, DataError, "y is a sparse matrix, which PairVAE does not take"),
    "four axes": (np.zeros((120, 1, 1, 1)), ShapeError, "y has shape"),
}


@pytest.mark.parametrize(("y", "error", "words"), list(BAD_VIEWS.values()), ids=list(BAD_VIEWS))
def test_second_views_that_are_refused(y, error, words, pair, tmp_path):
    with pytest.raises(error, match=words):
        PairVAE(**SMALL).fit(X, y, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    if y is not None and len(np.shape(y)) != 4:
        with pytest.raises(GVAE_ERRORS):
            pair.score_samples(X, y)
    with pytest.raises(DataError, match=r"validation is ndarray, expected a pair \(X, y\)"):
        PairVAE(**SMALL).fit(X, Y, validation=X)


GVAE_ERRORS = gvae.GvaeError


def test_a_run_with_two_views_is_resumed_with_its_rows(tmp_path):
    whole = PairVAE(**SMALL | {"epochs": 4}).fit(X, Y)
    PairVAE(**SMALL).fit(X, Y, run=tmp_path / "run")
    with pytest.raises(DataError, match=r"these are not the rows .*data_sha256"):
        PairVAE(**SMALL | {"epochs": 4}).fit(X, Y[::-1], run=tmp_path / "run", resume=True)
    more = PairVAE(**SMALL | {"epochs": 4}).fit(X, Y, run=tmp_path / "run", resume=True)
    assert_array_equal(more.transform(X), whole.transform(X))


# ---- counts --------------------------------------------------------------------------------------


def test_counts_stay_sparse(topics, tmp_path, monkeypatch):
    dense = COUNTS.toarray()
    assert_array_equal(topics.transform(COUNTS), topics.transform(dense))
    for form in (sparse.coo_array, sparse.csc_matrix, sparse.csr_matrix, sparse.lil_array):
        assert_array_equal(topics.transform(form(COUNTS)), topics.transform(COUNTS))
    assert topics.reconstruct(COUNTS).shape == (80, 30)
    assert np.isfinite(topics.score_samples(COUNTS, samples=3)).all()
    topics.save(tmp_path / "model")
    assert_array_equal(gvae.load(tmp_path / "model").transform(COUNTS), topics.transform(COUNTS))
    monkeypatch.setattr(sparse.csr_array, "toarray", None)  # all but the likelihood, which is the model's own
    topics.transform(COUNTS)
    topics._columns(COUNTS, None, None, None, topics._filled(topics.checked()), None)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (-COUNTS, r"Negative values in data passed to TopicModel: X are counts; the least, -\d, at row \d+, column \d+"),
        (COUNTS * 0.5, r"X: values outside 0, 1, ..: .* at row \d+, column \d+"),
        (COUNTS * np.nan, "X: NaN or infinite"),
        (COUNTS.astype(complex), "real numbers"),
        (COUNTS[:0], r"0 sample\(s\)"),
    ],
)
def test_counts_that_are_refused(x, words, tmp_path):
    with pytest.raises(GVAE_ERRORS, match=words):
        TopicModel(**SMALL).fit(x, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_of_matrices_names_those_of_counts(monkeypatch):
    monkeypatch.setitem(REGISTRY, "topics", TopicModel)  # as if it were one of gvae's own
    with pytest.raises(
        DataError, match=r"give X.toarray\(\); models of sparse counts are gvae.DEF, gvae.DoubleDEF, gvae.TopicModel"
    ):
        gvae.VAE().fit(COUNTS)


def test_a_list_has_no_index():
    pandas = pytest.importorskip("pandas")
    model = gvae.VAE(**SMALL).fit(X).set_output(transform="pandas")
    assert model.transform(X.tolist()).index.tolist() == list(range(len(X)))
    frame = pandas.DataFrame(X, index=np.arange(len(X)) + 7)
    assert gvae.VAE(**SMALL).fit(frame).set_output(transform="pandas").transform(frame).index[0] == 7


def test_text_that_is_missing_among_labels():
    pandas = pytest.importorskip("pandas")
    labels = pandas.Series(["a", "b", pandas.NA, "b"] * 30, dtype="string")
    with pytest.raises(DataError, match=r"y: the label of row 2 .* is missing"):
        LabelClassifier(**SMALL).fit(X, labels)


def test_negative_counts_beside_stored_zeros():
    places = (np.array([0.0, 5, -1]), (np.array([0, 1, 2]), np.array([0, 1, 2])))
    with pytest.raises(DataError, match="the least, -1, at row 2, column 2"):
        gvae.DEF(latent=(2,), epochs=1).fit(sparse.csr_array(sparse.coo_array(places)))


# ---- names and bytes ------------------------------------------------------------------------------


def test_validation_rows_have_the_names_of_the_training_rows():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)) * [1, 10, 100], columns=list("abc"))
    fit = gvae.VAE(latent=2, hidden=(5,), epochs=1, random_state=1).fit
    for given in (frame, frame.to_numpy()):
        fit(frame, validation=given)
    with pytest.raises(DataError, match=r"^validation: The feature names should match .*\n.*same order"):
        fit(frame, validation=frame[list("cba")])
    with pytest.raises(DataError, match=r"^validation: The feature names should match .*\n.*unseen at fit time:\n- d"):
        fit(frame, validation=frame.rename(columns={"c": "d"}))


def test_bytes_of_a_target_in_a_file_are_numbers(tmp_path):
    h5py = pytest.importorskip("h5py")
    x = np.random.default_rng(0).random((60, 1)) * 4
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["y"] = (x * 50).round().astype("uint8")
    with h5py.File(tmp_path / "rows.h5") as file:
        model = gvae.DeepGP(latent=(), inducing=8, epochs=20, random_state=0).fit(x, file["y"])
    assert np.abs(np.ravel(model.predict(x)) - (x * 50).round().ravel()).max() < 10


def test_bytes_of_a_target_are_numbers():
    x = np.random.default_rng(0).random((60, 1)) * 4
    y = (x[:, 0] * 50).round()
    found = []
    for dtype in ("int64", "uint8"):
        model = gvae.DeepGP(latent=(), inducing=8, epochs=20, random_state=0).fit(x, y.astype(dtype))
        found.append(model.predict(x))
        for other in ("float64", "uint8", "int16"):
            assert model.score(x, y.astype(other)) == pytest.approx(model.score(x, y))
    assert_array_equal(*found)
    assert np.abs(found[0] - y).max() < 10


def test_bytes_are_counts_whatever_the_fit_saw():
    counts = np.random.default_rng(0).poisson(3.0, (80, 5))
    model = gvae.VAE(latent=2, hidden=(6,), epochs=2, observation="poisson", random_state=0).fit(counts)
    assert model.score(counts.astype("uint8")) == model.score(counts.astype("uint16"))
    plain = gvae.DEF(latent=(3,), epochs=1, random_state=0).fit(counts)
    half = gvae.DEF(latent=(3,), epochs=1, random_state=0).fit(counts.astype("float16"))
    assert half.parameters_.sha256() == plain.parameters_.sha256()


# ---- weights of rows -----------------------------------------------------------------------------


def test_a_weight_of_two_is_a_row_twice():
    """For EM, which takes all rows at once; for stochastic gradients it is so in expectation."""
    w = rng.integers(0, 3, len(X))
    settings = {"latent": 2, "epochs": 30, "dtype": "float64", "random_state": 0}
    weighted = gvae.FactorAnalysis(**settings).fit(X, sample_weight=w)
    repeated = gvae.FactorAnalysis(**settings).fit(np.repeat(X, w, axis=0))
    assert_allclose(weighted.score_samples(X, samples=2), repeated.score_samples(X, samples=2), rtol=1e-8)
    alike = gvae.FactorAnalysis(**settings).fit(X)
    assert abs(alike.score(X) - weighted.score(X)) > 1e-3


@pytest.mark.parametrize(
    ("batch_size", "more"), [(None, {}), (100, {}), (20, {}), (1, {}), (100, {"shards": 4}), (20, {"shards": 4})]
)
def test_steps_on_parts_of_the_rows_follow_the_weighted_mean(batch_size, more):
    """The mean of a Gaussian, whose optimum is known; large weights are of few rows, which most batches do not have."""
    r = np.random.default_rng(0)
    x, w = r.normal(size=(500, 1)), np.where(np.arange(500) < 25, 20.0, 1.0)
    x[:25] += 5
    settings = {"batch_size": batch_size, "steps": 8000, "schedule": "cosine", "learning_rate": 1e-2, "random_state": 0}
    settings |= {"optimizer": "sgd", "standardize": False} | more  # Adam takes longer where large gradients are rare
    model = gvae.AutoregressiveDensity("gaussian", **settings).fit(x, sample_weight=w)
    assert model.sample(1)[0, 0] == pytest.approx(np.average(x[:, 0], weights=w), abs=0.05)


@pytest.mark.parametrize("more", [{"batch_size": 30}, {"batch_size": 7}, {"batch_size": 1}, {"batch_size": 8, "shards": 2}])
def test_the_log_has_weighted_means(more):
    r = np.random.default_rng(0)
    x, w = r.normal(size=(30, 4)), np.where(np.arange(30) < 15, 10.0, 0.1)
    settings = {"latent": 2, "hidden": (5,), "epochs": 1, "learning_rate": 1e-12, "random_state": 1, "dtype": "float64"}
    model = gvae.Autoencoder(**settings | more).fit(x, sample_weight=w)
    expected = np.average(model.score_samples(x), weights=w)
    assert model.history_[-1]["train_bound"] == pytest.approx(expected, rel=1e-9)


def test_weights_that_underflow_do_not_count():
    r = np.random.default_rng(0)
    x, w = r.normal(size=(40, 4)), np.repeat([1.0, 0.0], 20)
    settings = SMALL | {"optimizer": "sgd:0", "learning_rate": 1e-2, "batch_size": None, "standardize": False}
    one, other = (gvae.VAE(**settings).fit(x, sample_weight=w + tiny) for tiny in (0.0, 1e-50 * (w == 0)))
    assert one.parameters_.sha256() == other.parameters_.sha256()


def test_weights_reach_the_objective():
    """Rows of weight 0 are as if they were not there, and those of a larger one are explained better."""
    w = (np.arange(len(X)) % 2).astype(float)
    settings = SMALL | {"batch_size": None, "epochs": 200, "hidden": (8,), "latent": 3, "observation": "gaussian"}
    one, other = gvae.VAE(**settings).fit(X, sample_weight=w), gvae.VAE(**settings).fit(X[w > 0])
    assert_array_equal(one.transform(X), other.transform(X))
    heavy = gvae.VAE(**settings).fit(X, sample_weight=1 + 9 * w)
    plain = gvae.VAE(**settings).fit(X)
    gain = heavy.score_samples(X, samples=50) - plain.score_samples(X, samples=50)
    assert gain[w > 0].mean() > gain[w == 0].mean()  # what counts more is explained better
    assert_array_equal(gvae.VAE(**settings).fit(X, sample_weight=1.0).transform(X).shape, (120, 3))
    plain = gvae.VAE(**settings).fit(X, sample_weight=w)
    for size in (2.0**600, 2.0**-600):  # only ratios count, also far outside of float32
        assert_array_equal(gvae.VAE(**settings).fit(X, sample_weight=w * size).transform(X), plain.transform(X))


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.ones(5), r"sample_weight: shape \(5,\); expected \(120,\)"),
        (-np.ones(120), "at row 0"),
        (np.where(np.arange(120) == 7, np.nan, 1.0), "at row 7"),
        (np.zeros(120), "sample_weight is zero for all rows"),
        (LABELS, "sample_weight is an array of"),
    ],
)
def test_weights_that_are_refused(weight, words, tmp_path):
    with pytest.raises(GVAE_ERRORS, match=words):
        gvae.VAE(**SMALL).fit(X, sample_weight=weight, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- names of columns ----------------------------------------------------------------------------


def frame(x=X, names="abcde"):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(x, columns=list(names), index=np.arange(len(x)) + 1000)


def test_names_in_and_names_out(tmp_path):
    model = gvae.VAE(latent=2, hidden=(8,), **SMALL).fit(frame())
    assert list(model.feature_names_in_) == list("abcde")
    assert isinstance(model.transform(frame()), np.ndarray)
    out = clone(model).set_output(transform="pandas").fit(frame()).transform(frame())
    assert list(out.columns) == ["vae0", "vae1"]
    assert out.index[0] == 1000
    assert_array_equal(out.to_numpy(), model.transform(frame()))
    both = make_column_transformer((gvae.VAE(latent=2, hidden=(8,), **SMALL), ["a", "b", "c"]), remainder="passthrough")
    assert list(both.set_output(transform="pandas").fit_transform(frame()).columns)[:2] == ["vae__vae0", "vae__vae1"]
    model.save(tmp_path / "model")
    assert list(gvae.load(tmp_path / "model").feature_names_in_) == list("abcde")
    with pytest.raises(DataError, match="must be in the same order as they were in fit"):
        model.transform(frame(names="bacde"))
    with pytest.warns(UserWarning, match="X does not have valid feature names, but VAE was fitted with"):
        model.transform(X)
    with pytest.warns(UserWarning, match="X has feature names, but VAE was fitted without"):
        gvae.VAE(latent=2, hidden=(8,), **SMALL).fit(X).transform(frame())
    assert not hasattr(model.fit(X), "feature_names_in_")
    with pytest.raises(ConfigError, match="set_output: transform is 'excel'; known are default, pandas, polars"):
        model.set_output(transform="excel")


def test_errors_name_the_column():
    broken = frame(np.where(np.arange(5) == 2, np.inf, X))
    with pytest.raises(DataError, match=r"X: NaN or infinite values: 120 in all.*row 0 \(counted from 0\), column 'c'"):
        gvae.VAE(**SMALL).fit(broken)
    with pytest.raises(DataError, match=r"row 0 \(counted from 0\), column 'b'"):
        gvae.VAE(observation="bernoulli", **SMALL).fit(frame())


def test_a_picture_in_notebooks():
    shown = gvae.VAE(latent=3)._repr_mimebundle_()
    assert shown["text/plain"] == "VAE(latent=3)"
    assert "VAE" in shown["text/html"]
    assert "latent" in make_pipeline(StandardScaler(), gvae.VAE(latent=3))._repr_html_()


# ---- state, and many rows ------------------------------------------------------------------------


class Centred(gvae.models.VAE):
    """A VAE that sees rows less the batch's mean while it is trained, and less a running mean where rows are scored."""

    pure = True

    def init_state(self, key):
        return {"mean": np.zeros(self.sizes["x"], self.dtype)}

    def code(self, params, state, batch):
        return {"z": self.encoder(params, batch.x - state["mean"])}

    def terms(self, params, state, batch, noise, step=None):
        mean = batch.x.mean(axis=0) if step is not None else state["mean"]
        q = self.encoder(params, ops.subtract(batch.x, mean))
        z = q.sample(noise["z"])
        p = self.decode(params, state, {"z": z})["x"]
        running = {} if step is None else {"mean": (0.9 * state["mean"] + 0.1 * mean).astype(self.dtype)}
        return Terms({"x": p.log_prob(batch.x)}, [Layer(q, None, z, noise["z"])], views={"x": p}, state=running)


@declared("centred")
class CentredVAE(Estimator, Machine, Ascent, Length, Objective, Presentation, vae.Settings):
    """A VAE with a state."""

    model = Centred


def test_the_state_of_a_model(tmp_path):
    settings = {"latent": 2, "hidden": (8,), "standardize": False, "observation": "gaussian"}
    model = CentredVAE(**SMALL | settings | {"epochs": 12, "patience": 3}).fit(X + 1, run=tmp_path / "run")
    mean = model.state_["mean"]
    assert 0.3 < mean.mean() < 1.3
    assert_allclose(
        model.transform(X), model.model_.encoder(model.parameters_, (X - mean).astype(np.float32)).mean, rtol=1e-4
    )
    model.save(tmp_path / "model")
    for path in ("model", "run"):
        again = gvae.load(tmp_path / path)
        assert_array_equal(again.state_["mean"], mean)
        assert_array_equal(again.score_samples(X, samples=3), model.score_samples(X, samples=3))
    model.state_["mean"] = mean + 1
    assert (model.score_samples(X, samples=3) != again.score_samples(X, samples=3)).all()


class Wrong(gvae.models.VAE):
    """A VAE whose terms `change` replaces, in training or where rows are scored."""

    change: staticmethod
    scored = False

    def terms(self, params, state, batch, noise, step=None):
        terms = super().terms(params, state, batch, noise, step)
        return self.change(terms) if (step is None) == self.scored else terms


@declared("wrong")
class WrongVAE(Estimator, Machine, Ascent, Length, Objective, Presentation, vae.Settings):
    """A VAE that is wrong."""

    model = Wrong


def _scalar(terms):
    return replace(terms, log_likelihood={"x": terms.log_likelihood["x"].sum()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_scalar, r"log_likelihood of the view 'x' has shape \(\), expected \(K=2, B=32\)"),
        (
            lambda t: replace(t, log_likelihood={"x": t.log_likelihood["x"][0]}),
            r"'x' has shape \(32,\), expected \(K=2, B=32\)",
        ),
        (lambda t: replace(t, log_likelihood={"x": t.log_likelihood["x"][:, :1]}), r"'x' has shape \(2, 1\), expected"),
        (lambda t: replace(t, log_likelihood=t.log_likelihood["x"]), "log_likelihood is Var, expected arrays by view"),
        (lambda t: replace(t, weights=t.log_likelihood["x"].sum()), r"weights has shape \(\), expected"),
        (
            lambda t: replace(t, layers=[Layer(t.layers[0].q, None, t.layers[0].z[0])]),
            r"z of layer 0 has shape \(32, 2\), expected \(K=2, B=32, variables\)",
        ),
        (lambda t: None, "returned NoneType, expected Terms"),
    ],
)
def test_terms_of_another_shape(change, words, monkeypatch, tmp_path):
    monkeypatch.setattr(Wrong, "change", staticmethod(change), raising=False)
    settings = {"latent": 2, "hidden": (8,), "standardize": False, "observation": "gaussian", "samples": 2}
    with pytest.raises((ConfigError, ShapeError), match=f"^Wrong.terms:? .*{words}"):
        WrongVAE(**SMALL | settings).fit(X, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(Wrong, "scored", True)
    words = words.replace("B=32", "B=100").replace("Var", "ndarray").replace("32", "100").replace("K=2", "K=3")
    model = WrongVAE(**SMALL | settings).fit(X)
    with pytest.raises((ConfigError, ShapeError), match=f"^Wrong.terms:? .*{words.replace('(2, 1', '(3, 1')}"):
        model.score_samples(X[:100], samples=3)
    with pytest.raises((ConfigError, ShapeError), match=r"^Wrong.terms"):
        WrongVAE(**SMALL | settings).fit(X, validation=X[:100])


def test_terms_are_checked_once(monkeypatch):
    """Steps after the first one pay nothing."""
    calls = []
    monkeypatch.setattr("gvae.training.step.check_terms", lambda *given: calls.append(given))
    gvae.VAE(**SMALL | {"epochs": 5}, latent=2, hidden=(8,), observation="gaussian", posterior="diagonal").fit(X)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("views", ("y",), "Wrong: views has 'y', expected names of its columns: x"),
        ("columns", {"x": "matrx"}, r"Wrong: columns\['x'\] is 'matrx', expected one of matrix, counts, labels"),
        ("columns", {"y": "matrix"}, "Wrong: columns are y, expected x among them"),
        ("init", lambda self, key: None, "Wrong.init returned NoneType, expected a mapping of names to arrays"),
        ("init", lambda self, key: {"a.b": 3}, "Wrong.init returned int as a.b, expected a mapping of names to arrays"),
    ],
)
def test_declarations_that_are_wrong(name, value, words, monkeypatch):
    monkeypatch.setattr(Wrong, name, value)
    with pytest.raises(ConfigError, match=words):
        WrongVAE(**SMALL, latent=2, hidden=(8,)).fit(X)


def test_many_rows_go_through_in_chunks():
    model = gvae.VAE(latent=2, hidden=(200,), **SMALL).fit(X)
    many = np.tile(X.astype(np.float32), (500, 1))  # 60,000 rows, whose hidden layers take 48 MB at once
    for use, most in ((model.transform, 20e6), (model.reconstruct, 20e6), (lambda x: model.posterior_of(x).mean, 20e6)):
        use(many[:5])
        tracemalloc.start()
        found = use(many)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most, peak
        assert_allclose(found[-120:], use(X), rtol=1e-4, atol=1e-5)


# ---- what auto chooses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "observation", "binarize"),
    [
        (MinMaxScaler().fit_transform(X), "gaussian", "none"),
        (rng.random((50, 20, 3)), "gaussian", "none"),
        (rng.random((50, 4)), "gaussian", "none"),
        (rng.random((50, 4)).astype(np.float32), "gaussian", "none"),
        (rng.random((50, 4)) > 0.5, "bernoulli", "none"),
        ((rng.random((50, 4)) > 0.5) * 1.0, "bernoulli", "none"),
        (rng.integers(0, 256, (50, 4), np.uint8), "bernoulli", "dynamic"),
        (rng.integers(0, 2, (50, 4), np.uint8), "bernoulli", "none"),
        (rng.integers(0, 256, (50, 4)) / 255, "bernoulli", "dynamic"),
        ((rng.integers(0, 256, (50, 4)) / 255).astype(np.float32), "bernoulli", "dynamic"),
        (rng.integers(0, 17, (50, 4)) / 16, "gaussian", "none"),  # a table, that is
        (rng.integers(0, 17, (50, 2, 2)) / 16, "bernoulli", "dynamic"),
        (rng.integers(0, 17, (50, 4)), "gaussian", "none"),
    ],
)
def test_what_auto_chooses(x, observation, binarize, capsys):
    model = gvae.VAE(latent=2, hidden=(4,), verbose=True, **SMALL).fit(x)
    assert (model.observation_, model.binarize_) == (observation, binarize)
    assert (model.standardization_ is None) == (observation == "bernoulli")
    out = capsys.readouterr().out
    assert out.startswith(f"vae: observation {observation} (")
    assert out.count("\n") == 1


def test_a_scaler_in_a_pipeline():
    search = GridSearchCV(
        make_pipeline(MinMaxScaler(), gvae.VAE(latent=2, hidden=(8,), **SMALL)), {"vae__latent": [1, 2]}, cv=3
    ).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# ---- the command line ----------------------------------------------------------------------------


def put(**arrays):
    np.savez("data.npz", **{name: np.asarray(a) for name, a in arrays.items()})


def test_labels_from_a_file(gvae_, here):
    y = (LABELS == "yes") * 3 + 1
    put(train=X[:90], train_y=y[:90], test=X[90:], test_y=y[90:], train_weight=np.ones(90), test_weight=np.ones(30))
    flags = ["--model", "labels", "--epochs", 3, "--beta", 1e-4, "--quiet"]
    assert gvae_("train", "data.npz", *flags, "--out", "run") == (0, "", "")
    model = gvae.load("run")
    assert list(model.classes_) == [1, 4]
    code, out, _ = gvae_("evaluate", "run", "--samples", 3)
    assert code == 0
    assert "data, test: 30 rows" in out
    direct = LabelClassifier(epochs=3, beta=1e-4, random_state=0).fit(X[:90], y[:90], sample_weight=np.ones(90))
    assert_array_equal(direct.predict_proba(X), model.predict_proba(X))


def test_two_views_from_a_file(gvae_, here):
    put(train=X[:90], train_y=Y[:90], test=X[90:], test_y=Y[90:])
    flags = ["--model", "pair", "--epochs", 2, "--observation", "gaussian", "gaussian", "--hidden", "8,6", "7", "--quiet"]
    code, _, err = gvae_("train", "data.npz", *flags, "--out", "run")
    assert code == 2
    assert "hidden is" in err
    flags[flags.index("7")] = "7,5"
    assert gvae_("train", "data.npz", *flags, "--out", "run") == (0, "", "")
    assert gvae.load("run").hidden == ((8, 6), (7, 5))
    assert gvae_("evaluate", "run", "--samples", 3)[0] == 0
    assert gvae_("train", "--resume", "run", "--epochs", 3, "--quiet") == (0, "", "")
    assert gvae_("sample", "run", "--out", "both.npz", "-n", 3)[0] == 0
    assert {name: v.shape for name, v in np.load("both.npz").items()} == {"x": (3, 5), "y": (3, 3)}
    assert "the views x, y: write a .npz file" in gvae_("sample", "run", "--out", "both.npy")[2]


def test_counts_from_a_file(gvae_, here):
    sparse.save_npz("counts.npz", sparse.csr_matrix(COUNTS))
    assert gvae_("train", "counts.npz", "--model", "topics", "--epochs", 2, "--quiet", "--out", "run") == (0, "", "")
    assert gvae_("evaluate", "run", "--samples", 3)[0] == 0
    assert gvae_("sample", "run", "--out", "s.npy", "-n", 3)[0] == 0


def test_files_without_what_a_model_reads(refused, here, monkeypatch):
    monkeypatch.setitem(REGISTRY, "topics", TopicModel)
    put(train=X, test=X)
    refused(["train", "data.npz", "--model", "labels", "--out", "run"], "data has no labels", "train_y")
    refused(["train", "data.npz", "--model", "pair", "--out", "run"], "data has no second view", "train_y")
    sparse.save_npz("counts.npz", sparse.csr_matrix(COUNTS))
    refused(["train", "counts.npz", "--out", "run"], "sparse", "gvae.TopicModel")
    sparse.save_npz("negative.npz", sparse.csr_matrix(-COUNTS))
    refused(["train", "negative.npz", "--model", "topics", "--out", "run"], "Negative values", "row", "column")
    sparse.save_npz("halves.npz", sparse.csr_matrix(COUNTS * 0.5))
    refused(["train", "halves.npz", "--model", "topics", "--out", "run"], "values outside 0, 1, ..")
    put(train=X, test=X, train_y=X[:, 0], test_y=X[:, 0])
    refused(["train", "data.npz", "--model", "labels", "--out", "run"], "y has fractional labels", "row 0")
    put(train=X, test=X, train_y=np.arange(120) % 2, test_y=np.arange(120) % 3)
    refused(
        ["train", "data.npz", "--model", "labels", "--epochs", 1, "--out", "run"], "the label 2 of row 2", "not seen by fit"
    )
    put(train=X, test=X, train_y=Y[:7], test_y=Y)
    refused(["train", "data.npz", "--model", "pair", "--out", "run"], "train_y")
    put(train=X, test=X, train_y=np.where(Y > 0, np.nan, 1.0), test_y=Y)
    refused(["train", "data.npz", "--model", "pair", "--out", "run"], "train_y", "row 1, column 0")

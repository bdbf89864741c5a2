"""Deep Gaussian processes as an estimator and from the shell, of both kinds: scikit-learn's checks, files, mistakes."""

from __future__ import annotations

import itertools
import json
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
from nightly import NIGHTLY, thinned
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_regressor
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import estimator_checks_generator

import gvae
from gvae import settings
from gvae.errors import ConfigError, DataError, NotPositiveDefiniteError, ShapeError
from gvae.evaluation import MEASURES

r = np.random.default_rng(0)
N = 50
X = r.normal(size=(N, 3))
Y = np.stack([np.sin(X[:, 0]), X[:, 1], X[:, 0] * X[:, 1]], axis=1) + 0.1 * r.normal(size=(N, 3))
y = Y[:, 0]
SMALL = {"latent": (1,), "inducing": 8, "epochs": 2, "optimizer": "lbfgs:10", "random_state": 0}
FLAGS = ["--inducing", 8, "--epochs", 2, "--optimizer", "lbfgs:10", "--seed", 1]


def small(**given):
    return gvae.DeepGP(**SMALL | given)


@pytest.fixture(scope="module")
def regression():
    return small().fit(X, y)


@pytest.fixture(scope="module")
def code():
    return small(latent=(2,), unsupervised=True).fit(X)


@pytest.fixture
def files(here):
    """Files of a regression on one column and on three, and of rows alone."""
    for name, column in (("one", y), ("three", Y)):
        np.savez(f"{name}.npz", train=X[:40], test=X[40:], train_y=column[:40], test_y=column[40:])
    np.save("rows.npy", X)


# ---- scikit-learn's protocol ---------------------------------------------------------------------

EXPECTED = {
    "regression": {
        "check_methods_sample_order_invariance": "this check calls score_samples(X), which here needs y as well",
        "check_methods_subset_invariance": "this check calls score_samples(X), which here needs y as well",
    },
    "code": {
        "check_methods_sample_order_invariance": "noise belongs to rows' positions, in score_samples",
        "check_methods_subset_invariance": "noise belongs to rows' positions, in score_samples",
    },
    "weighted": {
        "check_sample_weight_equivalence_on_dense_data": "minibatches and their noise belong to rows' positions",
    },
}
FEW = {"epochs": 1, "optimizer": "lbfgs:2", "inducing": 4, "warm": 0}  # most checks ask what is refused, kept and returned
FITTED = {"epochs": 5, "optimizer": "lbfgs:20", "inducing": 10, "warm": 0}  # those whose names begin so ask for a good score
KINDS = {
    "regression": FEW,
    "code": FEW | {"unsupervised": True},
    "weighted": FEW
    | {"bound": "sampled"},  # alone: in bounds of all rows together rows have no weights, test_weights_of_rows
}


def checks():
    for kind, given in KINDS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it does not inherit from BaseEstimator: on purpose
            for one, check in estimator_checks_generator(small(**given)):
                name = getattr(check, "func", check).__name__
                if name == "check_regressors_train":
                    one = clone(one).set_params(**FITTED)
                if name.startswith("check_sample_weight") != (kind == "weighted"):
                    continue
                known = EXPECTED[kind]
                marks = [pytest.mark.xfail(reason=known[name], strict=True)] if name in known else []
                again = name == "check_regressors_train" and getattr(
                    check, "keywords", {}
                )  # of read-only and of float32 rows
                marks += [NIGHTLY] if kind == "code" or again else []  # a code: the same class, without y
                yield pytest.param(one, check, id=f"{kind}-{name}", marks=marks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_it_is_a_regressor_unless_unsupervised():
    assert is_regressor(gvae.DeepGP())
    assert not is_regressor(gvae.DeepGP(unsupervised=True))
    assert hasattr(gvae.DeepGP(), "predict")
    assert not hasattr(gvae.DeepGP(unsupervised=True), "predict")  # scikit-learn asks so


def test_parameters_copies_and_searches(regression):
    copy = clone(regression)
    assert copy.get_params() == regression.get_params()
    assert_array_equal(copy.fit(X, y).predict(X), regression.predict(X))
    search = GridSearchCV(small(latent=(), epochs=5), {"inducing": [1, 8]}, cv=2).fit(X, y)
    assert search.best_params_ == {"inducing": 8}
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() > 0.5


@pytest.mark.parametrize(
    ("target", "shape"), [(y, (N,)), (y[:, None], (N, 1)), (Y, (N, 3))], ids=["flat", "column", "three"]
)
def test_predictions_have_the_shape_of_y(target, shape, tmp_path):
    model = small().fit(X, target)
    model.save(tmp_path / "model")
    for one in (model, gvae.load(tmp_path / "model")):
        mean, deviation = one.predict(X, return_std=True)
        assert mean.shape == deviation.shape == one.reconstruct(X).shape == shape
        assert (deviation > 0).all()
        assert one.sample_y(X, 2).shape == (*shape, 2)
        assert_array_equal(mean, model.predict(X))
        assert_array_equal(one.sample_y(X, 2), model.sample_y(X, 2))
        assert one.score(X, target) == model.score(X, target) > 0.2
        assert_array_equal(one.score_samples(X, target, samples=5), model.score_samples(X, target, samples=5))
    assert model.score_samples(X, target, samples=5).shape == (N,)


def test_a_score_is_the_determination_of_the_predictions(regression):
    off, spread = y - regression.predict(X), y - y.mean()
    assert regression.score(X, y) == pytest.approx(1 - off @ off / (spread @ spread))


def test_a_code_is_saved_with_all_that_it_is(code, tmp_path):
    code.save(tmp_path / "model")
    other = gvae.load(tmp_path / "model")
    assert other.unsupervised
    assert_array_equal(other.embedding_, code.embedding_)
    for name, given in (("transform", (X[:5],)), ("reconstruct", (X[:5],)), ("sample", (4,)), ("score_samples", (X[:5],))):
        assert_array_equal(getattr(other, name)(*given), getattr(code, name)(*given))
    assert code.sample(4).shape == (4, 3)


@pytest.mark.parametrize("bound", ["explicit", "sampled"])
def test_other_bounds(bound, tmp_path):
    """In batches, by Adam, and in float32."""
    by_adam = {"bound": bound, "optimizer": "adam", "batch_size": 10, "learning_rate": 1e-2, "epochs": 3}
    model = small(dtype="float32", **by_adam).fit(X, y)
    model.save(tmp_path / "model")
    assert_array_equal(gvae.load(tmp_path / "model").predict(X), model.predict(X))
    assert model.parameters_["inducing.0.y"].dtype == np.float32
    coded = small(latent=(2, 1), unsupervised=True, **by_adam).fit(X)
    assert coded.transform(X[:5]).shape == (5, 2)
    assert coded.sample(3).shape == (3, 3)


def test_containers(code):
    pandas = pytest.importorskip("pandas")
    framed = clone(code).set_output(transform="pandas").fit(X)
    found = framed.transform(pandas.DataFrame(X[:4], index=list("abcd")).to_numpy())
    assert list(found.columns) == ["deepgp0", "deepgp1"]
    assert_array_equal(found.to_numpy(), code.transform(X[:4]))


def test_weights_of_rows():
    """The sampled bound is a mean over rows; the others are of all rows together, weights of one included."""
    base = small(bound="sampled", optimizer="adam", batch_size=10).fit(X, y)
    same = small(bound="sampled", optimizer="adam", batch_size=10).fit(X, y, sample_weight=np.ones(N))
    assert_allclose(same.predict(X), base.predict(X), rtol=1e-9)
    for bound in ("collapsed", "explicit"):
        for weight in (np.ones(N), np.arange(N)):
            with pytest.raises(
                ConfigError, match=rf"^DeepGP: bound='{bound}' is of all rows together: rows cannot have weights"
            ):
                small(bound=bound).fit(X, y, sample_weight=weight)


# ---- from the shell ------------------------------------------------------------------------------


def test_a_regression_from_the_shell(gvae_, files):
    code, out, err = gvae_("train", "one.npz", "--model", "deep_gp", "--latent", 1, *FLAGS, "--out", "run")
    assert (code, err) == (0, "")
    assert out.startswith("deep_gp: X: read (real numbers")
    assert "KL" not in out  # its codes have no posterior
    again = gvae.DeepGP(**SMALL | {"random_state": 1}).fit(X[:40], y[:40])
    model = gvae.load("run")
    assert_array_equal(model.predict(X), again.predict(X))
    assert model.predict(X).shape == (N,)
    code, out, err = gvae_("evaluate", "run", "--samples", 5)
    assert (code, err) == (0, "")
    assert "log p(y|x), 5 importance samples" in out
    found = json.loads(gvae_("evaluate", "run", "--samples", 5, "--with", "all", "--json")[1])
    assert found["reconstruction"]["rows"] == 10
    assert not {"units", "surgery", "classification"} & set(found)
    few = ["--first", 10, "--samples", 5]
    code, _, err = gvae_("plot", "run", "--out", "pictures", *few)
    assert code == 0
    assert "DeepGP explains y given x, and has no model of x to draw from: see sample_y" in err
    assert {"curves.png", "reconstructions.png", "codes.png"} <= {path.name for path in Path("pictures").iterdir()}
    assert gvae_("report", "run", "--out", "page.html", *few)[0] == 0
    assert Path("page.html").stat().st_size > 10_000


def test_a_sparse_process_from_the_shell(gvae_, files):
    assert gvae_("train", "one.npz", "--model", "deep_gp", "--latent", 0, *FLAGS, "--out", "run")[0] == 0
    model = gvae.load("run")
    assert list(model.latent) == []
    assert_array_equal(model.predict(X), small(latent=(), random_state=1).fit(X[:40], y[:40]).predict(X))
    assert tomllib.loads(Path("run/run.toml").read_text())["settings"]["latent"] == []
    assert gvae_("train", "--config", "run/run.toml", "--out", "again")[0] == 0
    assert_array_equal(gvae.load("again").predict(X), model.predict(X))
    assert gvae_("evaluate", "run", "--samples", 5)[0] == 0
    assert gvae_("plot", "run", "--out", "pictures", "--first", 10)[0] == 0
    assert gvae_("report", "run", "--out", "page.html", "--first", 10, "--samples", 5)[0] == 0


def test_groups_from_the_shell(gvae_, files):
    groups = ["--groups", "a=0-1", "b=2", "--latent", 2, "--hidden-groups", 2]
    assert gvae_("train", "three.npz", "--model", "deep_gp", *groups, *FLAGS, "--out", "run")[0] == 0
    model = gvae.load("run")
    assert list(model.model_.levels[0].processes) == ["a", "b"]
    assert list(model.model_.levels[1].processes) == ["z1_0", "z1_1"]
    assert model.predict(X).shape == (N, 3)
    assert gvae_("train", "--config", "run/run.toml", "--out", "again")[0] == 0
    again = gvae.load("again")
    assert again.get_params() == model.get_params()
    assert again.groups == {"a": [0, 1], "b": [2]}
    assert_array_equal(again.predict(X), model.predict(X))
    assert Path("again/run.toml").read_text() == Path("run/run.toml").read_text()


def test_groups_go_through_a_file_and_back():
    known = {f.name: f for f in settings.fields(gvae.DeepGP)}
    for given in ({"groups": {"a": [0, 1], "b": [2]}, "hidden_groups": (2, 1), "latent": (2, 3)}, {"latent": ()}, {}):
        model = gvae.DeepGP(**given)
        tables = tomllib.loads(model._toml({"settings": model.checked(), "notes": {"data": None, "data_dir": None}}))
        assert tables["settings"].pop("model") == "deep_gp"
        back = gvae.DeepGP(**{name: settings.from_file(known[name], v) for name, v in tables["settings"].items()})
        assert back.checked() == model.checked()


def test_a_code_from_the_shell(gvae_, files):
    code, _, err = gvae_("train", "rows.npy", "--model", "deep_gp", "--unsupervised", "--latent", 2, *FLAGS, "--out", "run")
    assert (code, err) == (0, "")
    code, out, err = gvae_("evaluate", "run", "--samples", 5, "--with", "units")
    assert (code, err) == (0, "")
    assert "log p(x), 5 importance samples" in out
    assert "active units" in out
    assert gvae_("sample", "run", "-n", 4, "--out", "drawn.npy")[0] == 0
    assert np.load("drawn.npy").shape == (4, 3)
    few = ["--first", 10, "--samples", 5]
    code, _, err = gvae_("plot", "run", "--out", "pictures", *few)
    assert (code, err) == (0, "")
    assert {"codes.png", "samples.png", "units.png"} <= {path.name for path in Path("pictures").iterdir()}
    assert gvae_("report", "run", "--out", "page.html", *few)[0] == 0
    assert Path("page.html").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["regression", "code"])
def test_a_resumed_run_has_the_same_bits(kind, gvae_, files):
    given = ["one.npz", "--latent", 1] if kind == "regression" else ["rows.npy", "--latent", 1, "--unsupervised"]
    flags = ["--inducing", 8, "--optimizer", "lbfgs:10", "--seed", 1, "--model", "deep_gp"]
    assert gvae_("train", *given, *flags, "--epochs", 2, "--out", "run")[0] == 0
    assert gvae_("train", "--resume", "run", "--epochs", 4)[0] == 0
    assert gvae_("train", *given, *flags, "--epochs", 4, "--out", "whole")[0] == 0
    resumed, whole = gvae.load("run"), gvae.load("whole")
    assert resumed.parameters_.sha256() == whole.parameters_.sha256()
    for name, value in whole.state_.items():
        assert_array_equal(resumed.state_[name], value)


def test_what_the_shell_refuses(gvae_, refused, files):
    train = ["train", "--model", "deep_gp", *FLAGS, "--out", "run"]
    refused([*train, "rows.npy"], "rows has no y, which model deep_gp reads: give a .npz file with the array train_y")
    refused([*train, "one.npz", "--groups", "a=0,x"], "argument --groups: 'a=0,x'")
    refused([*train, "three.npz", "--groups", "a=0-1"], "groups are {'a': [0, 1]}, expected each of the 3 columns of y")
    refused([*train, "one.npz", "--dtype", "float32"], "dtype is float32, expected float64 for bound='collapsed'")
    assert gvae_("train", "one.npz", "--model", "deep_gp", *FLAGS, "--out", "kept")[0] == 0
    refused(["sample", "kept", "--out", "drawn.npy"], "DeepGP explains y given x, and has no model of x to draw from")


# ---- mistakes ------------------------------------------------------------------------------------

HOLE, GAP = y.copy(), X.copy()
HOLE[3] = GAP[4, 1] = np.nan
OF_ALL = "expected each of the 3 columns of y in one of them"
BY_NAME = r"expected columns by name, such as {'a': \[0, 1\], 'b': \[2\]}"

MISTAKES = {
    "no y": ({}, X, None, DataError, "DeepGP.fit requires y to be passed, .* it reads numbers as y"),
    "y of another length": ({}, X, y[:5], DataError, "50 rows of x, 5 rows of y"),
    "NaN in y": ({}, X, HOLE, DataError, "y: NaN or infinite values: 1 in all, the first, nan, at row 3"),
    "NaN in X": ({}, GAP, y, DataError, "X: NaN or infinite values: 1 in all, the first, nan, at row 4, column 1"),
    "text": ({}, X, np.array(["a"] * N), DataError, "y is an array of"),
    "float32": ({"dtype": "float32"}, X, y, ConfigError, "dtype is float32, expected float64 for bound='collapsed'"),
    "bits": (
        {"observation": "bernoulli"},
        X,
        y > 0,
        ConfigError,
        "observation is 'bernoulli', expected gaussian with bound",
    ),
    "no code": ({"latent": (), "unsupervised": True}, X, None, ConfigError, r"latent is \(\), expected at least one layer"),
    "groups overlap": ({"groups": {"a": [0, 1], "b": [1, 2]}}, X, Y, ConfigError, f"DeepGP: groups are .* {OF_ALL}"),
    "groups miss one": ({"groups": {"a": [0, 1]}}, X, Y, ConfigError, f"DeepGP: groups are .* {OF_ALL}"),
    "groups of others": ({"groups": {"a": [0, 5], "b": [1, 2]}}, X, Y, ConfigError, f"DeepGP: groups are .* {OF_ALL}"),
    "groups, no names": ({"groups": [1, 2]}, X, Y, ConfigError, rf"groups is \[1, 2\], {BY_NAME}"),
    "groups, empty": ({"groups": {"a": [0, 1, 2], "b": []}}, X, Y, ConfigError, f"groups is .* {BY_NAME}"),
    "groups, numbers": ({"groups": {"a": 0}}, X, Y, ConfigError, f"groups is .* {BY_NAME}"),
    "hidden groups": (
        {"latent": (3,), "hidden_groups": (2,)},
        X,
        y,
        ConfigError,
        r"hidden_groups is \(2,\), expected for each layer of latent \(3,\) a number that divides its width",
    ),
    "hidden groups, other layers": (
        {"hidden_groups": (1, 1)},
        X,
        y,
        ConfigError,
        r"hidden_groups is \(1, 1\), expected for",
    ),
    "hidden groups, the top layer": (
        {"latent": (4,), "hidden_groups": (2,), "unsupervised": True},
        X,
        None,
        ConfigError,
        r"hidden_groups is \(2,\), expected 1 for the top layer where unsupervised=True",
    ),
    "encoder": (
        {"encoder": (4,), "bound": "sampled"},
        X,
        y,
        ConfigError,
        r"encoder is for q\(z \| y\), which bound='sampled'",
    ),
    "batches": (
        {"optimizer": "adam", "batch_size": 10},
        X,
        y,
        ConfigError,
        "batches have 10 rows .batch_size is 10, of 50 rows., but in a step of DeepGP .* it takes 50 or more",
    ),
    "batches of L-BFGS": (
        {"bound": "explicit", "batch_size": 10},
        X,
        y,
        ConfigError,
        "a step of LBFGS is on all rows, but batches have 10 of 50 .batch_size is 10.",
    ),
    "no points": ({"inducing": 0}, X, y, ConfigError, "inducing is 0, expected a whole number of at least 1"),
    "kernel": ({"kernel": "matern"}, X, y, ConfigError, "kernel is 'matern'; known are rbf, linear"),
    "bound": ({"bound": "exact"}, X, y, ConfigError, "bound is 'exact'; known are collapsed, explicit, sampled"),
    "nugget": ({"nugget": -1.0}, X, y, ConfigError, r"nugget is -1.0, expected a number of at least 0"),
}


@pytest.mark.parametrize(("given", "x", "target", "error", "words"), list(MISTAKES.values()), ids=list(MISTAKES))
def test_mistakes(given, x, target, error, words, tmp_path):
    with pytest.raises(error, match=words) as raised:
        small(**given).fit(x, target, run=tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_mistakes_in_use(regression, code):
    for use, error, words in (
        (lambda: regression.predict(X[:, :2]), ShapeError, "X has 2 features, but DeepGP is expecting 3 features"),
        (lambda: regression.predict(X, samples=0), ConfigError, "samples is 0, expected a whole number of at least 1"),
        (lambda: regression.sample_y(X, 0), ConfigError, "n_samples is 0, expected a whole number of at least 1"),
        (lambda: regression.score(X), DataError, "DeepGP.score: y is missing: R² needs it"),
        (lambda: regression.score(X, y[:5]), DataError, "50 rows of x, 5 rows of y"),
        (lambda: regression.score(X, HOLE), DataError, "y: NaN or infinite values"),
        (lambda: regression.score_samples(X), DataError, "DeepGP: y is missing: the model reads numbers as y"),
        (lambda: regression.sample(3), ConfigError, "DeepGP explains y given x, and has no model of x to draw from"),
        (lambda: code.predict(X), ConfigError, "DeepGP.predict: it is unsupervised, and has no y to predict"),
        (lambda: code.sample_y(X), ConfigError, "DeepGP.sample_y: it is unsupervised, and has no y to predict"),
        (lambda: code.transform(X[:, :2]), ShapeError, "X has 2 features, but DeepGP is expecting 3 features"),
        (lambda: small().predict(X), ConfigError, "this DeepGP is not fitted yet"),
        (lambda: small().embedding_, ConfigError, "this DeepGP is not fitted yet"),
    ):
        with pytest.raises(error, match=words) as raised:
            use()
        assert "\n" not in str(raised.value)


def test_codes_that_rows_do_not_have(regression):
    assert regression.embedding_.shape == (N, 1)
    sampled, sparse = small(bound="sampled").fit(X, y), small(latent=()).fit(X, y)
    for model in (sampled, sparse):
        with pytest.raises(ConfigError, match=r"^DeepGP.embedding_: rows have no codes of their own; see transform$"):
            model.embedding_  # noqa: B018
    assert sampled.transform(X).shape == (N, 1)
    for use in (sparse.transform, sparse.reconstruct, sparse.posterior_of):
        with pytest.raises(ConfigError, match=r"^DeepGP: the model has no codes: there is nothing to transform$"):
            use(X)


# ---- data at the ends of what there is -----------------------------------------------------------


def test_no_more_inducing_points_than_rows():
    model = small(latent=(), inducing=1000).fit(X[:20], y[:20])
    assert model.parameters_["inducing.0.y"].shape == (20, 3)
    assert_array_equal(model.predict(X), small(latent=(), inducing=20).fit(X[:20], y[:20]).predict(X))


def test_rows_that_coincide():
    x, target = X[:5].repeat(4, axis=0), y[:5].repeat(4)
    for latent, level in (((), r"level 0 \(y\)"), ((1,), r"level \d \(\w+\)")):
        with pytest.raises(
            NotPositiveDefiniteError, match=rf"^{level}: the kernel matrix of 20 inducing points is singular"
        ):
            small(latent=latent, inducing=20, nugget=0).fit(x, target)
        assert small(latent=latent, inducing=20).fit(x, target).score(x, target) > 0.9  # by the nugget


def test_columns_that_do_not_vary():
    x = X.copy()
    x[:, 1] = 3.0
    assert small().fit(x, y).score(x, y) > 0.5
    mean, deviation = small().fit(X, np.full(N, 7.0)).predict(X, return_std=True)
    assert_allclose(mean, 7.0, atol=1e-6)
    assert np.isfinite(deviation).all()
    alone = small().fit(np.ones((N, 2)), y)  # of a single value: the mean of y
    assert_allclose(alone.predict(np.ones((3, 2))), y.mean(), atol=0.05)
    assert np.isfinite(small(unsupervised=True).fit(x).transform(x[:3])).all()


# ---- measures ------------------------------------------------------------------------------------

CANNOT = {
    "regression": {
        name: "codes of DeepGP have no posterior, of which this is a measure" for name, m in MEASURES.items() if m.inferred
    }
    | {"classification": "DeepGP explains no labels, of which this is a measure"},
    "code": {
        "bits": "UnsupervisedDeepGP has parameters of each row, which a decoder does not have",
        "completion": "x is explained by Rescaled, expected a distribution of counts",
        "classification": "UnsupervisedDeepGP explains no labels, of which this is a measure",
        "correlation": "UnsupervisedDeepGP has no method `view_codes`, see gvae.models",
    },
}


@pytest.mark.parametrize(
    ("measure", "kind"),  # Gibbs sampling of a code takes long, and is part of the next test
    thinned(itertools.product(MEASURES, ["regression", "code"]), lambda *row: row != ("gibbs", "code")),
)
def test_measures(measure, kind, request):
    """Each measures, or says in one line that begins with its name what the model lacks."""
    model, rows = request.getfixturevalue(kind), (X[:4], y[:4]) if kind == "regression" else (X[:4],)
    given = {"samples": 5, "chains": 2, "temperatures": 3, "first": 2, "measures": [measure]}
    if measure in CANNOT[kind]:
        with pytest.raises(ConfigError) as raised:
            model.evaluate(*rows, **given)
        assert str(raised.value) == f"{measure}: {CANNOT[kind][measure]}"
        return
    found = model.evaluate(*rows, **given)
    assert list(found.measures) == [measure]
    assert np.isfinite(found.elbo).all()


def test_all_measures(regression, code):
    """Those that suit a regression, and those that suit a code."""
    found = regression.evaluate(X[:5], y[:5], samples=5, measures="all")
    assert list(found.measures) == ["reconstruction"]
    assert_allclose(found.kl, 0)
    found = code.evaluate(X[:5], samples=5, chains=2, temperatures=3, first=2, measures="all")
    assert {"units", "surgery", "gaps", "gibbs", "ais", "bdmc", "curve"} <= set(found.measures)
    assert all(np.isfinite(value) for value in found.measures["bdmc"].summary().values())

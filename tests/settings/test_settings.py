"""Settings are declared once: signature, help, checks, flags, configuration files and the documentation follow from it."""

from __future__ import annotations

import importlib.util
import inspect
import json
import pickle
import re
import shutil
import tomllib
import warnings
from pathlib import Path
from unittest import mock

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import gvae
from gvae import settings, training
from gvae.errors import ConfigError, DataError, RunError
from gvae.estimator import REGISTRY, Estimator, declared
from gvae.estimator.protocol import DECLARED
from gvae.models import weights
from gvae.settings import Ascent, Length, Machine, Number, Objective, Presentation, setting

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 6))
DOCS = Path(__file__).parents[2] / "docs"
ESTIMATORS = list(gvae.estimators().values())
SMALL = {"hidden": (8,), "epochs": 2, "batch_size": 16, "random_state": 1}


LABELS = (X[:, 0] > 0) * 1 + (X[:, 1] > 0)
VIEW = X[:, ::-1] + rng.normal(size=X.shape)


def y_of(cls):
    """What a model reads beside X."""
    return {"labels": (LABELS,), "matrix": (VIEW,)}.get(cls.model.columns.get("y"), ())


BITS = (X > 0) * 1.0


LAYERED = (gvae.HierarchicalVAE, gvae.LadderVAE)


COUNTS = np.floor(np.exp(X))


def rows_of(cls):
    """Bits for a model of bits, counts for one of counts."""
    if cls.model.columns["x"] == "counts":
        return COUNTS
    return BITS if cls in (gvae.SBN, gvae.DARN, gvae.AutoregressiveDensity, gvae.EoNADE) else X


def small(cls, **given):
    known = cls().get_params()
    if known.get("batch_size", 0) is None:  # all rows in a step, unless asked
        known.pop("batch_size")
    latent = (4, 2) if cls in LAYERED else 4
    return cls(**{name: value for name, value in ({"latent": latent} | SMALL).items() if name in known} | given)


def few(cls):
    """Codes that four rows held out are enough for: canonical correlations need more than two rows for each."""
    return 1 if cls is gvae.DCCA else 4


def shapes(views):
    """Of what `sample` and `reconstruct` return: both views have the shape of X."""
    return [x.shape for x in (views.values() if isinstance(views, dict) else [views])]


@settings.group("model")
class Added(weights.Settings):
    """Those of MAP and one more."""

    beta_of_tests: float = setting(default=0.25, help="a setting that was added in one place", kind=Number())


class Doubled(gvae.models.MAP):
    """MAP, that keeps its new setting."""

    Settings = Added
    pure = True

    def build(self, settings):
        super().build(settings)
        self.beta_of_tests = settings.beta_of_tests


@pytest.fixture
def added(monkeypatch):
    """An estimator with one setting more, among gvae's own."""

    @declared("added")
    class AddedVAE(Estimator, Machine, Ascent, Length, Objective, Presentation, Added):
        """A VAE of the tests."""

        model = Doubled

    monkeypatch.setitem(REGISTRY, "added", AddedVAE)
    return AddedVAE


def docs_page():
    spec = importlib.util.spec_from_file_location("registries", DOCS / "_extensions" / "registries.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.filled((DOCS / "settings.md").read_text(encoding="utf-8"))


def test_a_setting_is_added_in_one_place(added, gvae_, here):
    parameter = inspect.signature(added).parameters["beta_of_tests"]
    assert (parameter.default, parameter.annotation) == (0.25, "float")
    assert "beta_of_tests : float, default 0.25\n    a setting that was added in one place" in added.__doc__
    assert added().get_params()["beta_of_tests"] == 0.25
    with pytest.raises(ConfigError, match="beta_of_tests is 'x', expected a positive number"):
        added(beta_of_tests="x").fit(X)
    assert small(added, beta_of_tests=2.0).fit(X).model_.beta_of_tests == 2.0
    out = gvae_("train", "--model", "added", "--help")[1]
    assert "--beta-of-tests X" in out
    assert "a setting that was added in one place (default: 0.25)" in " ".join(out.split())
    assert "beta-of-tests" not in gvae_("train", "--help")[1]
    np.save("rows.npy", X)
    Path("made.toml").write_text('[settings]\nmodel = "added"\nbeta_of_tests = 3.5\nhidden = [8]\nepochs = 1\n')
    assert gvae_("train", "rows.npy", "--config", "made.toml", "--out", "run")[0] == 0
    assert tomllib.loads(Path("run/run.toml").read_text())["settings"]["beta_of_tests"] == 3.5
    assert gvae.load("run").beta_of_tests == 3.5
    assert gvae_("train", "rows.npy", "--config", "made.toml", "--beta-of-tests", "0.5", "--out", "other")[0] == 0
    assert gvae.load("other").beta_of_tests == 0.5  # a flag goes before the file
    assert "| `beta_of_tests` | `float` | `0.25` | a setting that was added in one place |" in docs_page()


def test_the_documentation_has_all_settings():
    page = docs_page()
    for cls in ESTIMATORS:
        for f in settings.fields(cls):
            assert f"| `{f.name}` | " in page
    assert page.count("\n## gvae.") == len(ESTIMATORS)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_help_names_every_setting_with_type_and_default(cls):
    for f in settings.fields(cls):
        assert f"{f.name} : {f.type}, default {f.default!r}\n    {f.metadata['help']}" in cls.__doc__
        assert inspect.signature(cls).parameters[f.name].default == f.default
    assert set(inspect.signature(cls).parameters) == set(cls().get_params())


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_an_estimator_of_each_model(cls, tmp_path):
    X = rows_of(cls)
    model = small(cls).fit(X, *y_of(cls))
    use = model.transform if model.model_.codes else model.score_samples
    assert use(X).shape == ((40, 4) if model.model_.codes else (40,))
    assert set(model.codes(X)) >= set(model.model_.codes)
    if model.model.views and not model.model.conditional:
        assert shapes(model.sample(40)) == [X.shape] * len(model.model.views)
    if model.model.views and model.model_.codes:
        assert shapes(model.reconstruct(X)) == [X.shape] * len(model.model.views)
    if cls.model.has_bound:
        assert np.isfinite(model.score_samples(X, *y_of(cls), samples=3)).all()
    else:
        assert np.isfinite(model.score(X, *y_of(cls)))
    assert repr(clone(model)) == repr(model)
    model.save(tmp_path / "model")
    few = X[:5]
    expected = use(few)
    for other in (gvae.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert type(other) is cls
        assert other.get_params() == model.get_params()
        assert_array_equal(getattr(other, use.__name__)(few), expected)
    joblib.dump(model, tmp_path / "pickled")
    assert_array_equal(getattr(joblib.load(tmp_path / "pickled"), use.__name__)(few), expected)
    first = ", ".join(f.name for f in list(settings.fields(cls.model.Settings))[:2])
    with pytest.raises(ConfigError, match=f"{cls.__name__} has no setting 'latents'; known are {first}"):
        cls(latents=3)
    with pytest.raises(TypeError):  # as Python's callers expect
        cls(latents=3)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_the_flags_of_each_model(cls, gvae_, here):
    np.savez("rows.npz", train=rows_of(cls), train_y=(y_of(cls) or (LABELS,))[0])
    latent = ["4", "2"] if cls in LAYERED else [few(cls)]
    flags = ["--latent", *latent] if hasattr(cls(), "latent") else []
    flags += ["--hidden", "5", "--batch-size", "16"] if hasattr(cls(), "hidden") else []
    flags += ["--epochs", "1"] if hasattr(cls(), "epochs") else []
    done = gvae_("train", "rows.npz", "--model", cls.name, *flags, "--out", "run")
    assert done[0] == 0, done
    assert type(gvae.load("run")) is cls
    help_ = gvae_("train", "--model", cls.name, "--help")[1]
    for f in settings.fields(cls):
        flag = "--seed" if f.name == "random_state" else "--" + f.name.replace("_", "-")
        assert (flag in help_) == (f.name != "verbose"), flag


def test_settings_of_one_model_alone(gvae_, here):
    search = GridSearchCV(gvae.MAPVAE(epochs=3, hidden=(8,), random_state=0), {"alpha": [0.5, 2.0]}, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.model_.alpha in (0.5, 2.0)
    nlfa = gvae.NonlinearFactorAnalysis(latent=2, hidden=(8,), epochs=1, row_steps=2, row_rate=5.0).fit(X)
    assert (nlfa.model_.row_steps, nlfa.model_.row_rate) == (2, 5.0)
    np.save("rows.npy", X)
    code, _, err = gvae_("train", "rows.npy", "--alpha", 2, "--out", "run")
    assert code == 2
    assert "unrecognized arguments: --alpha 2; see gvae train --model vae --help" in err
    assert not Path("run").exists()


@pytest.mark.parametrize("cls", [cls for cls in ESTIMATORS if getattr(cls(), "epochs", None) == "auto"])
def test_with_nothing_else_said(cls, monkeypatch, caplog):
    """A model of batches trains until a bound stops improving; here after less than the stated steps."""
    small_rule = training.Until(every=4, patience=2, least=8, most=40)
    monkeypatch.setattr(training.Until, "of", lambda n_rows, batch_size: small_rule)
    given, X = {"row_steps": 1} if cls is gvae.NonlinearFactorAnalysis else {}, rows_of(cls)
    given |= {"latent": (4, 2) if cls in LAYERED else few(cls)} if hasattr(cls(), "latent") else {}
    with caplog.at_level("INFO", logger="gvae"):
        model = cls(random_state=1, **given).fit(X, *y_of(cls))
    assert 8 <= model.history_[-1]["step"] <= 40
    assert 1 <= model.n_iter_ <= model.history_[-1]["step"]
    assert model.config_["fitted"]["n_rows"] == 36  # a tenth is held out
    assert "8 to 40 steps, until the bound on 4 rows held out stops improving" in caplog.text
    best = max(model.history_, key=lambda row: row["validation_bound"])
    assert model.n_iter_ == best["step"]
    watched = cls(random_state=1, **given)
    watched.fit(X, *y_of(cls), validation=(X, *y_of(cls)) if y_of(cls) else X)
    assert watched.config_["fitted"]["n_rows"] == 40


def test_lengths_that_contradict_each_other(tmp_path):
    with pytest.raises(
        ConfigError, match="schedule 'cosine' falls to 0 at the end of the run, which epochs='auto' leaves open"
    ):
        gvae.VAE(schedule="cosine").fit(X, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(
        DataError, match=r"X has 1 rows: too few \(n_samples = 1\) to hold out 1 from training; name the epochs"
    ):
        gvae.VAE().fit(X[:1])
    patient = gvae.VAE(latent=2, hidden=(4,), patience=1, random_state=0).fit(X)
    bounds = [row["validation_bound"] for row in patient.history_]
    assert bounds.index(max(bounds)) == len(bounds) - 2 < 10_000  # one epoch without a better bound ends it


def test_a_run_of_automatic_length(gvae_, here, monkeypatch):
    monkeypatch.setattr(
        training.Until, "of", lambda n_rows, batch_size: training.Until(every=4, patience=2, least=8, most=40)
    )
    np.save("rows.npy", X)
    code, out, _ = gvae_("train", "rows.npy", "--latent", 3, "--hidden", 8, "--out", "run")
    assert code == 0
    assert out.startswith("vae: observation gaussian (real numbers: ")
    assert "standardized; 8 to 40 steps, until the bound on 4 rows held out stops improving" in out
    assert "(validation)" in out
    assert "kept: the weights of epoch" in out
    assert json.loads(gvae_("runs", "--json")[1])[0]["state"] == "finished"
    before = gvae.load("run")
    assert gvae_("train", "--resume", "run")[0] == 0  # nothing is left to do
    assert_array_equal(gvae.load("run").transform(X), before.transform(X))
    assert gvae.load("run").n_iter_ == before.n_iter_


def test_positions():
    model = gvae.VAE(3, "diagonal", "gaussian", (5,), "tanh")
    assert (model.latent, model.posterior, model.observation, model.hidden, model.activation) == (
        3,
        "diagonal",
        "gaussian",
        (5,),
        "tanh",
    )
    with pytest.raises(TypeError):
        gvae.VAE(3, "diagonal", "gaussian", (5,), "tanh", "elbo")  # what has no place is named


# ---- the class that was all models ---------------------------------------------------------------


LATER = (gvae.VIB, gvae.SBN, gvae.DARN, gvae.AutoregressiveDensity, gvae.EoNADE)  # than that class
LATER += (gvae.DEF, gvae.DoubleDEF, gvae.HVM, gvae.CCA, gvae.DCCA)
LATER += (gvae.LadderVAE, gvae.VCCA, gvae.MutualAutoencoder, gvae.DeepGP)


@pytest.mark.parametrize("cls", [c for c in ESTIMATORS if c not in (gvae.VAE, *LATER)])
def test_the_one_class_of_before(cls):
    with pytest.warns(FutureWarning, match=rf"gvae.VAE\(model='{cls.name}'\) is now gvae.{cls.__name__}\(...\)"):
        model = gvae.VAE(model=cls.name, latent=4, random_state=3)
    assert type(model) is cls
    assert (model.latent, model.random_state, model.epochs) == (4, 3, 20)  # its defaults were those of then
    if cls is not gvae.FactorAnalysis:
        assert model.posterior == "chain"


def test_the_one_class_of_before_with_settings_it_never_used():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert type(gvae.VAE(model="vae")) is gvae.VAE
        gvae.VAE(model="factor_analysis", objective="elbo", batch_size=100)
        with pytest.raises(ConfigError, match=r"LinearVAE has no setting 'hidden', which is \(5,\)"):
            gvae.VAE(model="linear", hidden=(5,))
        with pytest.raises(ConfigError, match="unknown model 'nope'; known are vae, map"):
            gvae.VAE(model="nope")


# ---- configuration files -------------------------------------------------------------------------


def test_a_run_repeats_itself(gvae_, here):
    np.save("rows.npy", X)
    flags = [
        "--latent",
        3,
        "--hidden",
        8,
        6,
        "--prior",
        "mixture:2",
        "--optimizer",
        "adamw:0.01",
        "--clip",
        2,
        "--epochs",
        2,
    ]
    flags += ["--batch-size", "none", "--no-standardize", "--seed", 5]
    assert gvae_("train", "rows.npy", *flags, "--out", "run")[0] == 0
    assert gvae_("train", "--config", "run/run.toml", "--out", "again")[0] == 0
    one, two = gvae.load("run"), gvae.load("again")
    assert one.get_params() == two.get_params()
    assert (one.batch_size, one.standardize, one.hidden) == (None, False, (8, 6))
    assert_array_equal(one.transform(X), two.transform(X))
    assert Path("run/run.toml").read_text() == Path("again/run.toml").read_text()


def test_every_setting_goes_through_a_file_and_back():
    changed = {"latent": 3, "hidden": (5, 4), "prior": "ar1", "standardize": False, "batch_size": None, "clip": 0.1}
    changed |= {"binarize": "none", "random_state": 2**64 - 1, "learning_rate": 1e-17, "observation": "gaussian"}
    for cls, given in ((gvae.VAE, changed), (gvae.DenoisingVAE, {"levels": (0.3, 0.0)}), (gvae.VAE, {})):
        model = cls(**given)
        config = {"settings": model.checked(), "notes": {"data": 'a "b" \\ \x7f ü\n', "data_dir": None}}
        tables = tomllib.loads(model._toml(config))
        assert tables["data"] == {"source": config["notes"]["data"]}
        known = {f.name: f for f in settings.fields(cls)}
        assert tables["settings"].pop("model") == cls.name
        back = cls(**{name: settings.from_file(known[name], value) for name, value in tables["settings"].items()})
        assert back.get_params() == model.get_params()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[settings]\nlatent = ", "is not TOML"),
        ("[settings]\nlatents = 3\n", "model vae has no setting 'latents'; known are model, latent"),
        ('[settings]\nmodel = "map"\nlevels = [0.5, 0.1]\n', "model map has no setting 'levels'"),
        ('[settings]\nmodel = "nope"\n', "unknown model 'nope'"),
        ("[settings]\nmodel = 3\n", "unknown model 3"),
        ("[settings]\nlatent = 0\n", "latent is 0, expected a whole number of at least 1"),
        ('[settings]\nhidden = "x"\n', "hidden is 'x', expected widths"),
        ('[sets]\nmodel = "map"\n', "sets is unknown; known are the tables [data] and [settings]"),
        ("settings = 3\n", "settings is unknown"),
        ('[data]\nfile = "x"\n', "[data] has file = 'x'"),
        ("[data]\nsource = 3\n", "[data] has source = 3"),
    ],
)
def test_files_that_are_refused(text, words, refused, here):
    np.save("rows.npy", X)
    Path("bad.toml").write_text(text)
    refused(["train", "rows.npy", "--config", "bad.toml", "--out", "run"], words)


def test_a_file_that_is_not_there(refused):
    refused(["train", "rows.npy", "--config", "none.toml", "--out", "run"], "none.toml", "No such file")


def test_a_file_beside_a_run_to_resume(refused, here):
    Path("some.toml").write_text("")
    refused(["train", "--config", "some.toml", "--resume", "run"], "run")


# ---- longer runs ---------------------------------------------------------------------------------


def test_steps_are_extended(gvae_, here):
    """Six steps are two epochs: had an epoch been cut short, a new one would begin there."""
    np.save("rows.npy", X)
    flags = ["--hidden", 8, "--latent", 3, "--batch-size", 16, "--quiet"]
    assert gvae_("train", "rows.npy", *flags, "--steps", 6, "--out", "run")[0] == 0
    assert gvae_("train", "--resume", "run", "--steps", 9)[0] == 0
    assert gvae_("train", "rows.npy", *flags, "--steps", 9, "--out", "whole")[0] == 0
    longer, whole = gvae.load("run"), gvae.load("whole")
    assert longer.n_iter_ == whole.n_iter_ == 9
    assert longer.steps == 9
    assert_array_equal(longer.transform(X), whole.transform(X))
    code, _, err = gvae_("train", "--resume", "run", "--steps", 5)
    assert code == 2
    assert "was begun with steps 9, not 5; it can be extended, not shortened" in err
    cosine = {"latent": 3, "hidden": (8,), "schedule": "cosine", "random_state": 0}
    gvae.VAE(steps=4, **cosine).fit(X, run="cosine")
    with pytest.raises(ConfigError, match="schedule 'cosine' ends with step 4, so the run cannot be extended"):
        gvae.VAE(steps=9, **cosine).fit(X, run="cosine", resume=True)


def test_a_callback_sees_every_epoch_and_ends_the_run(tmp_path):
    seen = []

    def look(row, model):
        assert row["train_bound"] == model.history_[-1]["train_bound"]
        seen.append((row["epoch"], float(model.score_samples(X, samples=2).mean())))
        return row["epoch"] == 3

    model = small(gvae.VAE, epochs=10).fit(X, callback=look, run=tmp_path / "run")
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert len(model.history_) == 3
    assert seen[-1][1] == float(model.score_samples(X, samples=2).mean())
    plain = small(gvae.VAE, epochs=3).fit(X)
    assert_array_equal(model.transform(X), plain.transform(X))  # looking changes nothing
    more = small(gvae.VAE, epochs=10).fit(X, run=tmp_path / "run", resume=True)
    assert_array_equal(more.transform(X), small(gvae.VAE, epochs=10).fit(X).transform(X))


# ---- files of other versions ---------------------------------------------------------------------


def test_a_file_of_a_newer_version(tmp_path, monkeypatch):
    from gvae.training import checkpoint

    model = small(gvae.VAE).fit(X)
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    model.save(tmp_path / "model")
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"is of a newer version of gvae \(format 4, this one reads up to 3\)"):
        gvae.load(tmp_path / "model")


def test_a_model_that_is_not_known(tmp_path, added, monkeypatch, gvae_):
    """A file of a class of one's own is read where the class is declared; elsewhere the error says which class it is."""
    model = small(added).fit(X, run=tmp_path / "run")
    model.save(tmp_path / "model")
    for path in (tmp_path / "model", tmp_path / "run"):
        again = gvae.load(path)
        assert type(again) is added
        assert_array_equal(again.transform(X), model.transform(X))
    monkeypatch.delitem(DECLARED, "added")
    whose = re.escape(f"{added.__module__}.{added.__qualname__}")
    for path in (tmp_path / "model", tmp_path / "run"):
        with pytest.raises(
            RunError, match=rf"holds a model of kind 'added' \(declared by {whose}: import that first\); known"
        ):
            gvae.load(path)
    code, _, err = gvae_("train", "--resume", str(tmp_path / "run"))
    assert (code, err.count("\n")) == (2, 1)
    assert "import that first" in err


def test_a_name_that_is_taken(added):
    """The name of another class is refused, and the other stays; a class that is defined again takes its own place."""

    def declare(name):
        @declared(name)
        class Mine(Estimator, Machine, Ascent, Length, Objective, Presentation, Added):
            """A VAE of the tests."""

            model = Doubled

        return Mine

    for name, other in (("vae", gvae.VAE), ("added", added)):
        with pytest.raises(
            ConfigError, match=rf"declared: name is '{name}', .* it belongs to {other.__module__}.*{other.__name__}"
        ):
            declare(name)
        assert DECLARED[name] is other
    with mock.patch.dict(DECLARED):
        first, second = declare("mine"), declare("mine")
        assert DECLARED["mine"] is second is not first
        assert "mine" not in gvae.estimators()


# ---- the command line ----------------------------------------------------------------------------


def test_no_command_prints_the_help(gvae_):
    code, out, err = gvae_()
    assert (code, err) == (0, "")
    assert "usage: gvae" in out
    assert "train" in out


def test_models_are_listed(gvae_):
    out = gvae_("models")[1]
    listed = json.loads(gvae_("models", "--json")[1])
    assert [row["model"] for row in listed] == list(gvae.estimators())
    for row in listed:
        assert getattr(gvae, row["estimator"].removeprefix("gvae.")) is gvae.estimators()[row["model"]]
        assert row["model"] in out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, gvae_):
    code, out, _ = gvae_("completion", shell)
    assert code == 0
    for word in ("--posterior", "--alpha", "evaluate", "--row-steps"):
        assert word in out


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_models_keep_to_the_protocol(cls):
    """What estimators, evaluation and training use is there, and the model's own settings are the estimator's."""
    for name in (
        "init",
        "noise",
        "terms",
        "code",
        "decode",
        "sample_prior",
        "codes",
        "layers",
        "columns",
        "views",
        "caution",
        "has_bound",
        "has_posterior",
    ):
        assert hasattr(cls.model, name), name
    assert {f.name for f in settings.fields(cls.model.Settings)} <= set(cls().get_params())


OF_THEN = ("vae", "map", "bayes", "denoising", "autoencoder", "linear", "factor_analysis", "nlfa", "hierarchical")
EARLIER = Path(__file__).parents[1] / "stored" / "0.1.0"  # written by version 0.1.0: two epochs of each model, on these rows
ROWS_OF_THEN = np.random.default_rng(5).normal(size=(40, 6))


@pytest.mark.parametrize("cls", [cls for cls in ESTIMATORS if cls.name in OF_THEN])
def test_runs_of_version_0_1(cls, tmp_path, gvae_):
    expected = np.load(EARLIER / "expected.npz")
    shutil.copytree(EARLIER / cls.name, tmp_path / "run")
    model = gvae.load(tmp_path / "run")
    assert type(model) is cls
    assert_allclose(model.transform(ROWS_OF_THEN), expected[f"{cls.name}-2"], rtol=1e-4, atol=1e-5)
    settings = {name: value for name, value in model.get_params().items() if name != "epochs"}
    resumed = cls(epochs=4, **settings).fit(ROWS_OF_THEN, run=tmp_path / "run", resume=True)
    assert_allclose(resumed.transform(ROWS_OF_THEN), expected[cls.name], rtol=1e-3, atol=1e-4)
    again = gvae.load(tmp_path / "run")
    assert_array_equal(again.transform(ROWS_OF_THEN), resumed.transform(ROWS_OF_THEN))
    assert len(again.history_) == 4
    code, out, err = gvae_("runs", tmp_path)
    assert code == 0, err
    assert "finished" in out


def test_a_run_of_version_0_1_from_the_shell(gvae_, here):
    """Begun by `gvae train digits --model map ...`, with the binarization that was silent then."""
    shutil.copytree(EARLIER / "by-command", "run")
    code, out, err = gvae_("train", "--resume", "run", "--epochs", 2)
    assert (code, err) == (0, "")
    assert out.startswith("map: observation bernoulli (as the run was begun), dynamic binarization\n")
    assert len(gvae.load("run").history_) == 2
    assert gvae_("evaluate", "run", "--samples", 2)[0] == 0


def test_a_run_of_version_0_1_by_the_one_class(tmp_path):
    shutil.copytree(EARLIER / "map", tmp_path / "run")
    settings = {"latent": 3, "hidden": (5,), "batch_size": 16, "random_state": 3, "observation": "gaussian", "epochs": 4}
    with pytest.warns(FutureWarning, match="gvae.MAPVAE"):
        resumed = gvae.VAE(model="map", **settings).fit(ROWS_OF_THEN, run=tmp_path / "run", resume=True)
    assert_allclose(resumed.transform(ROWS_OF_THEN), np.load(EARLIER / "expected.npz")["map"], rtol=1e-3, atol=1e-4)
    with pytest.raises(RunError, match="was begun with model 'map', not 'vae'"):
        gvae.VAE(**settings).fit(ROWS_OF_THEN, run=tmp_path / "run", resume=True)


def test_a_file_of_version_0_1():
    model = gvae.load(EARLIER / "saved.gvae")
    assert type(model) is gvae.VAE
    assert_allclose(model.transform(ROWS_OF_THEN), np.load(EARLIER / "expected.npz")["vae-2"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", ["a=5-3", "a=1,5-3", "a=1,2-", "a="])
def test_columns_that_are_no_range_are_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  - the caller names the setting
        settings.Columns().parse(text)


@pytest.mark.parametrize("dtype", ["i4,(", "1f4,(", "complex64", None])
def test_a_dtype_that_is_none(dtype):
    with pytest.raises(ConfigError, match=r"^dtype is .*; known are float32, float64$"):
        settings.Precision().check("dtype", dtype)

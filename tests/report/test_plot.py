"""`gvae plot`, `gvae train --track`: every part of a VAE, a classifier, a table; what is missing is said in a sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread

import gvae
from gvae import cli, data, ops, report
from gvae.errors import RunError

ALL = ["curves", "evaluation", "covariance", "reconstructions", "samples", "codes", "units", "factors", "own"]
SMALL = ["--first", "40", "--samples", "5"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the runs VAE (tracked), VIB and TABLE."""
    folder = tmp_path_factory.mktemp("runs")
    np.savetxt(folder / "t.csv", np.random.default_rng(0).normal(size=(60, 3)), delimiter=",", header="a,b,<script>")
    digits = ["train", "digits", "--epochs", "2", "--hidden", "16", "--quiet", "--latent"]
    chain = ["--posterior", "chain", "--observation", "bernoulli"]
    for words in (
        [*digits, "4", *chain, "--track", "3", "--out", str(folder / "VAE")],
        [*digits, "4", "--model", "vib", "--out", str(folder / "VIB")],
        ["train", str(folder / "t.csv"), "--latent", "2", "--epochs", "2", "--quiet", "--out", str(folder / "TABLE")],
    ):
        assert cli.main(words) == 0
    return folder


@pytest.mark.parametrize(
    ("run", "lacking"),
    [("VAE", {"own"}), ("VIB", {"reconstructions", "samples", "factors"}), ("TABLE", {"factors", "own"})],
)
def test_every_part(trained, gvae_, run, lacking):
    code, out, err = gvae_("plot", trained / run, "--out", "pictures", *SMALL)
    assert code == 0
    drawn = [part for part in ALL if part not in lacking]
    assert out.split() == [f"pictures/{part}.png" for part in drawn]
    for part in drawn:
        assert imread(f"pictures/{part}.png")[..., :3].std() > 0.02
    assert err.count("reconstructions, samples: the model explains labels only") == (run == "VIB")


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_formats(trained, gvae_, kind):
    assert gvae_("plot", trained / "TABLE", "--what", "curves", "--format", kind, "--out", "p")[0] == 0
    with open(f"p/curves.{kind}", "rb") as file:
        assert file.read(5) == {"svg": b"<?xml", "pdf": b"%PDF-"}[kind]


def test_pictures_lie_in_the_run_folder_or_in_a_folder_for_each(trained, gvae_, here):
    assert gvae_("plot", trained / "TABLE", "--what", "curves")[0] == 0
    assert (trained / "TABLE" / "plots" / "curves.png").exists()
    code, out, _ = gvae_("plot", trained / "TABLE", trained / "VAE", "--what", "curves", "--out", "p")
    assert (code, out.split()) == (0, ["p/TABLE/curves.png", "p/VAE/curves.png"])


def test_what_is_missing_is_said_and_the_rest_is_drawn(trained, gvae_, here, tmp_path):
    run = tmp_path / "old"
    run.mkdir()
    for name in ("config.json", "log.jsonl"):
        (run / name).write_bytes((trained / "VAE" / name).read_bytes())
    (run / "checkpoint.safetensors").write_bytes(b"damaged")
    code, out, err = gvae_("plot", run, *SMALL)
    assert (code, out.split()) == (0, [str(run / "plots" / "curves.png")])
    assert "evaluation, covariance, reconstructions, samples, codes, units: the model cannot be read: " in err
    code, _, err = gvae_("plot", trained / "TABLE", "--what", "factors", "--out", "p")
    assert code == 2
    assert "no posterior was tracked; train with --track ROW" in err
    code, _, err = gvae_("plot", trained / "TABLE", "--data", "nowhere.csv", "--what", "codes", "curves", "--out", "p")
    assert code == 0
    assert "codes: the data cannot be read: nowhere.csv" in err
    assert "such run" in gvae_("plot", "nowhere")[2]


def test_tracked_posteriors_are_those_of_the_epochs(trained):
    kept = report.read_track(trained / "VAE")["z"]
    assert kept["epoch"].tolist() == [1, 2]
    assert kept["row"] == 3
    model = gvae.load(trained / "VAE")
    q = model.posterior_of(data.load("digits").test[3:4].reshape(1, 8, 8))
    np.testing.assert_allclose(kept["mean"][-1], q.mean[0], rtol=1e-6)
    np.testing.assert_allclose(kept["chol"][-1], q.chol[0], rtol=1e-6)
    assert kept["offsets"] == (0, 1)


def test_a_resumed_run_tracks_the_same_row(trained, gvae_, tmp_path):
    code, _, err = gvae_("train", "digits", "--latent", "2", "--hidden", "8", "--epochs", "1", "--track", "5", "--out", "r")
    assert code == 0, err
    assert gvae_("train", "--resume", "r", "--epochs", "3")[0] == 0
    kept = report.read_track("r")["z"]
    assert kept["epoch"].tolist() == [1, 2, 3]
    assert kept["row"] == 5


def test_a_row_or_posterior_that_cannot_be_tracked_is_refused(gvae_):
    code, _, err = gvae_("train", "digits", "--latent", "2", "--epochs", "1", "--track", "299", "--out", "r")
    assert code == 2
    assert "--track is 299, expected a test row from 0 to 298" in err
    code, _, err = gvae_(
        "train", "digits", "--posterior", "mixture:2", "--latent", "2", "--epochs", "1", "--track", "1", "--out", "r"
    )
    assert code == 2
    assert "--track needs a Gaussian posterior; z is GaussianMixture" in err


@pytest.mark.parametrize("posterior", ["full", "lowrank:1"])
def test_all_diagonals_of_a_factor_that_is_not_banded_are_tracked(posterior, gvae_):
    flags = ("--posterior", posterior, "--latent", "3", "--hidden", "8", "--epochs", "1", "--track", "1", "--out", "r")
    code, _, err = gvae_("train", "digits", *flags)
    assert code == 0, err
    kept = report.read_track("r")["z"]
    q = gvae.load("r").posterior_of(data.load("digits").test[1:2].reshape(1, 8, 8))
    factor = ops.band_to_dense(kept["chol"][0], offsets=kept["offsets"])
    np.testing.assert_allclose(np.linalg.inv(factor @ factor.T), q.covariance()[0], rtol=1e-4, atol=1e-6)
    assert gvae_("plot", "r", "--what", "factors", "--out", "f.png")[0] == 0


def test_a_track_whose_last_line_was_cut_short_goes_on(gvae_, here):
    flags = ["train", "digits", "--latent", "2", "--hidden", "8", "--quiet"]
    assert gvae_(*flags, "--epochs", "2", "--track", "5", "--out", "r")[0] == 0
    path = here / "r" / report.track.FILE
    whole = path.read_text()
    path.write_text(whole + whole.splitlines()[-1][:20])
    assert report.read_track("r")["z"]["epoch"].tolist() == [1, 2]
    assert gvae_("train", "--resume", "r", "--epochs", "3", "--quiet")[0] == 0
    assert report.read_track("r")["z"]["epoch"].tolist() == [1, 2, 3]
    assert path.read_text().startswith(whole)
    path.write_text(whole[:20])
    assert report.track.tracked_row("r") is None
    with pytest.raises(RunError, match="no posterior was tracked"):
        report.read_track("r")


def test_a_damaged_track_is_named(tmp_path):
    (tmp_path / "track.jsonl").write_text(json.dumps({"epoch": 1}) + "\n")
    with pytest.raises(RunError, match=r"track\.jsonl is damaged"):
        report.read_track(tmp_path)


def test_of_an_epoch_that_was_trained_twice_the_second_counts(tmp_path):
    """Its first end came after the last checkpoint."""
    entries = [
        {"epoch": n, "row": 0, "code": "z", "offsets": [0], "mean": [m], "chol": [[m]]} for n, m in ((1, 3), (2, 4), (2, 5))
    ]
    (tmp_path / "track.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    kept = report.read_track(tmp_path)["z"]
    assert kept["epoch"].tolist() == [1, 2]
    assert kept["mean"].ravel().tolist() == kept["chol"].ravel().tolist() == [3, 5]


@pytest.mark.parametrize(("n", "rho"), [(64, 0.99), (6, 0.5)])
def test_the_pattern_of_a_precision_is_that_of_the_factor(n, rho):
    """Not of the rounded covariance's inverse, which is full in float32 where variables are almost the same."""
    pivot = 1 / np.sqrt(1 - rho**2)
    chol = np.stack([np.append(np.full(n - 1, pivot), 1.0), np.append(np.full(n - 1, -rho * pivot), 0.0)]).astype(np.float32)
    q = gvae.distributions.BandedGaussian(np.zeros(n, np.float32), chol)
    found = report.parts._precision_pattern(q, np.asarray(q.covariance(), np.float64)[None])
    np.testing.assert_array_equal(found, np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 1)
    full = gvae.families.parse("full", 3)(np.linspace(0.1, 1, 9))
    assert report.parts._precision_pattern(full, full.covariance()[None]).all()


def test_rows_of_other_columns_are_not_drawn(trained, gvae_, here):
    np.savetxt("perm.csv", np.random.default_rng(0).normal(size=(60, 3)), delimiter=",", header="b,a,<script>")
    code, _, err = gvae_("plot", trained / "TABLE", "--data", "perm.csv", "--what", "evaluation", *SMALL)
    assert code == 2
    assert "the columns are b, a, <script>, but the model was trained on a, b, <script>" in err


def test_what_is_said_of_rows_that_are_not_held_out_or_have_changed(gvae_, here):
    np.save("five.npy", np.random.default_rng(0).normal(size=(5, 3)))
    settings = ["--latent", "1", "--hidden", "4", "--epochs", "1", "--quiet"]
    assert gvae_("train", "five.npy", *settings, "--out", "F")[0] == 0
    said = "five has 5 rows, fewer than 10, so that none are held out: the test rows are the training rows"
    for words in (["plot", "F", "--what", "evaluation", "codes"], ["report", "F"]):
        code, _, err = gvae_(*words, *SMALL)
        assert (code, err.splitlines()) == (0, [f"gvae {words[0]}: {said}"])
    page = (here / "F" / "report.html").read_text()
    assert "the first 5 training rows" in page
    assert "test row 0" not in page
    assert said in page
    np.save("rows.npy", np.random.default_rng(0).normal(size=(40, 3)))
    assert gvae_("train", "rows.npy", *settings, "--out", "R")[0] == 0
    np.save("rows.npy", np.random.default_rng(1).normal(size=(41, 3)))
    code, _, err = gvae_("plot", "R", "--what", "evaluation", *SMALL)
    assert code == 0
    assert "has changed since R was trained on it" in err


def test_columns_that_are_left_out_are_counted(gvae_, here):
    np.save("wide.npy", np.random.default_rng(0).normal(size=(40, 14)))
    assert gvae_("train", "wide.npy", "--latent", "1", "--hidden", "4", "--epochs", "1", "--quiet", "--out", "W")[0] == 0
    assert gvae_("report", "W", *SMALL)[0] == 0
    assert (here / "W" / "report.html").read_text().count("The first 12 of 14 columns are shown.") >= 2

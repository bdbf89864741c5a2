"""`gvae plot`, `gvae train --track`: every part of a VAE, a classifier, a table; what is missing is said in a sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread

import gvae
from gvae import cli, data, report
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
        "train", "digits", "--posterior", "full", "--latent", "2", "--epochs", "1", "--track", "1", "--out", "r"
    )
    assert code == 2
    assert "needs a posterior with a banded Cholesky factor" in err


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

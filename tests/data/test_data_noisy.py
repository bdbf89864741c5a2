"""The data set noisy_mnist: rotations, partners, noise, its checksum; and a validation part, on the command line.

The real files come from GVAE_DATA_DIR, or from shared/data beside the repository.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import ndimage, stats

import gvae
from gvae import random
from gvae.data import dataset, load, loaders, noisy
from gvae.errors import DataError

REAL = Path(os.environ.get("GVAE_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")
FILES = tuple(loaders.MNIST_FILES)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)


def turned(images, degrees):
    """Rotated, each by the same angle."""
    return noisy.rotated(images, *noisy.turns(np.full(len(images), round(degrees * 1024))))


# ---- rotation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 5, 28])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3, -1])
def test_right_angles_move_pixels(side, quarters):
    images = IMAGES[:, :side, :side]
    assert_array_equal(turned(images, 90 * quarters), np.rot90(images, quarters, axes=(1, 2)))


@pytest.mark.parametrize("degrees", [-45, -30, -0.7, 1 / 1024, 12.345, 45])
@pytest.mark.parametrize("side", [3, 28])
def test_rotation_is_scipys(degrees, side):
    """Up to the position's rounding, 2^-12 of a pixel each way and at most 255 levels a pixel, and the result's."""
    images = IMAGES[:, :side, :side]
    wanted = [ndimage.rotate(x.astype(float), degrees, reshape=False, order=1, mode="grid-constant") for x in images]
    assert np.abs(wanted - turned(images, degrees)).max() < 0.5 + 2 * 255 * (2**-12 + 28 * 2**-17)


def test_no_cosine_is_near_a_rounding():
    """Libraries may differ by an ulp or two, 1e-11 here: the whole numbers do not."""
    radians = np.arange(-noisy.MOST, noisy.MOST + 1) * (np.pi / (180 * noisy.DEGREE))
    for f in (np.cos, np.sin):
        x = f(radians) * 2**noisy.ONE
        assert np.abs(x - np.floor(x) - 0.5).min() > 1e-6


def test_no_integer_overflows():
    """White up to the corners, at the angles where the positions are furthest."""
    white = np.full((181, 28, 28), 255, np.uint8)
    found = noisy.rotated(white, *noisy.turns(np.arange(-90, 91) * 512))
    assert (found[:, 4:24, 4:24] == 255).all()
    assert (found[90] == 255).all()
    assert (found[[0, -1], 0, 0] == 0).all()


# ---- pairs ---------------------------------------------------------------------------------------


def test_partners_are_others_of_the_class_and_all_equally_likely():
    labels = np.tile([3, 0, 3, 1, 0, 1, 1], 300)
    found = noisy._partners(labels, random.bits(random.key(0), len(labels)))
    assert_array_equal(labels[found], labels)
    assert (found != np.arange(len(labels))).all()
    few = np.array([5, 2, 5, 5])
    words = np.linspace(0, 2**32 - 1, 3000).astype(np.uint32)
    each = np.array([noisy._partners(np.append(few, 2), np.full(5, word)) for word in words])
    assert_array_equal(each[:, 1], 4)
    assert_array_equal(each[:, 4], 1)
    for row, others in {0: [2, 3], 2: [0, 3], 3: [0, 2]}.items():
        values, counts = np.unique(each[:, row], return_counts=True)
        assert (values.tolist(), counts.tolist()) == (others, [1500, 1500])


def test_pairs_in_small():
    n = 3 * noisy.ROWS + 5
    images, labels = np.random.default_rng(1).integers(0, 128, (n, 6, 6), np.uint8), np.arange(n) % 3
    images[:, 0, 0], images[:, 1, 1] = 0, 255
    before = images.copy()
    x, y = noisy.pairs(images, labels, 0)
    assert_array_equal(images, before)
    assert (x.dtype, y.dtype, x.shape, y.shape) == (np.uint8, np.uint8, images.shape, images.shape)
    assert (y[:, 1, 1] == 255).all()  # clipped
    other = noisy._partners(labels, random.bits(random.fold_in(random.key(noisy.SEED), 0, 1), n))
    noise = y.astype(int) - images[other]
    assert noise[y < 255].min() >= 0
    ours, theirs = noise[:, 2:].ravel(), noisy.pairs(images, labels, 1)[1][:, 2:].ravel()
    assert abs(np.corrcoef(ours, theirs)[0, 1]) < 0.2  # another part: other noise and partners
    again = noisy.pairs(images[: noisy.ROWS], labels[: noisy.ROWS], 0)
    assert_array_equal(again[0], x[: noisy.ROWS])  # angles of a shorter part are those of the longer


def test_noise_and_angles_are_uniform():
    n = 4000
    y = noisy.pairs(np.zeros((n, 2, 2), np.uint8), np.zeros(n), 0)[1].reshape(n, 4)
    for pixel in y.T:
        assert stats.kstest((pixel + 0.5) / 256, "uniform").pvalue > 0.001
    counts = np.bincount(y.ravel(), minlength=256)
    expected = np.full(256, y.size / 255) * np.where(np.isin(np.arange(256), [0, 255]), 0.5, 1)  # to the nearest level
    assert stats.chisquare(counts, expected).pvalue > 0.001
    assert (np.abs(np.corrcoef(y.T) - np.eye(4)) < 5 * n**-0.5).all()
    words = np.array([0, 2**31, 2**32 - 1], np.uint32)
    assert noisy._below(words, 2 * noisy.MOST + 1).tolist() == [0, noisy.MOST, 2 * noisy.MOST]


# ---- the data set --------------------------------------------------------------------------------


def test_real_noisy_mnist():
    if missing := [file for file in FILES if not (REAL / "mnist" / f"{file}.gz").is_file()]:
        pytest.skip(f"no data folder with mnist/{missing[0]}.gz")
    d, mnist = load("noisy_mnist", data_dir=REAL), load("mnist", data_dir=REAL)  # the loader has verified the checksum
    y, test_y = d.columns["y"]
    x, validation_y = d.validation
    assert (d.name, d.image_shape, d.real) == ("noisy_mnist", (28, 28), True)
    assert d.train.shape == y.shape == (50_000, 784)
    assert {part.shape for part in (d.test, test_y, x, validation_y)} == {(10_000, 784)}
    assert {part.dtype for part in (d.train, d.test, y, test_y, x, validation_y)} == {np.dtype(np.float32)}
    assert_array_equal(np.append(d.train_labels, d.validation_labels), mnist.train_labels)
    assert_array_equal(d.test_labels, mnist.test_labels)
    assert (d.validation_labels.dtype, d.train.min(), d.train.max(), y.min(), y.max()) == (np.int64, 0, 1, 0, 1)
    assert d.train.mean(dtype=np.float64) == pytest.approx(0.13094, abs=5e-6)
    assert y.mean(dtype=np.float64) == pytest.approx(0.574853, abs=5e-6)
    # a corner where MNIST is black: the noise alone
    assert not mnist.train[:, 0].any()
    assert stats.kstest(validation_y[:, 0], "uniform").pvalue > 0.001
    # y without its noise is a digit of the class, and of the training part: noise is never negative
    same = mnist.train[:50_000][d.train_labels == d.train_labels[0]]
    below = (same <= y[0]).all(axis=1)
    assert 1 <= below.sum() < 10
    assert_array_equal(np.rint(d.train * 255).astype(np.uint8) / np.float32(255), d.train)


def small(folder, monkeypatch, original=True):
    """MNIST's files with 60 + 20 images of 6 x 6, of which 50 are training pairs; they count as the original ones."""
    rng = np.random.default_rng(3)
    arrays = []
    for n in (60, 20):
        arrays += [rng.integers(0, 200, (n, 6, 6), np.uint8), (np.arange(n) % 5).astype(np.uint8)]
    for file, x in zip(FILES, arrays, strict=True):
        sizes = np.array(x.shape, ">u4").tobytes()
        (folder / file).write_bytes(bytes([0, 0, 8, x.ndim]) + sizes + x.tobytes())
    monkeypatch.setattr(loaders, "NOISY_ROWS", 50)
    if original:
        monkeypatch.setattr(loaders, "MNIST_SHA256", noisy.digest(arrays))
    return arrays


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Small files, whose pairs have the checksum that is verified."""
    monkeypatch.delenv("GVAE_DATA_DIR", raising=False)
    images, labels, test, test_labels = small(tmp_path, monkeypatch)
    parts = ((images[:50], labels[:50]), (images[50:], labels[50:]), (test, test_labels))
    made = [view for number, part in enumerate(parts) for view in noisy.pairs(*part, number)]
    monkeypatch.setattr(noisy, "SHA256", noisy.digest(made))
    return tmp_path


def test_parts_in_small(folder):
    d = load("noisy_mnist", data_dir=folder)
    shapes = [part.shape for part in (d.train, d.columns["y"][0], *d.validation, d.test, d.columns["y"][1])]
    assert shapes == [(50, 36), (50, 36), (10, 36), (10, 36), (20, 36), (20, 36)]
    assert (d.train_labels.shape, d.validation_labels.shape, d.test_labels.shape) == ((50,), (10,), (20,))


def test_files_in_a_folder_of_mnist(folder, monkeypatch):
    (folder / "mnist").mkdir()
    for file in FILES:
        (folder / file).rename(folder / "mnist" / file)
    monkeypatch.setenv("GVAE_DATA_DIR", str(folder))
    assert len(load("noisy_mnist").train) == 50


def test_other_pairs_are_refused(folder, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(noisy, "SEED", 1)
        with pytest.raises(DataError, match=r"the pairs made here have the SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
            load("noisy_mnist", data_dir=folder)
    load("noisy_mnist", data_dir=folder)


def test_other_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("GVAE_DATA_DIR", raising=False)
    small(tmp_path, monkeypatch, original=False)
    with pytest.raises(DataError, match="not the original files of MNIST, from which noisy_mnist is made"):
        load("noisy_mnist", data_dir=tmp_path)
    (tmp_path / FILES[0]).unlink()
    with pytest.raises(DataError, match=f"noisy_mnist: {FILES[0]} .*searched {tmp_path}, {tmp_path / 'mnist'}"):
        load("noisy_mnist", data_dir=tmp_path)


# ---- the command line ----------------------------------------------------------------------------


def test_two_views(folder, here, gvae_):
    code, out, err = gvae_("train", "noisy_mnist", "--data-dir", folder, "--model", "cca", "--latent", 3, "--out", "run")
    assert (code, err) == (0, "")
    assert "(validation)" in out
    d = load("noisy_mnist", data_dir=folder)
    for split, rows in {"test": (d.test, d.columns["y"][1]), "validation": d.validation}.items():
        code, out, err = gvae_("evaluate", "run", "--split", split, "--json")
        assert (code, err) == (0, "")
        wanted = gvae.load("run").evaluate(*rows).summary()
        assert json.loads(out)["rows"] == len(rows[0])
        assert json.loads(out)["correlation"] == json.loads(json.dumps(wanted))["correlation"]


def test_a_model_of_one_view_takes_the_first_as_real_numbers(folder, here, gvae_):
    given = ("train", "noisy_mnist", "--data-dir", folder, "--latent", 2, "--hidden", 4, "--epochs", 1)
    code, out, err = gvae_(*given, "--out", "run")
    assert (code, err) == (0, "")
    first, *_, last = out.splitlines()
    assert first == "vae: observation gaussian (the values of noisy_mnist are real numbers)"
    assert last.endswith("(validation) nats per row")
    model = gvae.load("run")
    assert (model.observation_, model.binarize_, model.n_features_in_) == ("gaussian", "none", 36)
    assert gvae_("train", "--resume", "run", "--epochs", 2, "--quiet") == (0, "", "")
    assert gvae_("evaluate", "run", "--samples", 2, "--split", "validation")[0] == 0
    assert gvae_(*given, "--observation", "bernoulli", "--out", "bits", "--quiet") == (0, "", "")
    assert gvae.load("bits").observation_ == "bernoulli"
    assert gvae_(*given, "--binarize", "threshold", "--out", "sharp", "--quiet") == (0, "", "")
    assert gvae.load("sharp").observation_ == "bernoulli"


def test_early_stopping_looks_at_the_validation_part(folder, here, gvae_):
    given = ("train", "noisy_mnist", "--data-dir", folder, "--latent", 2, "--hidden", 4, "--patience", 1, "--epochs", 2)
    assert gvae_(*given, "--out", "run", "--quiet") == (0, "", "")
    assert json.loads(Path("run/config.json").read_text())["fitted"]["n_rows"] == 50  # none is held out


def test_a_model_that_reads_labels(folder, here, refused):
    refused(
        ["train", "noisy_mnist", "--data-dir", folder, "--model", "vib", "--out", "run"],
        "noisy_mnist has a second view as y, but model vib reads labels",
        "train_y",
    )


def test_data_without_a_validation_part(here, gvae_, refused):
    pytest.importorskip("sklearn")
    assert gvae_("train", "digits", "--latent", 2, "--hidden", 4, "--epochs", 1, "--out", "run", "--quiet") == (0, "", "")
    refused(
        ["evaluate", "run", "--split", "validation"], "digits has no validation rows: name --split test or --split train"
    )
    assert load("digits").validation is None
    assert not dataset.Dataset("mine", None, None).real


def test_several_observations():
    from gvae.cli.train import observed

    real = dataset.Dataset("mine", None, None, real=True)
    assert observed(real, {"observation": ("bernoulli", "auto")}) == {"observation": ("bernoulli", "gaussian")}
    assert observed(real, {"observation": "auto", "dequantize": 256}) == {}
    assert observed(real, {"latent": 3}) == {}
    assert observed(dataset.Dataset("mine", None, None), {"observation": "auto"}) == {}

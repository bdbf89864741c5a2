"""Pictures: the matrix behind a sheet of images, exactly; the files, as images of a sensible size and content."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats
from matplotlib.image import imread
from numpy.testing import assert_array_equal

from gvae import plots
from gvae.errors import ConfigError, DependencyError, RunError, ShapeError

rng = np.random.default_rng(0)
SHAPE = (3, 2)
IMAGES = rng.random((7, 6))
HISTORY = [
    {"epoch": e, "train_bound": -30 + 5 * e / (e + 3), "validation_bound": -31 + 5 * e / (e + 3)} for e in range(1, 41)
]
NAN = np.nan


def picture(path):
    """The file as an array of grey levels in [0, 1]; it must show something."""
    pixels = imread(path)[..., :3].mean(axis=-1)
    assert pixels.std() > 0.02
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing temporary stays
    return pixels


def test_image_grid():
    images = np.arange(1.0, 7).reshape(3, 2)  # three images of 1 x 2
    assert_array_equal(plots.image_grid(images, (1, 2), 2), [[1, 2, NAN, 3, 4], [NAN] * 5, [5, 6, NAN, NAN, NAN]])
    assert_array_equal(plots.image_grid(images, (1, 2), 3), [[1, 2, NAN, 3, 4, NAN, 5, 6]])
    assert_array_equal(plots.image_grid(images, (1, 2), 9), [[1, 2, NAN, 3, 4, NAN, 5, 6]])
    assert_array_equal(plots.image_grid(images, (2, 1), 1)[:, 0], [1, 2, NAN, 3, 4, NAN, 5, 6])
    assert_array_equal(plots.image_grid(images[:1], (2, 1), 5), [[1], [2]])


def test_image_grid_frames_every_image_with_nan():
    grid = plots.image_grid(IMAGES, SHAPE, 4)
    assert grid.shape == (2 * 4 - 1, 4 * 3 - 1)
    for i, image in enumerate(IMAGES):
        r, c = 4 * (i // 4), 3 * (i % 4)
        assert_array_equal(grid[r : r + 3, c : c + 2], image.reshape(SHAPE))
    assert np.isnan(grid).sum() == grid.size - IMAGES.size
    assert np.isnan(grid[3]).all()
    assert np.isnan(grid[:, [2, 5, 8]]).all()
    assert np.isnan(grid[4:, 9:]).all()  # the place of the missing eighth image


@pytest.mark.parametrize(
    ("images", "shape", "columns", "words"),
    [
        (np.zeros((2, 5)), (2, 3), 1, "2 x 3 = 6"),
        (np.zeros(6), (2, 3), 1, r"\(6,\)"),
        (np.zeros((0, 6)), (2, 3), 1, "N >= 1"),
        (np.zeros((2, 6)), (2, 3), 0, "columns is 0"),
    ],
)
def test_image_grid_refuses(images, shape, columns, words):
    with pytest.raises(ShapeError, match=words):
        plots.image_grid(images, shape, columns)


def test_learning_curves(tmp_path):
    path = tmp_path / "curves.png"
    plots.learning_curves(path, {"chain": HISTORY, "diagonal": HISTORY[:10]})
    pixels = imread(path)[..., :3]
    assert pixels.shape[:2] == (462, 770)
    picture(path)
    for colour in ((31, 119, 180), (255, 127, 14)):  # one colour per run
        assert (np.abs(pixels * 255 - colour).max(axis=-1) < 2).sum() > 200


@pytest.mark.parametrize(
    "histories",
    [
        {},
        {"none": []},
        {"one epoch": HISTORY[:1]},
        {"level": [{"epoch": 1, "train_bound": -3.0}, {"epoch": 2, "train_bound": -3.0}]},
        {"no validation": [{"epoch": r["epoch"], "train_bound": r["train_bound"]} for r in HISTORY]},
    ],
    ids=lambda h: next(iter(h), "empty"),
)
def test_learning_curves_of_little(tmp_path, histories):
    plots.learning_curves(tmp_path / "curves.png", histories)
    picture(tmp_path / "curves.png")


def test_learning_curves_leave_out_the_first_climb(tmp_path, monkeypatch):
    figures = caught(monkeypatch)
    plots.learning_curves(tmp_path / "x.png", {"a": [{"epoch": 0, "train_bound": -1e6, "validation_bound": -1e6}, *HISTORY]})
    (axis,) = figures[0].axes
    assert -33 < axis.get_ylim()[0] < axis.get_ylim()[1] < -24
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a"]
    assert axis.get_ylabel() == "bound, nats per row"


def caught(monkeypatch):
    """The figures that are written from here on."""
    figures, write = [], plots.write_figure
    monkeypatch.setattr(plots, "write_figure", lambda figure, path: (figures.append(figure), write(figure, path)))
    return figures


def test_reconstructions(tmp_path, monkeypatch):
    figures = caught(monkeypatch)
    path = tmp_path / "rec.png"
    plots.reconstructions(path, IMAGES, {"chain": 1 - IMAGES, "other": IMAGES / 2}, SHAPE)
    height, width = picture(path).shape
    assert width > height / 2
    assert [axis.get_ylabel() for axis in figures[0].axes] == ["original", "chain", "other"]
    for axis, images in zip(figures[0].axes, (IMAGES, 1 - IMAGES, IMAGES / 2), strict=True):
        shown = axis.images[0]
        assert_array_equal(shown.get_array().filled(NAN), plots.image_grid(images, SHAPE, len(IMAGES)))
        assert (shown.norm.vmin, shown.norm.vmax) == (0, 1)


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"plots: path is .*p\.xyz', expected a name that ends in one of .*pdf.*png"):
        plots.samples(tmp_path / "p.xyz", {"m": IMAGES}, SHAPE)
    assert not [*tmp_path.iterdir()]


def test_samples(tmp_path, monkeypatch):
    figures = caught(monkeypatch)
    path = tmp_path / "samples.png"
    plots.samples(path, {"a": IMAGES, "b": IMAGES[:3]}, SHAPE)
    picture(path)
    first, second = figures[0].axes
    assert (first.get_title(), second.get_title()) == ("a", "b")
    assert_array_equal(first.images[0].get_array().filled(NAN), plots.image_grid(IMAGES, SHAPE, 7))
    assert_array_equal(second.images[0].get_array().filled(NAN), plots.image_grid(IMAGES[:3], SHAPE, 7))


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (9, 9), (10, 10), (60, 10), (100, 10), (900, 30)])
def test_a_sheet_is_as_wide_as_needed(tmp_path, monkeypatch, n, columns):
    figures = caught(monkeypatch)
    plots.samples(tmp_path / "s.png", {"s": rng.random((n, 64))}, (8, 8))
    assert figures[0].axes[0].images[0].get_array().shape == (-(-n // columns) * 9 - 1, columns * 9 - 1)
    height, width = picture(tmp_path / "s.png").shape
    assert columns * 9 * 3 <= width <= columns * 60 + 200  # a pixel of an image takes three or more of the file
    assert height >= -(-n // columns) * 9 * 3


def test_values_beyond_the_unit_interval_are_not_cut(tmp_path, monkeypatch):
    figures = caught(monkeypatch)
    plots.samples(tmp_path / "s.png", {"s": np.array([[-2.0, 0.5, 0.5, 4.0]])}, (2, 2))
    shown = figures[0].axes[0].images[0]
    assert (shown.norm.vmin, shown.norm.vmax) == (-2, 4)


def test_check_sheet():
    plots.check_sheet(10_000, (8, 8))
    plots.check_sheet(1, (1000, 1000))
    for n, shape in ((1_000_000, (8, 8)), (100, (1000, 1000)), (10_000, (80, 80))):
        with pytest.raises(ConfigError, match="do not fit a picture"):
            plots.check_sheet(n, shape)


def test_covariances(tmp_path, monkeypatch):
    figures = caught(monkeypatch)
    path = tmp_path / "cov.png"
    first, second = np.diag([4.0, 1.0]), np.array([[1.0, -0.6], [-0.6, 9.0]])
    plots.covariances(path, IMAGES[0], {"a": first, "b": second}, SHAPE)
    picture(path)
    axes = figures[0].axes
    assert [axis.get_title() for axis in axes[:6]] == ["the image", "a", "b", "", "", ""]
    assert_array_equal(axes[0].images[0].get_array(), IMAGES[0].reshape(SHAPE))
    for axis, matrix in ((axes[1], first), (axes[2], second)):  # one scale, symmetric about 0
        assert_array_equal(axis.images[0].get_array(), matrix)
        assert axis.images[0].get_clim() == (-9, 9)
    assert_array_equal(axes[4].images[0].get_array(), np.eye(2))
    np.testing.assert_allclose(axes[5].images[0].get_array(), [[1, -0.2], [-0.2, 1]], rtol=1e-15)
    assert axes[5].images[0].get_clim() == (-1, 1)
    assert {axis.get_ylabel() for axis in axes[6:]} == {"covariance", "correlation"}


@pytest.mark.parametrize(("ending", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_formats(tmp_path, ending, start):
    plots.samples(tmp_path / f"s{ending}", {"s": IMAGES}, SHAPE)
    assert (tmp_path / f"s{ending}").read_bytes().startswith(start)


def test_a_picture_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere" / "s.png", tmp_path / "file" / "s.png"):
        with pytest.raises(RunError, match="cannot write"):
            plots.samples(path, {"s": IMAGES}, SHAPE)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_picture_leaves_the_old_one(tmp_path):
    path = tmp_path / "s.png"
    path.write_text("old")
    with pytest.raises(ShapeError):
        plots.samples(path, {"s": IMAGES}, (4, 4))
    assert path.read_text() == "old"


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"gvae\[plot\]"):
        plots.require()
    with pytest.raises(DependencyError, match=r"gvae\[plot\]"):
        plots.learning_curves(tmp_path / "x.png", {"a": HISTORY})
    assert list(tmp_path.iterdir()) == []


def test_matplotlibs_global_state_stays_as_it_was(tmp_path):
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    plots.samples(tmp_path / "s.png", {"s": IMAGES}, SHAPE)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_manifold_codes_are_quantiles():
    """Phi(z) are the cells' centres; squared norms follow the quantiles of chi² with two degrees of freedom."""
    n = 40
    z = plots.manifold_codes(n)
    assert z.shape == (n * n, 2)
    u = scipy.special.ndtr(z)
    np.testing.assert_allclose(u[:n, 0], (np.arange(n) + 0.5) / n, atol=1e-12)
    np.testing.assert_allclose(u[::n, 1], (np.arange(n)[::-1] + 0.5) / n, atol=1e-12)
    probabilities = scipy.stats.chi2(2).cdf(np.sort((z**2).sum(axis=1)))
    assert np.abs(probabilities - (np.arange(n * n) + 0.5) / n**2).max() < 0.04  # 1/n = 0.025
    with pytest.raises(ShapeError, match="n is 0"):
        plots.manifold_codes(0)


def test_manifold(tmp_path):
    plots.manifold(tmp_path / "m.png", np.random.default_rng(0).uniform(size=(9, 12)), (3, 4))
    assert (tmp_path / "m.png").stat().st_size > 500
    with pytest.raises(ShapeError, match="8 images, expected a square number"):
        plots.manifold(tmp_path / "n.png", np.zeros((8, 12)), (3, 4))


EYE = np.eye(4)
MISTAKES = {
    "rows, none": (lambda p: plots.rows(p, {}, (2, 2)), ConfigError, "rows: images is an empty mapping, expected"),
    "rows, an array": (lambda p: plots.rows(p, EYE, (2, 2)), ConfigError, "rows: images is ndarray, expected a mapping"),
    "rows, of none": (
        lambda p: plots.rows(p, {"a": EYE[:0]}, (2, 2)),
        ShapeError,
        r"rows: images has 'a' of shape \(0, 4\)",
    ),
    "reconstructions": (lambda p: plots.reconstructions(p, EYE, {"m": EYE[:1]}, (2, 2)), ShapeError, "the same N for all"),
    "samples, none": (lambda p: plots.samples(p, {}, (2, 2)), ConfigError, "samples: drawn is an empty mapping"),
    "samples, of none": (lambda p: plots.samples(p, {"a": EYE[:0]}, (2, 2)), ShapeError, "samples: drawn has 'a'"),
    "a sheet of none": (lambda p: plots.check_sheet(0, (2, 2)), ConfigError, "check_sheet: n is 0"),
    "manifold": (lambda p: plots.manifold(p, EYE, (3, 3)), ShapeError, "manifold: images has 'images' of shape"),
    "codes": (lambda p: plots.manifold_codes(1.5), ShapeError, "manifold_codes: n is 1.5, expected a whole number"),
    "curves, a list": (lambda p: plots.learning_curves(p, [{"epoch": 1}]), ConfigError, "histories is list, expected"),
    "curves, no epoch": (lambda p: plots.learning_curves(p, {"a": [{"train_bound": 1.0}]}), ConfigError, "without 'epoch'"),
    "covariances, none": (lambda p: plots.covariances(p, np.ones(4), {}, (2, 2)), ConfigError, "covariances: matrices is"),
    "a batch": (lambda p: plots.covariances(p, np.ones(4), {"a": EYE[None]}, (2, 2)), ShapeError, r"of shape \(1, 4, 4\)"),
    "an image": (lambda p: plots.covariances(p, np.ones(5), {"a": EYE}, (2, 2)), ShapeError, "covariances: image has"),
    "series, none": (lambda p: plots.series(p, [0], [1.0], {}), ConfigError, "series: posteriors is an empty mapping"),
    "series": (
        lambda p: plots.series(p, [0], [1.0], {"a": (EYE[0], EYE[0, :3], EYE)}),
        ShapeError,
        "series: posteriors has",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(tmp_path, name):
    call, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        call(tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


def test_arrays_in_lists_and_bounds_that_are_not_finite(tmp_path):
    plots.rows(tmp_path / "rows.png", {"a": EYE.tolist(), "b": EYE[:2]}, (2, 2))
    plots.covariances(tmp_path / "c.png", np.ones((2, 2)), {"a": np.diag([1.0, 0.0])}, (2, 2))
    plots.series(tmp_path / "s.png", [0], [1.0], {"a": (EYE[0], 0.5, EYE)})
    history = [{"epoch": 1, "train_bound": -3.0}, {"epoch": 2, "train_bound": float("nan")}]
    for rows in (history, history[1:], [{"epoch": 1, "train_bound": None}]):
        plots.learning_curves(tmp_path / "curves.png", {"a": rows})

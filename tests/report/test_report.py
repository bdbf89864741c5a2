"""`gvae report`: one file that loads nothing, with what runs have and sentences on what they lack; in Chromium the decoder
computes what Python does."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
import webbrowser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from nightly import thinned

import gvae
from gvae import cli, data, panels, plots
from gvae.report import Exhibit, embed, live, parts

CHROMIUM = shutil.which("chromium")
SMALL = ["--first", "40", "--samples", "5"]
HOSTILE = "</script><script>alert(1)</script>"
COLUMNS = (HOSTILE, "<img src=x onerror=alert(2)>", '$$\\frac{1}{2}$$ & "quotes" \'')
RUNS = {
    "vae": ["digits", "--posterior", "chain", "--observation", "bernoulli", "--track", "3"],
    "vib": ["digits", "--model", "vib"],
    "vlae": ["digits", "--model", "vlae", "--hidden", "16,", "8,", "--observation", "bernoulli"],
    "bayes": ["digits", "--model", "bayes", "--observation", "bernoulli"],
    "table": ["table.csv", "--posterior", "full", "--activation", "softplus"],
    "linear": ["table.csv", "--model", "linear"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of each kind, and its report."""
    folder = tmp_path_factory.mktemp("runs")
    x = np.random.default_rng(0).normal(size=(60, 3)) * [1, 10, 1000] + [0, 5, 2000]
    quoted = (name.replace('"', '""') for name in COLUMNS)
    lines = [",".join(f'"{name}"' for name in quoted), *(",".join(map(str, row)) for row in x)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "table.csv").write_text("\n".join(lines))
        for name, words in RUNS.items():
            latent = ["2", "2"] if name == "vlae" else ["2"]
            hidden = [] if "--hidden" in words or name == "linear" else ["--hidden", "16"]
            common = ["--latent", *latent, *hidden, "--epochs", "3", "--quiet", "--out", name]
            assert cli.main(["train", *words, *common]) == 0
            assert cli.main(["report", name, *SMALL]) == 0
        assert cli.main(["report", "vae", "vib", "table", "--out", "all.html", *SMALL]) == 0
    return folder


@pytest.fixture
def open_page():
    """open_page(path, width=1000, dark=False): a tab with the page; no console error, dialog or request is left unseen."""
    browsers = pytest.importorskip("playwright.sync_api", reason="not installed: playwright (extra dev)")
    if CHROMIUM is None:
        pytest.skip("not installed: chromium")
    problems = []
    with browsers.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def open_(path, width=1000, dark=False):
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
            tab.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
            tab.on("pageerror", lambda error: problems.append(str(error)))
            tab.on("dialog", lambda dialog: problems.append(dialog.message))
            own = path.resolve().as_uri()
            ours = (own, "data:", "blob:")
            tab.on("request", lambda r: None if r.url.startswith(ours) else problems.append(f"request: {r.url}"))
            tab.goto(own)
            tab.wait_for_selector("body[data-ready]", timeout=60_000)
            return tab

        yield open_
        browser.close()
    assert not problems


def text_of(path):
    return path.read_text(encoding="utf-8")


def headings(path):
    return re.findall(r"<h2 id=\"[\w-]+\">(.*?)</h2>", text_of(path))


# ---- the file


@pytest.mark.parametrize("run", [*RUNS, "all"])
def test_it_is_one_file_that_loads_nothing(runs, run):
    page = runs / "all.html" if run == "all" else runs / run / "report.html"
    assert page.stat().st_size < 5e6
    text = text_of(page)
    loaded = re.findall(
        r"<(?:script|img|link|iframe|source)[^>]*?\s(?:src|href)=[\"']?([^\"'\s>]{1,30})", text.split("</head>")[1]
    )
    assert all(target.startswith("data:") for target in loaded)
    assert "default-src 'none'" in text
    assert not re.search(r"<link\b", text.partition("<script")[0])


def test_sections(runs):
    every = ["Learning curves", "Evaluation", "The decoder, alive", "Reconstructions", "Samples", "Codes"]
    every += ["Covariance of q(z|x)", "Latent variables"]
    assert headings(runs / "vae" / "report.html") == ["The run", *every, "One posterior as training went on"]
    lacking = {"The decoder, alive", "Reconstructions", "Samples"}
    assert headings(runs / "vib" / "report.html") == ["The run", *(n for n in every if n not in lacking), "Confusion"]
    said = "Not shown: The decoder, Reconstructions, Samples: the model explains labels only: there is nothing to draw."
    assert said in text_of(runs / "vib" / "report.html")
    assert headings(runs / "linear" / "report.html")[-1] == "Loadings"
    assert headings(runs / "bayes" / "report.html")[-1] == "Weights"
    assert headings(runs / "all.html")[0] == "Runs"
    assert "predictive checks" in text_of(runs / "table" / "report.html")


@pytest.mark.parametrize("model", ["density", "autoencoder"])
def test_a_model_without_units_is_evaluated_all_the_same(gvae_, model):
    bits = ["--observation", "nade:4", "--binarize", "threshold"]
    own = bits if model == "density" else ["--latent", "2", "--hidden", "8"]
    assert gvae_("train", "digits", "--model", model, *own, "--epochs", "1", "--out", "r", "--quiet")[0] == 0
    assert gvae_("report", "r", *SMALL)[0] == 0
    assert "Evaluation" in headings(Path("r/report.html"))
    assert "Latent variables: the model has no units to list" in text_of(Path("r/report.html"))


def test_the_header(runs):
    text, model = text_of(runs / "vae" / "report.html"), gvae.load(runs / "vae")
    for fact in (model.config_["fitted"]["data_sha256"], model.parameters_.sha256(), "3 epochs, 45 steps", gvae.__version__):
        assert fact in text
    (start,) = gvae.training.read_starts(runs / "vae")
    assert start["time"].replace("T", " ").replace("+00:00", " UTC") in text
    assert start["machine"].split(",")[0] in text
    assert f"numpy {np.__version__}" in text


def test_a_resumed_run_lists_both_commands(runs, gvae_, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/gvae", "train", "digits", "--out", "r r"])
    assert gvae_("train", "digits", "--latent", "2", "--hidden", "8", "--epochs", "1", "--out", "r", "--quiet")[0] == 0
    monkeypatch.setattr(sys, "argv", ["fit.py", "<b>"])
    assert gvae_("train", "--resume", "r", "--epochs", "2", "--quiet")[0] == 0
    assert [start["command"] for start in gvae.training.read_starts("r")] == [
        "gvae train digits --out 'r r'",
        "fit.py '<b>'",
    ]
    assert gvae_("report", "r", "--out", "page.html", *SMALL)[0] == 0
    with open("page.html", encoding="utf-8") as file:
        assert "<code>fit.py &#39;&lt;b&gt;&#39;</code>" in file.read()


def test_what_is_missing_is_said_and_the_rest_is_drawn(runs, gvae_, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name in ("config.json", "log.jsonl"):  # of the time before starts.jsonl, its checkpoint damaged
        shutil.copy(runs / "vae" / name, old)
    (old / "checkpoint.safetensors").write_bytes(b"damaged")
    assert gvae_("report", old, *SMALL)[0] == 0
    assert headings(old / "report.html") == ["The run", "Learning curves"]
    text = text_of(old / "report.html")
    assert "The decoder, Reconstructions, Samples, Codes, Covariance of q(z|x), Latent variables" in text
    assert "the model cannot be read: " in text
    assert "The run does not tell when, where and by which command it was trained." in text
    assert gvae_("report", runs / "table", "--data", "nowhere.csv", "--out", "t.html", *SMALL)[0] == 0
    with open("t.html", encoding="utf-8") as file:
        assert "the data cannot be read: nowhere.csv" in file.read()


def test_an_earlier_format(gvae_, tmp_path):
    """A run folder that an earlier version wrote; its data are gone."""
    run = shutil.copytree(Path(__file__).parents[1] / "stored" / "format-1", tmp_path / "run")
    code, _, err = gvae_("report", run, *SMALL)
    assert code == 0, err
    assert headings(run / "report.html") == ["The run", "Learning curves"]
    assert "the data cannot be read: rows.npy" in text_of(run / "report.html")


def test_a_run_that_was_stopped_half_way(gvae_, tmp_path):
    asked = iter(range(10**6))
    x = data.load("digits").train[:200]
    with pytest.raises(gvae.errors.StoppedError):
        gvae.VAE(latent=2, hidden=(8,), epochs=9, batch_size=50).fit(
            x, run=tmp_path / "r", stop=lambda: next(asked) == 9, notes={"data": "digits"}
        )
    assert gvae_("report", tmp_path / "r", *SMALL)[0] == 0
    text = text_of(tmp_path / "r" / "report.html")
    assert "Training stopped at epoch 2 of 9: the figures are those of an unfinished run." in text
    assert "The decoder, alive" in headings(tmp_path / "r" / "report.html")


def test_a_saved_model(runs, gvae_):
    gvae.load(runs / "vae").save("model.gvae")
    assert gvae_("report", "model.gvae", *SMALL)[:2] == (0, "report.html\n")
    assert "Learning curves: the log has no epoch yet" in text_of(runs.__class__("report.html"))


def test_usage(runs, gvae_, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert gvae_("report", runs / "linear", "--out", "a.html", "--open", *SMALL)[0] == 0
    assert opened[0].startswith("file:///")
    assert opened[0].endswith("a.html")
    assert "no such run folder or saved model" in gvae_("report", "nowhere")[2]
    assert "expected a name that ends in .html" in gvae_("report", runs / "linear", "--out", "a.pdf")[2]
    assert gvae_("report", runs / "linear", "--out", "no/a.html", *SMALL)[0] == 2
    monkeypatch.setitem(sys.modules, "bokeh.resources", None)
    code, _, err = gvae_("report", runs / "linear", *SMALL)
    assert code == 2
    assert "reports need Bokeh and Jinja2: pip install 'gvae[report]'" in err


# ---- its parts


def test_pictures_are_png():
    image = np.array([[0.0, 0.5], [1.0, np.nan]])
    content = base64.b64decode(embed.image_uri(image).partition(",")[2])
    from PIL import Image

    with Image.open(BytesIO(content)) as found:
        np.testing.assert_array_equal(np.asarray(found), [[[0, 255], [128, 255]], [[255, 255], [0, 0]]])
    grid = plots.image_grid(np.eye(4), (2, 2), 4)
    with Image.open(BytesIO(base64.b64decode(embed.image_uri(grid).partition(",")[2]))) as found:
        assert found.size == grid.shape[::-1]


def test_predictive_checks_see_a_model_that_is_wrong(runs):
    """Data of twice the spread: their standard deviation is beyond that of draws; of the data themselves it is not."""
    exhibit = Exhibit(runs / "linear", str(runs / "table.csv"), first=60)
    true = exhibit.model.sample(60, draw=True, seed=5)

    drawn, names = exhibit.model.sample(50 * 60, draw=True, seed=1).reshape(50, 60, -1), dict(enumerate("abc"))

    def outside(x):
        return sum(cell.endswith("outside") for row in parts._checks(x, drawn, names, "test").rows for cell in row)

    assert outside(true) <= 3
    assert outside(true.mean(0) + 3 * (true - true.mean(0))) >= 6


def test_the_decoder_is_a_grid_where_the_page_cannot_compute_it(runs):
    found = live.decoder(Exhibit(runs / "vlae", first=40))
    assert found["kind"] == "grid"
    assert live.decoder(Exhibit(runs / "vae", first=40))["kind"] == "network"
    other = Exhibit(runs / "vae", first=40)
    decode = other.model.model_.decode

    def otherwise(params, state, z, noise=None):  # more than the network and a link
        return decode(params, state, {"z": z["z"] ** 2}, noise)

    other.model.model_.decode = otherwise
    assert live.decoder(other)["kind"] == "grid"


def test_a_large_network_is_a_grid(runs, monkeypatch):
    monkeypatch.setattr(live, "LARGEST", 1000)
    assert live.decoder(Exhibit(runs / "vae", first=40))["kind"] == "grid"


def test_axes_are_those_of_the_posterior(runs):
    """The row's own axes rebuild its covariance."""
    exhibit = Exhibit(runs / "vae", first=40)
    axes = live._own(exhibit, exhibit.X[:5])
    np.testing.assert_allclose(
        np.swapaxes(axes, 1, 2) @ axes, exhibit.model.posterior_of(exhibit.X[:5]).covariance(), rtol=1e-5, atol=1e-7
    )


def test_inactive_variables_are_marked_in_the_order_of_their_bars():
    layer = {"kl": [0.1, 0.0, 2.0], "activity": [0.5, 0.001, 0.9], "active": 2, "units": 3}
    summary = {"units": {"layers": [layer]}}
    (panel,) = parts.units(SimpleNamespace(evaluation=SimpleNamespace(summary=lambda: summary), log=([], [])))
    assert panel.names == ["2", "0", "1"]
    assert panel.heights.tolist() == [2.0, 0.1, 0.0]
    assert panel.faint.tolist() == [False, False, True]
    assert panel.title == "2 of 3 variables active, marginal KL 2.10 nats in sum"


def test_codes_lie_on_their_principal_axes():
    z = np.array([[3.0, 5.0], [-3.0, 5.0], [0.0, 6.0], [0.0, 4.0]])
    model = SimpleNamespace(transform=lambda X: z)
    (panel,) = parts.codes(SimpleNamespace(model=model, X=z, by_row={}, labels=None, image_shape=None, part="test"))
    np.testing.assert_allclose(np.abs(panel.x), [3, 3, 0, 0], atol=1e-12)
    np.testing.assert_allclose(np.abs(panel.y), [0, 0, 1, 1], atol=1e-12)
    assert (panel.across, panel.up) == tuple(f"principal axis {k}, {n}0% of the variance" for k, n in ((1, 9), (2, 1)))


def test_a_model_contributes_sections(runs, monkeypatch):
    """An estimator's own panels become a section of the page, and a part of `gvae plot`."""

    def own(self, X, y=None):
        return {"Of <mine>": [panels.Bars(["a"], np.array([float(len(X))]), title="rows")]}

    monkeypatch.setattr(gvae.VAE, "report_sections", own)
    assert cli.main(["report", str(runs / "vae"), "--out", str(runs / "own.html"), *SMALL]) == 0
    assert headings(runs / "own.html")[-1] == "Of &lt;mine&gt;"
    assert cli.main(["plot", str(runs / "vae"), "--what", "own", "--out", str(runs / "own"), *SMALL]) == 0
    assert (runs / "own" / "own.png").exists()


# ---- in a browser


@pytest.mark.slow
@pytest.mark.parametrize("run", thinned(["vae", "bayes", "table", "linear"], lambda run: run in ("vae", "table")))
def test_the_pages_decoder_is_pythons(runs, open_page, run):
    """At 20 codes, within 1e-5 of the larger of 1 and the value."""
    tab = open_page(runs / run / "report.html")
    model = gvae.load(runs / run)
    z = np.random.default_rng(1).normal(size=(20, 2)).astype(model.model_.dtype)
    found = np.array(tab.evaluate("z => z.map(code => Array.from(decoders['decoder-0'].decode(code)))", z.tolist()))
    wanted = model.inverse_transform(z).reshape(20, -1)
    assert np.all(np.abs(found - wanted) <= 1e-5 * np.maximum(1, np.abs(wanted)))


@pytest.mark.slow
def test_the_pages_grid_is_pythons(runs, open_page):
    """At all positions of both sliders."""
    tab = open_page(runs / "vlae" / "report.html")
    z = np.asarray(gvae.load(runs / "vlae").transform(Exhibit(runs / "vlae", first=40).X), float)
    steps = np.linspace(-live.REACH, live.REACH, live.GRID)
    script = """steps => steps.flatMap(s => steps.map(t =>
        Array.from(decoders['decoder-0'].mean(0, Object.keys(decoders['decoder-0'].axes)[0], [s, t]))))"""
    at = np.array([[s, t] for s in steps for t in steps]) @ live._principal(z)[:2]
    wanted = gvae.load(runs / "vlae").inverse_transform((z.mean(0) + at).astype(np.float32)).reshape(live.GRID**2, -1)
    np.testing.assert_allclose(tab.evaluate(script, steps.tolist()), wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("width", thinned([360, 800, 1400], lambda width: width == 360))
def test_it_fits_every_width_dark_and_light(runs, open_page, width):
    tab = open_page(runs / "all.html", width=width, dark=width < 1000)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("[data-chart] .bk-Figure").count() == tab.locator("[data-chart]").count() > 5
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 26)" if width < 1000 else "rgb(255, 255, 255)")


@pytest.mark.slow
def test_it_works_by_keyboard(runs, open_page):
    """Tab leads to the sliders, arrows move them, and the picture follows; the choice of a row does, too."""
    tab = open_page(runs / "vae" / "report.html")
    picture = "document.querySelector('canvas').toDataURL()"
    shown = [tab.evaluate(picture)]
    for _ in range(60):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.type") == "range":
            break
    for key in ("End", "Home"):
        tab.keyboard.press(key)
        shown.append(tab.evaluate(picture))
    assert tab.evaluate("document.activeElement.value") == "-3"
    tab.locator(".decoder select").first.select_option(index=1)
    shown.append(tab.evaluate(picture))
    tab.locator(".decoder button").press("Enter")
    shown.append(tab.evaluate(picture))
    assert len(set(shown)) == 5
    assert tab.evaluate("document.querySelector('.decoder output').value") == "0.0"


@pytest.mark.slow
def test_hostile_strings_stay_text(runs, open_page, tmp_path):
    """In names of columns and runs, notes, events, and classes, which are not those of the data."""
    tab = open_page(runs / "table" / "report.html")
    seen = tab.locator("body").inner_text()
    assert all(name in seen for name in COLUMNS)
    x = data.load("digits").train[:100]
    run = tmp_path / "<i>run<i>"
    notes = {"data": "digits", "said": HOSTILE, COLUMNS[1]: 1}
    gvae.VIB(latent=2, hidden=(8,), epochs=2).fit(x, [HOSTILE, "b"] * 50, run=run, notes=notes)
    log = run / "log.jsonl"
    log.write_text(log.read_text() + json.dumps({"event": HOSTILE, "epoch": 1}) + "\n")
    assert cli.main(["report", str(run), "--data", "digits", "--out", str(tmp_path / "r.html"), *SMALL]) == 0
    seen = open_page(tmp_path / "r.html").locator("body").inner_text()
    assert f"note: said\t{HOSTILE}" in seen
    assert f"note: {COLUMNS[1]}" in seen
    assert "<i>run<i>" in seen
    assert "What the model adds" in seen  # in a sentence: the data's labels are none of its classes


# ---- models of two views, of layers, and of a chosen information ---------------------------------


@pytest.fixture(scope="module")
def further(tmp_path_factory):
    """A folder with a run of each, on digits; the second view is as large as the first."""
    folder = tmp_path_factory.mktemp("further")
    digits = data.load("digits")
    rng = np.random.default_rng(0)
    views = {"train": digits.train[:100], "test": digits.test[:30]}
    views |= {f"{name}_y": np.clip(x + rng.random(x.shape), 0, 1) for name, x in views.items()}
    np.savez(folder / "views.npz", **views)
    common = {"hidden": (8,), "epochs": 2, "batch_size": 50, "random_state": 0}
    notes = {"data": str(folder / "views.npz"), "image_shape": [8, 8]}
    two = gvae.VCCA(latent=2, private=(1, 1), **common)
    two.fit(views["train"], views["train_y"], run=folder / "two", notes=notes)
    two.fit(views["train"], views["train_y"], run=folder / "table", notes={"data": notes["data"]})
    notes = {"data": "digits", "image_shape": [8, 8]}
    gvae.LadderVAE(latent=(3, 2), **common).fit(digits.train[:100], run=folder / "layers", notes=notes)
    gvae.MutualAutoencoder(latent=2, nats=1.0, **common).fit(digits.train[:100], run=folder / "asked", notes=notes)
    return folder


def shown(run, part):
    return parts.PARTS[part].panels(Exhibit(run, first=30, samples=5))


def test_both_views_are_shown(further):
    first, second = shown(further / "two", "reconstructions")
    assert (first.title, second.title) == ("view x", "view y")
    views = np.load(further / "views.npz")
    np.testing.assert_allclose(second.rows["original"], views["test_y"][:12])
    model = gvae.load(further / "two")
    np.testing.assert_allclose(second.rows["reconstruction"], model.reconstruct(views["test"][:12])["y"], rtol=1e-5)
    assert [panel.title for panel in shown(further / "two", "samples")] == ["view x", "view y"]
    titles = [panel.title for panel in shown(further / "table", "reconstructions")]
    assert titles == [*map(str, range(12)), *(f"y: {j}" for j in range(12)), "view x", "view y"]  # the last: of all columns
    titles = [panel.title for panel in shown(further / "table", "samples")]
    assert titles[12].startswith(titles[25][:20])
    assert titles[13:25] == [f"y: {j}" for j in range(12)]
    text = next(panel.text for panel in shown(further / "two", "evaluation") if isinstance(panel, panels.Text))
    assert "log p(x, y), 5 importance samples" in text
    assert "distortion -E log p(x, y|z)" in text


def test_layers_have_their_names(further):
    for run, names in (("layers", ["z1", "z2"]), ("two", ["z", "h_x", "h_y"])):
        bars = [panel for panel in shown(further / run, "units") if isinstance(panel, panels.Bars)]
        assert [panel.title.partition(":")[0] for panel in bars] == names
        assert all(f"{panel.heights.sum():.2f} nats in sum" in panel.title for panel in bars)


def test_the_information_that_was_asked_for(further):
    (panel,) = shown(further / "asked", "own")
    found, asked = panel.lines
    history = gvae.load(further / "asked").history_
    assert found.y == [row["train_information"] for row in history]
    assert asked.y == [1.0, 1.0]
    assert "1 nats asked for" in panel.title
    assert (
        cli.main(["report", *(str(further / name) for name in ("asked", "two")), "--out", str(further / "r.html"), *SMALL])
        == 0
    )
    assert "Mutual information" in (further / "r.html").read_text(encoding="utf-8")


def test_a_study_is_a_page_of_its_own(tmp_path, monkeypatch, open_page):
    """With every trial, its learning curve, and what is said of those that failed or have lost their run folder."""
    pytest.importorskip("optuna", reason="not installed: optuna (extra sweep)")
    monkeypatch.chdir(tmp_path)
    name = "<img src=x onerror=alert(2)>"
    np.save(f"{name}.npy", np.random.default_rng(0).normal(size=(40, 4)))
    Path("study.toml").write_text(
        f'[data]\nsource = "{name}.npy"\n[fixed]\nepochs = 2\nhidden = [4]\n[study]\nsampler = "grid"\n'
        '[ranges]\nlatent = [1, 2]\ngradient = ["<script>alert(3)</script>", "reparameterized"]'
    )
    assert cli.main(["sweep", "study.toml", "--out", name, "--quiet"]) == 0
    shutil.rmtree(Path(name, "trial-001"))
    assert cli.main(["report", name, name]) == 2
    assert cli.main(["report", name, "--out", "study.html"]) == 0
    text = Path("study.html").read_text()
    assert name not in text
    assert "<script>alert(3)" not in text
    page = open_page(Path("study.html"))
    assert page.locator("h1").inner_text() == name
    assert page.locator("h2").all_inner_texts() == [
        "About",
        "Trials",
        "Best value",
        "Learning curves",
        "Settings and values",
    ]
    rows = [row.inner_text().split("\t") for row in page.locator("section:has(#trials) tbody tr").all()]
    assert [row[:2] for row in rows] == [["0", "failed"], ["1", "complete"], ["2", "failed"], ["3", "complete"]]
    assert "<script>alert(3)</script>" in rows[0][-1]
    assert page.locator("#trials ~ * .warning").inner_text().startswith("The run folders of trials 1 are gone")
    assert page.locator("[data-chart]").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

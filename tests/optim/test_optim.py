"""Optimisers by name: their texts, and their steps against the algorithms written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_cases import X, after, same

from gvae import VAE, models, nn, optim, random, texts
from gvae.data import Table
from gvae.errors import ConfigError, RunError, ShapeError, StoppedError
from gvae.optim import parsing
from gvae.training import RunFolder, Trainer, train

TEXTS = ("adam", "adam:beta1=0.5,eps=1e-4", "adamw", "adamw:0.3", "sgd", "sgd:0.9")
SHAPES = {
    "a.0.weight": (3, 2),
    "a.0.bias": (2,),
    "b.0.weight": (2, 2),
    "b.0.bias": (2,),
    "b.shared": (3,),
    "c.weights": (4,),
}


def slow(text, start, slopes, learning_rates, rates):
    """The parameters, by name, after these steps: each array by itself, in the order of the papers' lines."""
    name, given = texts.parse("optimizer", text, parsing._TAKEN, parsing._LONE)
    b1, b2, eps = (given.get(key, default) for key, default in (("beta1", 0.9), ("beta2", 0.999), ("eps", 1e-8)))
    values = {key: array.astype(np.float64) for key, array in start.items()}
    m, v = ({key: np.zeros(array.shape) for key, array in start.items()} for _ in range(2))
    for t, (slope, learning_rate) in enumerate(zip(slopes, learning_rates, strict=True), 1):
        for key, theta in values.items():
            g, rate = slope[key].astype(np.float64), learning_rate * rates.get(key.split(".")[0], 1.0)
            if name == "sgd":
                m[key] = given.get("momentum", 0.0) * m[key] + g
                values[key] = theta - rate * m[key]
                continue
            m[key] = b1 * m[key] + (1 - b1) * g
            v[key] = b2 * v[key] + (1 - b2) * g**2
            corrected, root = m[key] / (1 - b1**t), np.sqrt(v[key] / (1 - b2**t))
            decay = given.get("decay", 0.01) if name == "adamw" and key.endswith(".weight") else 0.0
            values[key] = theta - rate * corrected / (root + eps) - rate * decay * theta
    return values


def taken(text, start, slopes, learning_rates, rates):
    """The same by gvae."""
    parameters = nn.Parameters(start)
    optimizer = optim.parse_optimizer(text, parameters)
    optimizer.rates = rates
    for slope, learning_rate in zip(slopes, learning_rates, strict=True):
        optimizer.learning_rate = learning_rate
        optimizer.update(nn.Parameters(slope))
    assert optimizer.step == len(slopes)
    return parameters


shares = st.sampled_from([0.0, 0.3, 0.9, 0.999])


@given(
    text=st.one_of(
        st.builds("adam:beta1={},beta2={},eps={}".format, shares, shares, st.sampled_from(["1e-8", "0.1"])),
        st.builds("adamw:decay={},beta1={}".format, st.sampled_from([0.0, 0.01, 2.0]), shares),
        st.builds("sgd:{}".format, shares),
        st.sampled_from(TEXTS),
    ),
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 6),
    dtype=st.sampled_from([np.float32, np.float64]),
    rates=st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 2.0])),
)
def test_steps_are_the_algorithms(text, seed, n, dtype, rates):
    """In any precision, at a learning rate that changes, with groups that rest or go at rates of their own."""
    r = np.random.default_rng(seed)

    def draw():
        return {name: r.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}

    start, slopes, learning_rates = draw(), [draw() for _ in range(n)], r.uniform(1e-3, 0.1, n).tolist()
    got, expected = (f(text, start, slopes, learning_rates, rates) for f in (taken, slow))
    rtol = 1e-12 if dtype == np.float64 else 2e-5
    for name in SHAPES:
        np.testing.assert_allclose(got[name], expected[name], rtol=rtol, atol=rtol)
        if rates.get(name[0]) == 0:
            np.testing.assert_array_equal(got[name], start[name])


def test_decay_takes_from_weights_alone():
    """Where nothing else pulls, a step scales a weight by 1 - learning rate * decay, and leaves all others."""
    parameters = nn.Parameters({name: np.ones(shape) for name, shape in SHAPES.items()})
    optim.parse_optimizer("adamw:0.5", parameters, 0.1).update(parameters.zeros())
    for name, values in parameters.items():
        np.testing.assert_array_equal(values, 0.95 if name.endswith(".weight") else 1.0)


def test_deviations_of_a_posterior_over_weights_do_not_decay():
    model = models.Bayes(4, latent=2, hidden=(3,), n_rows=10)
    parameters = nn.Parameters(model.init(random.key(0)))
    before = {name: value.copy() for name, value in parameters.items()}
    optim.AdamW(parameters, learning_rate=0.1, decay=0.5).update(parameters.zeros())
    moved = {name for name, value in parameters.items() if not np.array_equal(value, before[name])}
    assert moved == {name for name in parameters if name.endswith(".weight") and "log_scale" not in name}


def test_a_decay_of_nothing_is_refused():
    parameters = nn.Parameters({"codes.rate": np.ones(2), "decoder.bias": np.ones(2)})
    with pytest.raises(ConfigError, match=r"AdamW: decay is 0.5, but none of the parameters is the weight of a layer"):
        optim.AdamW(parameters, decay=0.5)
    optim.AdamW(parameters, decay=0.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta2": 0.99999999}, "beta2 is 0.99999999, which is 1 in float32"),
        ({"beta1": 0.99999999}, "beta1 is 0.99999999, which is 1 in float32"),
        ({"eps": 1e-45}, "eps is 1e-45, expected at least 3.7e-37 in float32"),
        ({"beta1": 1.0}, r"beta1 is 1.0, expected a number in \[0, 1\)"),
    ],
)
def test_numbers_that_the_precision_does_not_hold(settings, words):
    with pytest.raises(ConfigError, match=words):
        optim.Adam(nn.Parameters({"a.weight": np.ones(2, np.float32)}), **settings)
    with pytest.raises(ConfigError, match=words):
        optim.RowAdam(np.ones((2, 1), np.float32), 0.1, **settings)
    if settings != {"beta1": 1.0}:
        optim.Adam(nn.Parameters({"a.weight": np.ones(2)}), **settings)  # float64 holds them


def test_an_average_that_begins_after_the_run(tmp_path):
    settings = {"latent": 2, "hidden": (3,), "epochs": 3, "random_state": 0}
    with pytest.raises(ConfigError, match="average is 'swa:4', expected one that begins by the last epoch, 3"):
        VAE(**settings, average="swa:4").fit(X)
    plain, averaged = VAE(**settings).fit(X), VAE(**settings, average="swa:2").fit(X)
    assert not np.array_equal(plain.parameters_.flat, averaged.parameters_.flat)


def test_without_decay_it_is_adam():
    r = np.random.default_rng(0)
    start = {name: r.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    slopes = [{name: r.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(4)]
    adam, adamw = (taken(text, start, slopes, [0.01] * 4, {}) for text in ("adam", "adamw:0"))
    np.testing.assert_array_equal(adam.flat, adamw.flat)


@pytest.mark.parametrize(
    ("text", "kind", "settings"),
    [
        ("adam", optim.Adam, {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
        ("adam:beta1=0.5,beta2=0.99,eps=1e-4", optim.Adam, {"beta1": 0.5, "beta2": 0.99, "eps": 1e-4}),
        ("adamw", optim.AdamW, {"decay": 0.01, "beta1": 0.9}),
        ("adamw:0.05", optim.AdamW, {"decay": 0.05}),
        ("adamw:beta2=0.5,decay=0", optim.AdamW, {"decay": 0.0, "beta2": 0.5}),
        ("sgd", optim.SGD, {"momentum": 0.0, "moments": ()}),
        ("sgd:0.9", optim.SGD, {"momentum": 0.9, "moments": ("m",)}),
        ("sgd:momentum=0", optim.SGD, {"momentum": 0.0, "moments": ()}),
    ],
)
def test_texts(text, kind, settings):
    optim.check_optimizer(text)
    optimizer = optim.parse_optimizer(text, nn.Parameters({"a.weight": np.ones(2)}), 0.25)
    assert type(optimizer) is kind
    assert optimizer.learning_rate == 0.25
    assert {name: getattr(optimizer, name) for name in settings} == settings


WRONG = {
    "lion": "unknown optimizer 'lion'; known are adam, adamw, sgd",
    "": "unknown optimizer ''",
    "Adam": "unknown optimizer 'Adam'",
    "adam:": "optimizer 'adam:': unknown setting ''; adam takes beta1=, beta2=, eps=",
    "adam:0.5": "unknown setting '0.5'; adam takes beta1=",
    "adam:momentum=0.5": "unknown setting 'momentum=0.5'; adam takes beta1=, beta2=, eps=",
    "adam:beta1=0.5,": "unknown setting ''",
    "adam: beta1=0.5": "unknown setting ' beta1=0.5'",
    "adamw:0.01,beta1=0.5": "unknown setting '0.01'; adamw takes decay=, beta1=",
    "adam:beta1=0.5,beta1=0.6": "beta1 is given twice",
    "adam:beta1=half": r"optimizer 'adam:beta1=half': beta1 is 'half', expected a number in \[0, 1\)",
    "adam:beta1=1": r"beta1 is '1', expected a number in \[0, 1\)",
    "adam:eps=0": "eps is '0', expected a positive number",
    "adam:eps=inf": "eps is 'inf', expected a positive number",
    "adam:eps=1_0": "eps is '1_0', expected a positive number",
    "adam:eps= 1": "eps is ' 1', expected a positive number",
    "adamw:nan": "decay is 'nan', expected a number of at least 0",
    "adamw:-1": "decay is '-1', expected a number of at least 0",
    "adamw:": "decay is '', expected a number",
    "sgd:1.5": "momentum is '1.5', expected a number",
    "sgd:momentum": "momentum is 'momentum', expected a number",
}


@pytest.mark.parametrize("text", [*WRONG, None, 3])
def test_texts_that_are_none(text):
    message = WRONG.get(text, f"unknown optimizer {text!r}")
    for refuse in (optim.check_optimizer, lambda t: Trainer(models.VAE(6, 2, hidden=(5,)), optimizer=t)):
        with pytest.raises(ConfigError, match=message) as caught:
            refuse(text)
        assert "\n" not in str(caught.value)


def test_whole_numbers_in_texts():
    known = {"a": {"groups": texts.Number("a whole number of at least 1", lambda x: x >= 1, int)}, "b": {}}
    assert texts.parse("thing", "a:8", known, {"a": "groups"}) == ("a", {"groups": 8})
    assert type(texts.parse("thing", "a:groups=8", known)[1]["groups"]) is int
    for text in ("a:groups=0", "a:groups=1.5", "a:groups=1e3"):
        with pytest.raises(ConfigError, match="expected a whole number of at least 1"):
            texts.parse("thing", text, known)
    with pytest.raises(ConfigError, match="unknown setting '1'; b takes no settings"):
        texts.parse("thing", "b:1", known)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.SGD(p, momentum=1.0), r"SGD: momentum is 1.0, expected a number in \[0, 1\)"),
        (lambda p: optim.AdamW(p, decay=-0.1), "AdamW: decay is -0.1, expected a number of at least 0"),
        (lambda p: optim.AdamW(p, decay=True), "AdamW: decay is True"),
        (lambda p: optim.AdamW(p, beta1=math.nan), "AdamW: beta1 is nan"),
        (lambda p: optim.SGD(p, 0.0), "learning_rate is 0.0, expected a positive number"),
        (lambda p: optim.SGD(p, rates={"d": 1.0}), "SGD: rates names the parameter group 'd'; known are a"),
        (lambda p: optim.SGD(p, rates={"a": -1}), r"SGD: rates\['a'\] is -1, expected a number of at least 0"),
        (lambda p: optim.SGD(p, rates={"a": "0.5"}), r"SGD: rates\['a'\] is '0.5', expected a number of at least 0"),
        (lambda p: optim.SGD(p, np.float32("nan")), r"learning_rate is .*nan.*, expected a positive number"),
    ],
)
def test_settings_out_of_range(make, message):
    parameters = nn.Parameters({"a.weight": np.ones(2)})
    with pytest.raises(ConfigError, match=message):
        make(parameters)
    with pytest.raises(ShapeError, match=r"SGD\.update: gradient has 'a.weight' \(3,\), expected 'a.weight' \(2,\)"):
        optim.SGD(parameters).update(nn.Parameters({"a.weight": np.ones(3)}))


def test_numbers_of_numpy_are_numbers():
    parameters = nn.Parameters({"a.weight": np.ones(2)})
    optimizer = optim.SGD(parameters, np.float32(0.5), momentum=np.float64(0.0), rates={"a": np.int64(2)})
    optimizer.update(nn.Parameters({"a.weight": np.ones(2)}))
    np.testing.assert_allclose(parameters["a.weight"], 0.0)


# ---- in training ---------------------------------------------------------------------------------


def small(**settings):
    return Trainer(models.VAE(6, 2, hidden=(5,)), seed=1, **{"learning_rate": 0.01} | settings)


@pytest.mark.parametrize("text", TEXTS)
def test_programs_have_the_bits_of_python(text):
    """At a falling rate; and every optimiser moves the parameters elsewhere."""
    flats = []
    for programs in (True, False):
        trainer = small(optimizer=text, schedule=optim.Cosine(9), average="ema:0.9", programs=programs)
        train(trainer.model, Table(X), steps=8, batch_size=20, trainer=trainer)
        assert any(program.verified for program in trainer.programs.known.values()) == programs
        flats.append((trainer.parameters.flat.tobytes(), trainer.average.values.flat.tobytes()))
    assert flats[0] == flats[1]


def test_a_gradient_of_other_names_or_shapes():
    parameters = nn.Parameters({"net.a": np.zeros(2), "net.b": np.zeros(4)})
    optimizer = optim.SGD(parameters, learning_rate=1.0)
    for other, message in (
        ({"net.b": np.ones(4), "net.a": np.ones(2)}, r"gradient has 'net.b' \(4,\), expected 'net.a' \(2,\)"),
        ({"net.a": np.ones(2), "net.b": np.ones((2, 2))}, r"gradient has 'net.b' \(2, 2\), expected 'net.b' \(4,\)"),
        ({"net.a": np.ones(2)}, r"gradient has no more arrays, expected 'net.b' \(4,\)"),
    ):
        with pytest.raises(ShapeError, match=f"^SGD.update: {message}$"):
            optimizer.update(nn.Parameters(other))
    assert not parameters.flat.any()


def test_norms_of_small_and_large_numbers():
    for scale in (1e-25, 1e25):
        assert optim.norm(np.full(4, scale, np.float32)) == pytest.approx(2 * scale)
    assert optim.norm(np.zeros(4, np.float32)) == 0


def test_a_plateau_after_a_bound_that_is_nan():
    schedule = optim.Plateau(1)
    for bound in (-100.0, math.nan, -90.0, -80.0):
        schedule.observe(bound)
    assert schedule.state["best"] == -80.0
    assert schedule.state["factor"] == 0.5  # halved once, after NaN


def test_optimizers_differ():
    flats = set()
    for text in TEXTS:
        trainer = small(optimizer=text)
        trainer.step(Table(X).batch(np.arange(20), random.key(0)))
        trainer.step(Table(X).batch(np.arange(20), random.key(1)))
        flats.add(trainer.parameters.flat.tobytes())
    assert len(flats) == len(TEXTS)


@pytest.mark.parametrize("text", TEXTS)
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(text, tmp_path):
    def run(path, stop=None, reopen=False):
        folder = RunFolder.reopen(path) if reopen else RunFolder(path, {"a": 1})
        trainer = small(optimizer=text, schedule=optim.Cosine(9), clip=0.5)
        if reopen:
            folder.restore(trainer, {"a": 1})
        try:
            train(trainer.model, Table(X), epochs=3, batch_size=16, run=folder, trainer=trainer, stop=stop)
        finally:
            folder.close()

    run(tmp_path / "whole")
    for first in range(1, 9):
        with pytest.raises(StoppedError):
            run(tmp_path / f"{first}", after(first))
        run(tmp_path / f"{first}", reopen=True)
        same(tmp_path / f"{first}", tmp_path / "whole")


@pytest.mark.parametrize(
    ("text", "moments"), [("adam", {"m", "v"}), ("adamw", {"m", "v"}), ("sgd:0.9", {"m"}), ("sgd", set())]
)
def test_a_checkpoint_of_another_optimizer_is_refused(text, moments):
    trainer = small(optimizer=text)
    trainer.step(Table(X).batch(np.arange(20), random.key(0)))
    arrays, counters = trainer.snapshot()
    assert {name.removeprefix("optimizer/") for name in arrays if name.startswith("optimizer/")} == moments
    assert ("optimizer" in counters) == (text != "adam")  # checkpoints of Adam are what they have always been
    for other in ("adam", "adamw", "sgd:0.9", "sgd"):
        again = small(optimizer=other)
        before = again.parameters.flat.copy()
        if other == text:
            again.restore((arrays, counters))
            np.testing.assert_array_equal(again.parameters.flat, trainer.parameters.flat)
            continue
        with pytest.raises(RunError, match="do not fit"):
            again.restore((arrays, counters))
        np.testing.assert_array_equal(again.parameters.flat, before)

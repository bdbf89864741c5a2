"""The examples of docs/guide/trackers.md, with the trackers where they are installed, and joblib's Dask backend."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
MODEL = "When it pays"  # the section that has it


def run(*titles, page="trackers"):
    """Runs the code of sections of a page; returns its names."""
    text = (GUIDE / f"{page}.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    names: dict = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages
        for title in titles:
            for code in re.findall(r"```python\n(.*?)```", sections[title], re.DOTALL):
                exec(code, names)
    return names


def test_tensorboard(here, capsys):
    pytest.importorskip("tensorboard", reason="not installed: tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = run(MODEL, "TensorBoard")
    seen = EventAccumulator("tensorboard/digits")
    seen.Reload()
    for name in ("validation_bound", "train_kl"):
        tensors = [(event.step, event.tensor_proto.float_val[0]) for event in seen.Tensors(name)]
        rows = names["model"].history_
        assert len(rows) == 10
        np.testing.assert_allclose(tensors, [(row["step"], row[name]) for row in rows], rtol=1e-6)
    capsys.readouterr()
    run("Resumed runs")  # which reads the log
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [[str(row["epoch"]), str(row["validation_bound"])] for row in rows]


def test_mlflow(here, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="not installed: mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.set_tracking_uri(f"sqlite:///{here}/mlflow.db")
        names = run(MODEL, "MLflow")
        client = mlflow.MlflowClient()
        [found] = client.search_runs([client.get_experiment_by_name("Default").experiment_id])
        history = client.get_metric_history(found.info.run_id, "validation_bound")
    rows = names["model"].history_
    assert [(metric.step, metric.value) for metric in history] == [(row["step"], row["validation_bound"]) for row in rows]
    assert found.data.params["latent"] == "8"


def test_weights_and_biases(here, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="not installed: wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged = []
    monkeypatch.setattr(wandb.Run, "log", lambda self, row, step: logged.append((step, row)))
    names = run(MODEL, "Weights & Biases")
    assert logged == [(row["step"], row) for row in names["model"].history_]
    assert next(here.glob("wandb/offline-run-*/*.wandb")).stat().st_size > 0


@pytest.mark.nightly
def test_grid_search_on_dask(here):
    """The results of one process, bit for bit."""
    pytest.importorskip("distributed", reason="not installed: distributed")
    names = run("Grid search in Python, on Dask", page="sweeps")
    search = names["search"]
    alone = GridSearchCV(search.estimator, search.param_grid, cv=search.cv).fit(names["X"])
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.best_params_ == alone.best_params_
    assert search.best_estimator_.parameters_.sha256() == alone.best_estimator_.parameters_.sha256()

"""`gvae evaluate`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from gvae.cli import arguments
from gvae.cli.running import check_new, on_one_blas_thread, say, source_of, write_new
from gvae.errors import ConfigError, DataError

HELP = "ELBO and importance-sampled log p(x) of a run, in nats per row."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from gvae import evaluation
    from gvae.evaluation.registry import users

    parser.add_argument("folder", metavar="RUN", help="a run folder, or a file saved by VAE.save")
    arguments.add_data(parser, default="as in training")
    parser.add_argument(
        "--split", choices=["test", "train", "validation"], default="test", help="part of the data; few have all three"
    )
    parser.add_argument("--samples", type=arguments.count, default=100, metavar="K", help="draws per row")
    parser.add_argument(
        "--seed", type=arguments.seed, default=0, metavar="N", help="seed of the draws and of the binarization"
    )
    parser.add_argument("--memory", type=arguments.positive, metavar="MB", help="limit for the arrays of one chunk of draws")
    group = parser.add_argument_group("further measures")
    group.add_argument(
        "--with",
        dest="measures",
        nargs="+",
        choices=[*evaluation.MEASURES, "all"],
        metavar="NAME",
        help="; ".join(f"{name}: {m.what} ({m.cost})" for name, m in evaluation.MEASURES.items()) + "; or all",
    )
    group.add_argument(
        "--first", type=arguments.count, default=100, metavar="N", help=f"number of rows that {users('first')} use"
    )
    group.add_argument(
        "--chains", type=arguments.count, default=16, metavar="N", help=f"chains of {users('chains')}, per row"
    )
    group.add_argument(
        "--temperatures", type=arguments.count, default=500, metavar="N", help=f"temperatures of {users('temperatures')}"
    )
    group.add_argument(
        "--seen", type=arguments.positive, default=0.1, metavar="P", help="share of the counts that completion sees"
    )
    arguments.add_ranks(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rows", metavar="FILE", help="also write the values of every row, as .csv; must be new")


@on_one_blas_thread
def run(options: argparse.Namespace) -> None:
    from gvae import data, estimator, evaluation
    from gvae.estimator import origin
    from gvae.evaluation.importance import COLUMNS
    from gvae.runtime import parallel

    ranks = options.ranks = parallel.world(options.hang_timeout)
    with ranks.together():
        if options.rows is not None and ranks.leads:
            check_new(options.rows)
    model = estimator.load(options.folder)
    if options.rows is not None and not model.model_.has_bound:
        raise ConfigError(f"--rows: the model of {options.folder} has no bound, and so no values per row")
    if model.model_.caution and ranks.leads:
        say("evaluate", [model.model_.caution])
    source, data_dir, target = source_of(options, options.folder, model.notes_)
    dataset = data.load(source, data_dir=data_dir, target=target)
    if ranks.leads:
        say("evaluate", origin.remarks(model, options.folder, source, options.data is not None, dataset, options.split))
    rows, y = _part(dataset, options.split)
    where = f"{dataset.name}, {options.split} rows"
    origin.check_rows(model, dataset, rows, where)
    names = ("samples", "seed", "memory", "first", "chains", "temperatures", "seen")
    folder = Path(options.folder)
    partial = folder / "evaluation.partial" if folder.is_dir() else None
    settings = {name: getattr(options, name) for name in names} | {"measures": options.measures or ()}
    try:
        shown = sys.stderr.isatty() and ranks.leads
        result = model.evaluate(rows, y, **settings, progress=shown, partial=partial, comm=ranks)
    except KeyboardInterrupt:
        kept = partial is not None and partial.exists()
        raise KeyboardInterrupt("; the same command continues from here" if kept else "") from None
    if not ranks.leads:
        return
    if options.rows is not None:
        table = zip(*(getattr(result, name).tolist() for name in COLUMNS), strict=True)
        lines = [",".join(("row", *COLUMNS)), *(",".join(map(repr, (i, *values))) for i, values in enumerate(table))]
        write_new(options.rows, ("\n".join(lines) + "\n").encode())
    if options.json:
        about = {"run": str(options.folder), "data": dataset.name, "split": options.split, "seed": options.seed}
        about |= {"caution": model.model_.caution} if model.model_.caution else {}
        print(json.dumps(about | {"binarize": model.binarize_} | _finite(result.summary()), indent=2))
        return
    drawn = ", binarized by one random draw" if model.binarize_ in ("dynamic", "fixed") else ""
    print(
        f"{dataset.name}, {options.split}: {rows.shape[0]} rows{drawn}{'; nats per row' if model.model_.has_bound else ''}"
    )
    print(evaluation.table(result))


def _part(dataset: Any, split: str) -> tuple[Any, Any]:
    """x and y, or None, of the training, test or validation rows."""
    if split == "validation":
        if dataset.validation is None:
            raise DataError(f"{dataset.name} has no validation rows: name --split test or --split train")
        return dataset.validation if isinstance(dataset.validation, tuple) else (dataset.validation, None)
    i = 1 if split == "test" else 0
    y = dataset.columns.get("y")
    return (dataset.train, dataset.test)[i], None if y is None else y[i]


def _finite(structure: Any) -> Any:
    """The structure with NaN and infinity, which JSON lacks, replaced by null."""
    if isinstance(structure, dict):
        return {name: _finite(part) for name, part in structure.items()}
    if isinstance(structure, list):
        return [_finite(part) for part in structure]
    return None if isinstance(structure, float) and not math.isfinite(structure) else structure

"""The whole way of one model: train it, export it, serve it from 4 shards, and check that it still says the same.

    make demo              leaves the cluster up and says what to try next
    make demo ONCE=1       stops everything at the end

Exit status 1 when a served score is further than `TOLERANCE` from the torch model's own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.movielens import commands, data, features, generated
from examples.movielens.features import Examples
from examples.movielens.model import OUTPUT, Recommender, make_schema, raw_keys
from examples.movielens.train import auc, batches_of, score, train
from ringpull import Client, Ragged, Schema, export_model

MODEL: Final = "movielens"
SHARDS: Final = 4
REQUEST_ROWS: Final = 128
TOLERANCE: Final = 1e-5
FOLDER: Final = Path("runs/demo")
"""Folder with the exported model, a request to play with, and where the last demo listens."""

USER_FEATURES: Final = (
    "user_id",
    "age",
    "gender",
    "occupation",
    "zip_code",
    "recent_items",
    "user_mean",
    "user_ratings",
)
"""A request for one user sends these once, as context; everything else is about the items."""

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """Answers of the cluster for the held-out set."""

    scores: NDArray[np.float32]
    seconds: NDArray[np.float64]
    """Time of each request, as the client saw it."""

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent) * 1e3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo from training to the last line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m examples.movielens.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="stop everything at the end")
    once: bool = parser.parse_args(arguments).once
    end_last_demo()

    step("Ratings")
    if data.find_folder() is None:
        console.print(f"{data.FOLDER_VARIABLE} is not set; it could name a folder with MovieLens-100K: generating")
    ratings = generated.read_or_generate()
    training, held_out = features.make_examples(ratings)
    console.print(
        f"{ratings.source}: {len(training):,} to learn from, {len(held_out):,} held out (each user's last fifth)"
    )

    step("Train")
    schema = make_schema(ratings)
    model = train_shown(schema, training)
    offline = score(model, schema, held_out)
    console.print(f"AUC on the held-out ratings, in torch: {auc(held_out.labels, offline):.4f}")

    step("Export")
    folder = export(model, schema)

    step(f"Serve from {SHARDS} shards")
    target = commands.serve(folder, shards=SHARDS)
    (FOLDER / "target").write_text(target, encoding="utf-8")
    try:
        step("Predict the held-out set over gRPC")
        served = predict_shown(target, held_out)
        result = compare(held_out.labels, offline, served)
        write_request(held_out)
    except BaseException:
        end_last_demo()
        raise
    if once:
        end_last_demo()
    else:
        show_next(target)
    print(json.dumps(result), flush=True)
    if result["max_abs_diff"] > TOLERANCE:
        sys.exit(f"served scores differ from the model's own by up to {result['max_abs_diff']}, over {TOLERANCE}")


def train_shown(schema: Schema, training: Examples) -> Recommender:
    with progress("loss {task.fields[loss]:.3f}") as bar:
        task = bar.add_task("training", total=batches_of(len(training)), loss=float("nan"))
        return train(schema, training, on_batch=lambda loss: bar.update(task, advance=1, loss=loss))


def export(model: Recommender, schema: Schema) -> Path:
    """Write version 1 of the model afresh; return the model's folder."""
    folder = FOLDER / MODEL
    shutil.rmtree(folder, ignore_errors=True)
    export_model(model, schema, folder, version=1, keys=raw_keys(schema))
    return folder


def predict_shown(target: str, examples: Examples) -> Served:
    """Score all examples, `REQUEST_ROWS` a request, one request after the other."""
    parts = [
        examples.take(np.arange(begin, min(begin + REQUEST_ROWS, len(examples))))
        for begin in range(0, len(examples), REQUEST_ROWS)
    ]
    scores, seconds = [], []
    with Client(target) as client, progress("rows each: " + str(REQUEST_ROWS)) as bar:
        client.predict(MODEL, parts[0].columns)  # connects; not part of the figures
        for part in bar.track(parts, description="requests"):
            begin = time.perf_counter()
            prediction = client.predict(MODEL, part.columns)
            seconds.append(time.perf_counter() - begin)
            scores.append(prediction.outputs[OUTPUT])
    return Served(np.concatenate(scores), np.array(seconds))


def compare(labels: NDArray[np.float32], offline: NDArray[np.float32], served: Served) -> dict[str, Any]:
    """Show the offline and the served scores side by side; return the figures of the last line."""
    result = {
        "auc_offline": round(auc(labels, offline), 6),
        "auc_served": round(auc(labels, served.scores), 6),
        "max_abs_diff": float(np.abs(offline.astype(np.float64) - served.scores).max()),
        "predictions": len(served.scores),
        "shards": SHARDS,
        "p50_ms": round(served.percentile_ms(50), 3),
        "p99_ms": round(served.percentile_ms(99), 3),
    }
    table = Table(title="held-out ratings", title_justify="left")
    for column in ("", "torch", f"{SHARDS} shards, gRPC"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("AUC", f"{result['auc_offline']:.4f}", f"{result['auc_served']:.4f}")
    table.add_row("largest difference", "", f"{result['max_abs_diff']:.1e}")
    table.add_row("predictions", f"{len(offline):,}", f"{result['predictions']:,}")
    table.add_row(
        f"p50 / p99 of a request of {REQUEST_ROWS}", "", f"{result['p50_ms']:.1f} / {result['p99_ms']:.1f} ms"
    )
    console.print(table)
    return result


def write_request(examples: Examples) -> None:
    """Write a request to play with: one held-out user once, and ten items to score for that user."""
    user = examples.take(np.array([0]))
    items = examples.take(np.arange(10))
    request = {
        "context": {name: plain(user.columns[name])[0] for name in USER_FEATURES},
        "features": {name: plain(column) for name, column in items.columns.items() if name not in USER_FEATURES},
    }
    request["context"]["recent_items"] = [request["context"]["recent_items"]]
    (FOLDER / "request.json").write_text(json.dumps(request, indent=1), encoding="utf-8")


def plain(column: Any) -> list[Any]:
    """Return a column as JSON's lists: one entry per row."""
    if isinstance(column, Ragged):
        return [part.tolist() for part in np.split(column.values, column.offsets[1:-1])]
    return column.tolist()  # type: ignore[no-any-return]


def show_next(target: str) -> None:
    ringpull = commands.shown()
    console.print(f"\n[bold]The cluster is up[/] at {target}. Try:")
    for line in (
        f"{ringpull} predict {MODEL} --json-request {FOLDER}/request.json --timings",
        f"{ringpull} status",
        f"{ringpull} inspect {FOLDER}/{MODEL}",
        f"{ringpull} stop",
    ):
        console.print(f"  {line}", markup=False)


def end_last_demo() -> None:
    """Stop the cluster that this demo, or the last one, left up."""
    record = FOLDER / "target"
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not record.is_file():
        return
    try:
        commands.stop(record.read_text(encoding="utf-8"))
    except subprocess.CalledProcessError:
        console.print("(it was stopped already)")
    record.unlink()


def step(title: str) -> None:
    console.print(f"\n[bold]{title}[/]")


def progress(last_column: str) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn(last_column), console=console)


if __name__ == "__main__":
    main()

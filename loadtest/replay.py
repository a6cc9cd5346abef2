"""Recorded requests, from a file of one of two kinds.

**Requests**, `.jsonl`: one request per line, in the JSON that `ringpull predict --json-request` takes (the contract's
own JSON or the shorter form). A line's model must be the one under test, or absent.

**Pairs**, `.csv` or `.parquet`: one row per candidate, in the order of time, with a column per recorded feature
(`--replay-columns` names those called otherwise). Neighbouring rows with equal context columns are one request, cut at
`--candidates` rows. Features that were not recorded are made up by the seed, as in a workload without a recording.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final

from ringpull.inference.errors import InvalidInput
from ringpull.inference.schema.columns import Column
from ringpull.inference.wire.codec import PredictCall, as_call
from ringpull.inference.wire.request_json import call_from_json
from ringpull.loadtest.ids import typed
from ringpull.loadtest.workload import Workload

Row = Mapping[str, Any]

PARQUET_BATCH_ROWS: Final = 4096


def recorded_calls(path: Path, workload: Workload) -> Iterator[PredictCall]:
    """Yield the requests of a recording, in its order, once.

    Raises:
        InvalidInput: The file cannot be read, or does not fit the model; the message names file, and line or column.
    """
    try:
        match path.suffix:
            case ".jsonl":
                yield from _requests(path, workload)
            case ".csv":
                with path.open(newline="", encoding="utf-8-sig") as file:
                    yield from _pairs(path, csv.DictReader(file), workload)
            case ".parquet":
                yield from _pairs(path, _parquet_rows(path), workload)
            case _:
                raise InvalidInput(f"--replay {path}: must be .jsonl, .csv or .parquet")
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InvalidInput(f"--replay {path}: {exc}") from exc


def _requests(path: Path, workload: Workload) -> Iterator[PredictCall]:
    model = workload.model.name
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                call = call_from_json(line)
            except InvalidInput as exc:
                raise InvalidInput(f"--replay {path}, line {number}: {exc}") from exc
            if call.model not in ("", model):
                raise InvalidInput(f"--replay {path}, line {number}: for model {call.model}, not {model}")
            yield replace(call, model=model)


def _pairs(path: Path, rows: Iterator[Row], workload: Workload) -> Iterator[PredictCall]:
    first = next(rows, None)
    if first is None:
        return
    column_of = {name: workload.options.replay_columns.get(name, name) for name in workload.streams}
    for name, column in workload.options.replay_columns.items():
        if column not in first:
            raise InvalidInput(f"--replay-columns {name}={column}: {path} has the columns {', '.join(first)}")
    recorded = {name: column for name, column in column_of.items() if column in first}
    unfit = [name for name in recorded if (info := workload.streams[name].info).many or info.kind == "dense"]
    if unfit or not recorded:
        what = (
            f"{', '.join(unfit)}: only features of one id per row can be read from columns" if unfit else "no feature"
        )
        raise InvalidInput(f"--replay {path} has the columns {', '.join(first)}: {what} of model {workload.model.name}")
    context = [name for name in workload.context if name in recorded]

    def same_user(row: Row) -> tuple[Any, ...]:
        return tuple(row[recorded[name]] for name in context)

    for _, run in groupby(_chain(first, rows), same_user):
        while chunk := list(islice(run, workload.options.candidates)):
            yield as_call(
                workload.model.name,
                {name: _column(workload, name, chunk, recorded) for name in workload.candidate},
                {name: _column(workload, name, chunk[:1], recorded) for name in workload.context},
            )


def _column(workload: Workload, name: str, rows: Sequence[Row], recorded: Mapping[str, str]) -> Column:
    stream = workload.streams[name]
    if name not in recorded:
        return stream.column(len(rows))
    return typed(name, [row[recorded[name]] for row in rows], stream.info.dtype)


def _chain(first: Row, rows: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rows


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as exc:
        raise InvalidInput(f"--replay {path}: reading parquet needs pyarrow; pip install 'ringpull[loadtest]'") from exc
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_BATCH_ROWS):
                yield from batch.to_pylist()
    except ArrowException as exc:
        raise InvalidInput(f"--replay {path}: {exc}") from exc

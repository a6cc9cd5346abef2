"""A small model without torch: every kind of feature and look-up, tables as dictionaries, rows as Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ringpull.inference.head.frontends.grpc.decoding import decode_request
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.model.manifest import FileEntry, LookupSpec, Manifest, ProgramInput, ProgramOutput, TableEntry
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Cross, Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.ps.spec import Pooling, TableSpec
from tests.reference import ReferenceTable

Row = dict[str, Any]
"""Feature name -> its value in one row: a number, or a list of them."""

DIM = 3
IDS = 12
"""Raw ids are 0..IDS-1; every third is in no table."""

SCHEMA = Schema(
    [
        Sparse("user"),
        Sparse("item"),
        Sparse("genres", many=True, missing=()),
        Sparse("tags", many=True, weighted=True, missing=()),
        IdSequence("history", length=4, pad=0, pad_side="left", missing=()),
        IdSequence("recent", length=3, pad=9, missing=()),
        Dense("age", width=2, missing=1.5),
        Dense("price", missing=0.5),
        Cross("user_item", of=("user", "item"), buckets=IDS),
    ],
    stacks={"pair": ("user", "item"), "numbers": ("age", "price")},
)
LOOKUPS = (
    LookupSpec(table="users", feature="user", pooling=Pooling.NONE),
    LookupSpec(table="shared", feature="item", pooling=Pooling.SUM, add=100),
    LookupSpec(table="shared", feature="item", pooling=Pooling.SUM, padding_id=4),
    LookupSpec(table="genres", feature="genres", pooling=Pooling.MEAN, padding_id=0),
    LookupSpec(table="genres", feature="genres", pooling=Pooling.MAX),
    LookupSpec(table="tags", feature="tags", pooling=Pooling.SUM, padding_id=2, weighted=True),
    LookupSpec(table="shared", feature="history", pooling=Pooling.NONE, fill=(7.0, 8.0, 9.0)),
    LookupSpec(table="shared", feature="recent", pooling=Pooling.SUM, padding_id=9),
    LookupSpec(table="shared", feature="recent", pooling=Pooling.MEAN),
    LookupSpec(table="users", feature="user_item", pooling=Pooling.NONE),
)
ARGUMENTS = ("pair", "numbers", "history", "history_lengths", "age", "user")


def make_tables() -> dict[str, ReferenceTable]:
    rng = np.random.default_rng(5)
    keys = np.array([key for key in [*range(IDS), *range(100, 100 + IDS)] if key % 3])
    return {
        name: ReferenceTable.from_arrays(
            keys, rng.normal(size=(len(keys), DIM)).astype(np.float32), rng.normal(size=DIM).astype(np.float32)
        )
        for name in ("users", "shared", "genres", "tags")
    }


def make_manifest(lookups: Sequence[LookupSpec] = LOOKUPS, arguments: Sequence[str] = ARGUMENTS) -> Manifest:
    nothing = FileEntry(path="x", bytes=0, xxh3="0" * 16)
    return Manifest(
        model="ranker",
        version=3,
        created="2026-01-01T00:00:00Z",
        schema=nothing,
        program=nothing,
        tables=tuple(
            TableEntry(
                spec=TableSpec(name=name, dim=DIM, default=tuple(table.default.tolist())), path=name, rows=IDS, bytes=1
            )
            for name, table in make_tables().items()
        ),
        lookups=tuple(lookups),
        inputs=(
            *(ProgramInput(kind="lookup", lookup=place) for place in range(len(lookups))),
            *(ProgramInput(kind="argument", argument=name) for name in arguments),
        ),
        outputs=tuple(
            ProgramOutput(name=f"input{place}", shape=(DIM,)) for place in range(len(lookups) + len(arguments))
        ),
    )


def columns_of(rows: Sequence[Row], names: Sequence[str] | None = None) -> dict[str, Column]:
    """The rows as columns, ragged where lists."""
    columns: dict[str, Column] = {}
    for name in names if names is not None else rows[0]:
        values = [row[name] for row in rows]
        if name == "tags":
            flat = Ragged.from_lists([[tag for tag, _ in value] for value in values], np.int64)
            weights = np.array([weight for value in values for _, weight in value], np.float32)
            columns[name] = replace(flat, weights=weights)
        elif isinstance(values[0], list) and name != "age":
            columns[name] = Ragged.from_lists(values, np.int64)
        else:
            columns[name] = np.array(values, np.float32 if name in ("age", "price") else np.int64)
    return columns


def plain_row(user: int, item: int) -> Row:
    return {
        "user": user,
        "item": item,
        "genres": [1, 2],
        "tags": [(1, 0.5)],
        "history": [5],
        "recent": [],
        "age": [1.0, 2.0],
        "price": 3.0,
    }


def received_of(features: Mapping[str, Column], context: Mapping[str, Column] | None = None) -> ReceivedColumns:
    """Columns as the head has them once they came over the wire."""
    sent = pb.PredictRequest.FromString(encode_request(as_call("ranker", features, context)).SerializeToString())
    return decode_request(sent, Limits(max_candidates=1_000, max_values_per_row=1_000)).columns

"""The arguments of a forward: each feature's own, and stacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import Cross, Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput

SCHEMA = Schema(
    [
        Sparse("user"),
        Sparse("item"),
        Cross("pair", of=("user", "item"), buckets=10),
        Sparse("tags", many=True, weighted=True),
        Sparse("words", many=True, include_last_offset=False),
        IdSequence("history", length=3),
        Dense("age"),
        Dense("vector", width=2),
    ],
    stacks={"ids": ["item", "pair", "user"], "numbers": ["vector", "age"]},
)
COLUMNS = {
    "user": np.array([1, 2]),
    "item": np.array([3, 4]),
    "tags": Ragged([5, 6, 7], [0, 1, 3], [0.5, 1, 2]),
    "words": Ragged([8, 9], [0, 0, 2]),
    "history": Ragged([1, 2, 3, 4], [0, 4, 4]),
    "age": np.array([30.0, 40.0]),
    "vector": np.array([[1.0, 2.0], [3.0, 4.0]]),
}


def test_all_arguments() -> None:
    prepared = SCHEMA.prepare(COLUMNS, 2)
    arguments = SCHEMA.arguments(prepared)
    assert list(arguments) == list(SCHEMA.argument_names())
    pair = arguments.pop("pair")
    assert arguments.pop("ids").tolist() == [[3, pair[0], 1], [4, pair[1], 2]]
    assert {name: values.tolist() for name, values in arguments.items()} == {
        "user": [1, 2],
        "item": [3, 4],
        "tags": [5, 6, 7],
        "tags_offsets": [0, 1, 3],
        "tags_weights": [0.5, 1, 2],
        "words": [8, 9],
        "words_offsets": [0, 0],
        "history": [[2, 3, 4], [0, 0, 0]],
        "history_lengths": [3, 0],
        "age": [[30], [40]],
        "vector": [[1, 2], [3, 4]],
        "numbers": [[1, 2, 30], [3, 4, 40]],
    }
    types = {
        argument.part: arguments[name].dtype for name, argument in SCHEMA.argument_names().items() if name in arguments
    }
    assert {part for part, dtype in types.items() if dtype == np.float32} == {"weights", "dense", "dense_stack"}
    assert {part for part, dtype in types.items() if dtype == np.int64} == set(types) - {
        "weights",
        "dense",
        "dense_stack",
    }


def test_only_the_arguments_asked_for() -> None:
    prepared = SCHEMA.prepare(COLUMNS, 2)
    assert list(SCHEMA.arguments(prepared, ["numbers", "user"])) == ["numbers", "user"]
    with pytest.raises(InvalidInput, match="argument hours: the schema makes no such argument; it makes user, item"):
        SCHEMA.arguments(prepared, ["hours"])


def test_they_fit_torchs_embedding_bag() -> None:
    """The offsets are as `nn.EmbeddingBag` wants them, with and without the last one."""
    arguments = SCHEMA.arguments(SCHEMA.prepare(COLUMNS, 2))
    ids = {name: torch.from_numpy(values) for name, values in arguments.items()}
    table = torch.arange(10.0)[:, None]
    tags = torch.nn.EmbeddingBag.from_pretrained(table, mode="sum", include_last_offset=True)
    assert tags(ids["tags"], ids["tags_offsets"], ids["tags_weights"]).tolist() == [[2.5], [20]]
    words = torch.nn.EmbeddingBag.from_pretrained(table, mode="mean")
    assert words(ids["words"], ids["words_offsets"]).tolist() == [[0], [8.5]]

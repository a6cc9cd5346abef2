"""What the Open Inference Protocol's clients are answered by a head over real shards: the module's own predictions, and
the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from ringpull import BytesRows, export_tables
from ringpull.inference.head.frontends.oip.messages import ModelInferResponse
from ringpull.inference.schema.columns import Column, Ragged
from tests.inference.oip.requests import INFER, infer_request, outputs_of
from tests.integration.local import LocalCluster, local_cluster
from tests.integration.ranker import Ranker, offline, random_columns, repeated
from tests.reference import assert_close

pytestmark = [pytest.mark.net, pytest.mark.medium]

Exported = tuple[Ranker, Path]


def tensors_of(columns: Mapping[str, Column]) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        if not isinstance(column, Ragged):
            tensors[name] = column.astype(object) if column.dtype.kind == "U" else column
            continue
        tensors |= {name: column.values, f"{name}_offsets": column.offsets}
        if column.weights is not None:
            tensors[f"{name}_weights"] = column.weights
    return tensors


def infer(cluster: LocalCluster, tensors: Mapping[str, NDArray[Any]], model: str = "ranker") -> Any:
    with grpc.insecure_channel(cluster.target) as channel:
        sent = infer_request(tensors, model_name=model).SerializeToString()
        return ModelInferResponse.FromString(channel.unary_unary(INFER)(sent, timeout=60))


def test_predictions_equal_the_modules_own(exported: Exported) -> None:
    module, folder = exported
    rng = np.random.default_rng(8)
    with local_cluster([folder], shards=3) as cluster:
        for rows in (1, 2, 33, 200):
            columns = random_columns(rng, rows)
            context = {name: column for name, column in random_columns(rng, 1).items() if name in ("user", "town")}
            own = {name: column for name, column in columns.items() if name not in context}
            for sent, meant in ((columns, columns), ({**own, **context}, {**own, **repeated(context, rows)})):
                found = outputs_of(infer(cluster, tensors_of(sent)))
                expected = offline(module, meant, rows)
                assert found.keys() == expected.keys()
                for name, values in expected.items():
                    assert_close(found[name], values)


def test_rows_of_bytes_are_those_of_the_table(tmp_path: Path) -> None:
    rows = BytesRows.of([b'{"items": [1, 2]}', b"", bytes(range(256))])
    folder = export_tables({"recent": (np.array([5, 6, -7]), rows)}, tmp_path / "feed", 1, quiet=True).path
    keys = np.array([6, -7, 8, 5])
    with local_cluster([folder], shards=2) as cluster:
        reply = infer(cluster, {"KEYS": keys}, "feed.recent")
        assert [(each.name, each.datatype, list(each.shape)) for each in reply.outputs] == [
            ("ROWS", "BYTES", [4]),
            ("FOUND", "BOOL", [4]),
        ]
        expected = [b"", bytes(range(256)), b"", b'{"items": [1, 2]}']
        assert reply.raw_output_contents[0] == b"".join(len(row).to_bytes(4, "little") + row for row in expected)
        assert [*reply.raw_output_contents[1]] == [1, 1, 0, 1]

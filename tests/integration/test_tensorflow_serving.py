"""What TensorFlow Serving's clients are answered by a head over real shards equals the module's own predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from ringpull import export_tables
from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.schema.columns import Column
from tests.inference.tfs.tensors import tensors
from tests.inference.tfs.tfs_served import METHODS
from tests.integration.local import LocalCluster, local_cluster
from tests.integration.ranker import Ranker, offline, random_columns, repeated
from tests.reference import assert_close

pytestmark = [pytest.mark.net, pytest.mark.medium]

Exported = tuple[Ranker, Path]


def call(cluster: LocalCluster, method: str, **fields: Any) -> Any:
    descriptor, path = METHODS[method]
    request = messages.POOL.message(descriptor.input_type.full_name)(**fields)
    with grpc.insecure_channel(cluster.target) as channel:
        reply = channel.unary_unary(path)(request.SerializeToString(), timeout=60)
    return messages.POOL.message(descriptor.output_type.full_name).FromString(reply)


def predicted(cluster: LocalCluster, columns: Mapping[str, Column]) -> dict[str, Any]:
    reply = call(cluster, "Predict", model_spec={"name": "ranker"}, inputs=tensors(columns))
    assert reply.model_spec.version.value == 1
    return {
        name: np.array(each.float_val, np.float32).reshape([dim.size for dim in each.tensor_shape.dim])
        for name, each in reply.outputs.items()
    }


def test_predictions_equal_the_modules_own(exported: Exported) -> None:
    module, folder = exported
    rng = np.random.default_rng(8)
    with local_cluster([folder], shards=3) as cluster:
        for rows in (1, 2, 33, 200):
            columns = random_columns(rng, rows)
            found, expected = predicted(cluster, columns), offline(module, columns, rows)
            assert found.keys() == expected.keys()
            for name, values in expected.items():
                assert_close(found[name], values)
            context = {name: column for name, column in random_columns(rng, 1).items() if name in ("user", "town")}
            own = {name: column for name, column in columns.items() if name not in context}
            found = predicted(cluster, {**own, **context})
            for name, values in offline(module, {**own, **repeated(context, rows)}, rows).items():
                assert_close(found[name], values)


def test_a_version_of_tables_alone_predicts_nothing(tmp_path: Path) -> None:
    rows = np.ones((2, 3), np.float32)
    folder = export_tables({"t": (np.array([1, 2]), rows)}, tmp_path / "feed", 1, quiet=True).path
    with local_cluster([folder]) as cluster:
        for method in ("Predict", "Classify", "Regress"):
            with pytest.raises(grpc.RpcError, match="predicts nothing") as caught:
                call(cluster, method, model_spec={"name": "feed"})
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        asked = {"model_spec": {"name": "feed"}, "metadata_field": ["signature_def"]}
        found = messages.SignatureDefMap()
        assert call(cluster, "GetModelMetadata", **asked).metadata["signature_def"].Unpack(found)
        assert [(name, len(each.outputs)) for name, each in found.signature_def.items()] == [("serving_default", 0)]
        assert len(call(cluster, "GetModelStatus", model_spec={"name": "feed"}).model_version_status) == 1

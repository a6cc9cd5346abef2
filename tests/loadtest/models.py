"""Descriptions of models as a head gives them, and the workloads made of them."""

from __future__ import annotations

from itertools import islice

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import PredictCall
from ringpull.loadtest.options import WorkloadOptions
from ringpull.loadtest.workload import Workload

ROWS = 1000
MODEL = pb.Model(
    name="ranker",
    version=3,
    features=[
        pb.FeatureInfo(name="user_id", kind="sparse", dtype=pb.INT64),
        pb.FeatureInfo(name="item_id", kind="sparse", dtype=pb.UINT64),
        pb.FeatureInfo(name="town", kind="sparse", dtype=pb.STRING),
        pb.FeatureInfo(name="liked", kind="sparse", dtype=pb.INT64, many=True, weighted=True),
        pb.FeatureInfo(name="history", kind="sequence", dtype=pb.INT64, many=True, max_length=4),
        pb.FeatureInfo(name="age", kind="dense", dtype=pb.FLOAT32, width=1),
        pb.FeatureInfo(name="price", kind="dense", dtype=pb.FLOAT32, width=2),
    ],
    tables=[
        pb.TableInfo(name="users", rows=50, features=["user_id"]),
        pb.TableInfo(name="items", rows=ROWS, features=["item_id", "liked", "history"]),
        pb.TableInfo(name="more_items", rows=2 * ROWS, features=["liked"]),
    ],
)


def calls(count: int, options: WorkloadOptions) -> list[PredictCall]:
    """Return the first requests of a workload."""
    return list(islice(Workload(MODEL, options).calls(), count))

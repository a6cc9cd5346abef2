"""Deployments as a head tells of them, for the page: one that is busy, and one with names that would be HTML."""

from __future__ import annotations

import math
import time
from random import Random

from ringpull.inference.head.frontends.deployment_status import change_status, ring_status
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.ring import Ring
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.head_counts import STEP_S, STEPS
from ringpull.router.control.operations import ChangeStatus, Latency

HOSTILE = "<img src=x onerror=\"document.title='pwned'\">"

MIB = 1 << 20

FEATURES = (
    pb.FeatureInfo(name="user_id", kind="sparse", dtype=pb.INT64),
    pb.FeatureInfo(name="item_id", kind="sparse", dtype=pb.INT64),
    pb.FeatureInfo(name="history", kind="sequence", dtype=pb.INT64, many=True, weighted=True, optional=True),
    pb.FeatureInfo(name="genres", kind="sparse", dtype=pb.STRING, many=True),
    pb.FeatureInfo(name="price", kind="dense", dtype=pb.FLOAT32),
    pb.FeatureInfo(name="vector", kind="dense", dtype=pb.FLOAT32, width=3),
)


def ring_of(shards: int) -> Ring:
    """Return a ring that has grown from three shards to so many."""
    ring = Ring.even(range(min(3, shards)))
    for shard in range(3, shards):
        ring = ring.join(shard)
    return ring


def busy(shards: int = 3, *, now_s: float | None = None) -> pb.ClusterStatus:
    """Return a deployment of two models over some shards and two heads, with traffic that comes and goes."""
    ring = ring_of(shards)
    status = pb.ClusterStatus(
        head="10.0.0.5:8500",
        epoch=2 * shards,
        ring=ring_status(ring),
        requests=48_213_077,
        failed=112,
        uptime_s=93_847,
        device="cpu",
        server_version="0.9.0",
        leader=pb.Leader(term=3, leads=True, heard_s=0.2),
        live={"ranker": 7, "retrieval": 12},
        change=pb.ChangeStatus(id=4),
    )
    for shard in range(shards):
        share = sum(len(each.slots) for each in ring.ranges if each.owners[0] == shard) / 65536
        status.shards.add(
            shard=shard,
            address=f"10.0.0.{10 + shard}:7010",
            alive=True,
            epoch=2 * shards,
            share=share,
            requests=150_000_000 + 7_000_000 * shard,
        ).tables.add(model="ranker", version=7, table="item", rows=int(2.4e9 * share), bytes=int(310_000 * share) * MIB)
    for head in range(2):
        status.heads.add(
            head=head,
            address=f"10.0.0.{5 + head}:8500",
            http=f"10.0.0.{5 + head}:8501",
            alive=True,
            heard_s=0.3 * head,
            requests=24_000_000 + 213_077 * (1 - head),
            failed=56,
        )
    _add_models(status)
    for name, scale in (("", 1.0), ("ranker", 0.7), ("retrieval", 0.3)):
        status.recent.append(traffic(name, scale, time.time() if now_s is None else now_s))
    return status


def _add_models(status: pb.ClusterStatus) -> None:
    outputs = [pb.OutputInfo(name="score"), pb.OutputInfo(name="embedding", shape=[16])]
    for version in (6, 7):
        status.models.add(name="ranker", version=version, versions=[6, 7], features=FEATURES, outputs=outputs)
    status.models.add(
        name="retrieval",
        version=12,
        versions=[12],
        features=[pb.FeatureInfo(name="user_id", kind="sparse", dtype=pb.INT64)],
        outputs=[pb.OutputInfo(name="score")],
    )
    tables = (("ranker", 7, "item", 2_400_000_000, 310_000, "2", 2), ("ranker", 7, "user", 96_000_000, 12_000, "2", 2))
    for model, version, table, rows, mib, wanted, effective in (
        *tables,
        ("ranker", 7, "genre", 19, 1, "all", len(status.shards)),
        ("retrieval", 12, "user", 96_000_000, 12_000, "1", 1),
    ):
        status.tables.add(
            model=model,
            version=version,
            table=table,
            rows=rows,
            bytes=mib * MIB,
            dim=64,
            replicas_wanted=wanted,
            replicas_effective=effective,
            keys=rows * 3 + 991,
            missing=rows // 90,
            keys_per_s=rows**0.5 * 12,
            missing_per_s=rows**0.5 / 8,
        )


def traffic(model: str, scale: float, now_s: float) -> pb.RecentStatus:
    """Return 15 minutes of traffic with a swell, some failures, and a slow moment."""
    random, newest = Random(model), int(now_s) // STEP_S
    recent = pb.RecentStatus(model=model, requests_per_s=900 * scale, p50_ms=2.1, p99_ms=7.6)
    recent.begin_s = (newest - STEPS + 1) * STEP_S
    recent.step_s, recent.last_step_s = STEP_S, now_s % STEP_S
    for place in range(STEPS):
        swell = 800 + 260 * math.sin(place / 9) + 60 * random.random()
        slow = 1 + 3.2 * math.exp(-((place - 41) ** 2) / 6)
        requests = int(swell * scale * (STEP_S if place < STEPS - 1 else recent.last_step_s))
        failed = int(requests * 0.06) if 39 <= place <= 42 else 0
        recent.steps.requests.append(requests)
        recent.steps.failed.append(failed)
        recent.steps.p50_ms.append((1.9 + 0.3 * random.random()) * slow**0.4)
        recent.steps.p99_ms.append((5.8 + 1.4 * random.random()) * slow)
        recent.requests += requests
        recent.failed += failed
    return recent


def growing(done: float = 0.62) -> pb.ClusterStatus:
    """Return the deployment while it grows from three shards to four."""
    status = busy(3)
    status.next_ring.CopyFrom(ring_status(ring_of(4)))
    to_copy = 77_500 * MIB
    change = ChangeStatus(
        id=5,
        kind=Kind.REBALANCE,
        subject="shards 3 -> 4",
        phase=Phase.PREPARING,
        members_done=3,
        members=4,
        copied_bytes=int(done * to_copy),
        bytes_to_copy=to_copy,
        before=Latency(2.0, 7.1),
        now=Latency(2.1, 7.9),
    )
    status.change.CopyFrom(change_status(change))
    return status


def hostile() -> pb.ClusterStatus:
    """Return a deployment in which everything that has a name is called by what would be an element of HTML."""
    status = busy(3)
    status.warnings.append(f"shard 1: {HOSTILE}")
    status.head = status.device = status.server_version = HOSTILE
    for model in status.models:
        model.name = HOSTILE
        model.features[0].name = HOSTILE
        model.outputs[0].name = HOSTILE
    status.live[HOSTILE] = 7
    for table in status.tables:
        table.table = HOSTILE
    for head in status.heads:
        head.address = HOSTILE
    for recent in status.recent[1:]:
        recent.model = HOSTILE
    status.shards[0].alive, status.shards[0].error = False, HOSTILE
    status.change.CopyFrom(growing().change)
    status.change.subject = status.change.trouble = HOSTILE
    return status

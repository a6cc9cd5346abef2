"""Names of a deployment's actors, and the GPUs its heads ask for."""

from __future__ import annotations

import pytest

from deploy.cluster.staff import ShardSettings, Staff, gpus_wanted
from inference.head.config import HeadConfig


def test_names() -> None:
    shard = ShardSettings(threads=1, prefault=False, verify=False, data_dir=None, data_limit_bytes=None)
    staff = Staff(
        name="mine",
        shard_host=None,
        head_host=None,
        shard=shard,
        head=HeadConfig(),
        heads=1,
        gpus=0,
        keep=1,
        start_timeout_s=1,
    )
    assert [staff.shard_name(3), staff.head_name(0), staff.coordinator_name] == [
        "mine/shard-3",
        "mine/head-0",
        "mine/coordinator",
    ]


@pytest.mark.parametrize(
    ("device", "heads", "gpus"),
    [("cpu", 1, 0), (None, 1, 1), ("cuda", 1, 1), ("cuda:0", 2, 0.5), ("cuda:1", 1, 2), ("cuda:3", 2, 4)],
)
def test_a_device_is_among_the_gpus_asked_for(device: str | None, heads: int, gpus: float) -> None:
    assert gpus_wanted(device, heads) == gpus

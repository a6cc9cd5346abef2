"""A deployment's staff with nothing said but what a test is about."""

from __future__ import annotations

from ringpull.deploy.cluster.staff import ShardSettings, Staff
from ringpull.inference.head.config import HeadConfig


def make_staff(*, gpus: float = 0) -> Staff:
    """One head with its defaults, and shards that keep no copies."""
    return Staff(
        name="mine",
        shard_host=None,
        head_host=None,
        shard=ShardSettings(threads=1, prefault=False, verify=False, data_dir=None, data_limit_bytes=None),
        head=HeadConfig(),
        heads=1,
        gpus=gpus,
        keep=1,
        start_timeout_s=1,
    )

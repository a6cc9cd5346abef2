"""A deployment's actor spec with nothing said but what a test is about."""

from __future__ import annotations

from ringpull.deploy.cluster.actor_spec import ActorSpec, ShardSettings
from ringpull.inference.head.config import HeadConfig


def make_actor_spec(*, gpus: float = 0) -> ActorSpec:
    """One head with its defaults, and shards that keep no copies."""
    return ActorSpec(
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

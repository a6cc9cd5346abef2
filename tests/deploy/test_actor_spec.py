"""Names of a deployment's actors, and the GPUs its heads ask for."""

from __future__ import annotations

import pytest

from ringpull.deploy.cluster.actor_spec import gpus_wanted
from tests.deploy.actor_specs import make_actor_spec


def test_names() -> None:
    actor_spec = make_actor_spec()
    assert [actor_spec.shard_name(3), actor_spec.head_name(0), actor_spec.coordinator_name] == [
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

"""The settings of a deployment refuse what cannot work, naming the option."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest

from ringpull.deploy.config import ServeConfig
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import InvalidInput
from ringpull.router.control.deployment_spec import PlacedVersion

VERSION = PlacedVersion("ranker", 3, "/models/ranker/3", {})


def config(**changes: Any) -> ServeConfig:
    return ServeConfig(**{"versions": (VERSION,), "head": HeadConfig(), "state_dir": "/state", **changes})


def test_a_private_ray_is_the_default() -> None:
    assert config().private
    assert not config(address="auto").private
    assert config().model_names == ("ranker/3",)


def test_models_come_from_beside_those_that_are_served_or_from_the_roots_given() -> None:
    assert config().roots.roots == ("/models",)
    linked = PlacedVersion("ranker", 3, "/store/r1/3", {}, found_in="/releases/current")
    assert config(versions=(VERSION, linked)).roots.roots == ("/models", "/releases")
    assert config(models_root=("/a", "s3://bucket/b/")).roots.roots == ("/a", "s3://bucket/b")
    with pytest.raises(InvalidInput, match="--models-root is 'a'"):
        config(models_root=("a",))


def test_two_free_ports_do_not_clash() -> None:
    assert config(head=HeadConfig(grpc_port=0, http_port=0)).head.grpc_port == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": ()}, "at least one model folder"),
        ({"shards": 0}, "--shards is 0; it must be from 1 to 1024"),
        ({"shards": 5000}, "--shards is 5000"),
        ({"head": HeadConfig(grpc_port=8500, http_port=8500)}, "--grpc-port and --http-port are both 8500"),
        ({"heads": 0}, "--heads is 0; it must be from 1 to 64"),
        ({"heads": 65}, "--heads is 65; it must be from 1 to 64"),
        ({"heads": 2, "address": "auto"}, "--heads above 1 with --address needs"),
        ({"keep": -1}, "--keep is -1"),
        ({"data_limit_bytes": 1}, "--data-limit goes with --data-dir"),
        ({"shard_threads": 0}, "--shard-threads"),
        ({"start_timeout_s": 0}, "--start-timeout"),
        ({"start_timeout_s": nan}, "--start-timeout is nan"),
        ({"start_timeout_s": inf}, "--start-timeout is inf"),
        ({"drain_timeout_s": -1}, "--drain-timeout"),
        ({"drain_timeout_s": nan}, "--drain-timeout is nan"),
        ({"name": "../other"}, "--name"),
        ({"ship_code": True}, "--ship-code goes with --address"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        config(**changes)


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "CPU", ""])
def test_a_device_that_is_none_is_refused_before_anything_starts(device: str) -> None:
    with pytest.raises(InvalidInput, match=f"device is '{device}'; it must be 'cpu', 'cuda' or 'cuda:NUMBER'"):
        HeadConfig(device=device)


def test_devices() -> None:
    assert [HeadConfig(device=device).device for device in ("cpu", "cuda:1", None)] == ["cpu", "cuda:1", None]


def test_threads_of_the_dense_program(serve: Callable[..., Any]) -> None:
    for given, expected in (("auto", None), (1, 1), (16, 16)):
        assert serve("--dense-threads", given).config.head.dense_threads == expected
    assert serve().config.head.dense_threads == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("AUTO", "--dense-threads is 'AUTO'; it must be a number of 1 or more, or auto"),
        ("1.5", "--dense-threads is '1.5'; it must be a number of 1 or more, or auto"),
        ("", "--dense-threads is ''; it must be a number of 1 or more, or auto"),
        ("0", "--dense-threads is 0; it must be 1 or more"),
    ],
)
def test_threads_that_cannot_be_are_refused(serve: Callable[..., Any], given: str, message: str) -> None:
    said = serve("--dense-threads", given)
    assert said.config is None
    assert message in said.err

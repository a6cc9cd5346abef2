"""The cluster configurations that people start from: Ray takes them, and they say what must not be left to defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import ringpull.deploy

FOLDER = Path(ringpull.deploy.__file__).parent
CONFIGS = sorted(FOLDER.glob("cluster-*.yaml"))


def load(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


def test_there_is_one_for_aws_and_one_for_own_machines() -> None:
    assert [path.name for path in CONFIGS] == ["cluster-aws.yaml", "cluster-local.yaml"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
class TestEachConfig:
    def test_passes_rays_own_validation(self, path: Path) -> None:
        validate_config(prepare_config(load(path)))

    def test_says_the_authentication_mode_wherever_ray_is_started(self, path: Path) -> None:
        config = load(path)
        starts = [
            command
            for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"])
            for command in commands
            if "ray start" in command
        ]
        assert len(starts) == 2
        assert all("RAY_AUTH_MODE=token" in command for command in starts)
        assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"

    def test_brings_the_package_and_leaves_out_what_a_checkout_gathers(self, path: Path) -> None:
        config = load(path)
        assert config["file_mounts"]["~/ringpull"] == "."
        assert {".git", ".venv", "runs", "build"} <= set(config["rsync_exclude"])

    def test_installs_what_it_has_copied_every_time(self, path: Path) -> None:
        """Not only where nothing is installed: then new code would be copied and not used."""
        [install] = [command for command in load(path)["setup_commands"] if "pip install" in command]
        assert install.startswith("rm -rf ~/ringpull/build && ~/ringpull-venv/bin/pip install --quiet ~/ringpull")


def test_a_machine_joins_by_hand_as_the_file_has_workers_join() -> None:
    """The README's line says all of it: a node that lacks the timeout takes its shards down when the GCS is away."""
    config = load(FOLDER / "cluster-local.yaml")
    [start] = [command for command in config["worker_start_ray_commands"] if "ray start" in command]
    [by_hand] = re.findall(r"^ulimit .*ray start .*$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert by_hand.replace("~/ringpull-venv/bin/", "").replace("RAY_HEAD:", "$RAY_HEAD_IP:") == start


def test_aws_has_nodes_for_shards_and_for_heads() -> None:
    config = load(FOLDER / "cluster-aws.yaml")
    types = config["available_node_types"]
    assert types["ringpull.shards"]["node_config"]["InstanceType"].startswith("r")
    assert types["ringpull.heads"]["node_config"]["InstanceType"].startswith("g")
    assert all(0 < types[name]["min_workers"] < types[name]["max_workers"] for name in types if name != "ray.head")
    assert config["max_workers"] == sum(each.get("max_workers", 0) for each in types.values())

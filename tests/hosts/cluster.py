"""`ray up` on hosts made by the test, with `deploy/cluster-local.yaml` as people use it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

import ringpull.deploy
from ringpull.deploy.cluster.ray_session import CODE_ROOT
from tests.hosts.namespaces import Host, Hosts

CONFIG = Path(ringpull.deploy.__file__).parent / "cluster-local.yaml"
README = CONFIG.with_name("README.md")
BIN = Path(sys.prefix) / "bin"
CODE = CODE_ROOT

COUNT_NODES = """
import ray
ray.init(address="auto", logging_level=40)
print("alive", sum(node["Alive"] for node in ray.nodes()))
"""


class RayHosts:
    """Hosts that `ray up` has made a cluster of; the first is Ray's head node."""

    def __init__(self, hosts: Hosts, config: Path) -> None:
        self._hosts = hosts
        self._config = config

    @property
    def hosts(self) -> list[Host]:
        return self._hosts.hosts

    @property
    def operator(self) -> Host:
        return self._hosts.operator

    def cut_off(self, host: Host) -> None:
        self._hosts.cut_off(host)

    def bring_back(self, host: Host) -> None:
        self._hosts.bring_back(host)

    def add(self, host: Host) -> None:
        """Join one more host to the cluster that is up, as deploy/README.md says: the token, then `ray start`."""
        token = self.operator.run("bash", "-c", "cat ~/.ray/auth_token").stdout
        [line] = re.findall(r"^ulimit .*ray start .*RAY_HEAD.*$", README.read_text(), re.MULTILINE)
        join = line.replace("RAY_HEAD", self.hosts[0].address)
        self._ssh(host, f"mkdir -p ~/.ray; cat > ~/.ray/auth_token; {join}", given=token)
        self.await_nodes(self.hosts.index(host) + 1)

    def up(self, workers: int) -> None:
        """`ray up` with the first `workers` hosts after Ray's head node, and wait until all of them have joined."""
        config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
        addresses = [host.address for host in self.hosts]
        config["provider"] |= {"head_ip": addresses[0], "worker_ips": addresses[1 : workers + 1]}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(self._hosts.key)}
        # The hosts see the checkout and the virtual environment of the test: nothing needs copying or installing.
        del config["file_mounts"]["~/ringpull"]
        config["setup_commands"] = [each for each in config["setup_commands"] if "pip install" not in each]
        # A host says in a file what a machine with a GPU would be seen to have.
        config["worker_start_ray_commands"] = [
            command.replace("ray start", "ray start $(cat ~/resources 2> /dev/null)")
            for command in config["worker_start_ray_commands"]
        ]
        self._config.write_text(yaml.safe_dump(config))
        self.ray("up", "--yes", "--no-config-cache", str(self._config))
        self.await_nodes(workers + 1)

    def down(self) -> None:
        """`ray down`, which ends Ray on its head node; then the others, as deploy/README.md says."""
        self.ray("down", "--yes", str(self._config))
        for host in self.hosts[1:]:
            self._ssh(host, "~/ringpull-venv/bin/ray stop")

    def _ssh(self, host: Host, command: str, *, given: str = "") -> None:
        """Run a command on a host from the operator's machine, the way an operator would."""
        ssh = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "-i", str(self._hosts.key)]
        self.operator.run(*ssh, f"root@{host.address}", command, given=given)

    def ray(self, *arguments: str) -> str:
        """Run a `ray` command on the operator's machine."""
        return self.operator.run(str(BIN / "ray"), *arguments).stdout

    def ringpull(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `ringpull` command on Ray's head node, the way `ray exec` would."""
        return self.hosts[0].run("bash", "-lic", shlex.join(["ringpull", *map(str, arguments)]), check=check)

    def await_nodes(self, count: int) -> None:
        """Wait until Ray counts so many nodes."""
        for _ in range(120):
            said = self.hosts[0].run("env", "RAY_AUTH_MODE=token", sys.executable, "-c", COUNT_NODES, check=False)
            if f"alive {count}\n" in said.stdout:
                return
            time.sleep(1)
        raise AssertionError(f"{count} nodes were awaited: {said.stdout}{said.stderr}")


@contextmanager
def ray_hosts(count: int, folder: Path, seen: list[Path]) -> Iterator[RayHosts]:
    """Make `count` hosts with the environment of this test in place, ready for `up`."""
    with Hosts(count, folder, [Path(sys.prefix), CODE, *seen]) as hosts:
        for host in hosts.hosts:
            # What the configuration's setup commands would make is there already.
            host.run("bash", "-c", f"ln -s {sys.prefix} ~/ringpull-venv")
        cluster = RayHosts(hosts, folder / "cluster.yaml")
        cluster.ray("get-auth-token", "--generate")
        yield cluster

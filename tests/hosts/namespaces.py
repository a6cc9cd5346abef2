"""Hosts on one machine: network, PID and mount namespaces that the test makes and takes away.

Every host has its own address on a bridge, its own processes (Ray's `stop` scans for processes by name), its own
/tmp, /dev/shm and home, and an sshd. The bridge lies in the namespace of the operator: the machine where `ray up` is
typed. Nothing is added to the network of the machine that runs the tests. Needs root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

NETWORK: Final = "10.77.0"
OPERATOR_ADDRESS: Final = f"{NETWORK}.254"

NEEDED: Final = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "rsync")

_MAKE_HOST: Final = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/home-above /mnt/home-work /mnt/tmp
chmod 1777 /mnt/tmp
mount -t overlay overlay -o lowerdir="$HOME",upperdir=/mnt/home-above,workdir=/mnt/home-work "$HOME"
for seen in $SEEN; do
    case "$seen" in /tmp/*) mkdir -p "/mnt$seen"; mount --bind "$seen" "/mnt$seen";; esac
done
mount --rbind /mnt/tmp /tmp
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/sshd
cd /
hostname "$NAME"
exec "$@"
"""


def missing() -> str:
    """Return why hosts cannot be made here; empty: they can."""
    if os.geteuid() != 0:
        return "hosts are network namespaces; making them needs root"
    absent = [name for name in NEEDED if _found(name) is None]
    return f"not installed: {', '.join(absent)} (Debian: openssh-server, rsync, iproute2, util-linux)" if absent else ""


@dataclass(frozen=True, slots=True)
class Host:
    """One host: its name, its address, and its first process, whose namespaces are the host's."""

    name: str
    address: str
    init: subprocess.Popen[bytes]

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs `arguments` on this host."""
        [child] = Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children").read_text().split()
        return ["nsenter", "--target", child, "--mount", "--net", "--pid", "--uts", "--", *arguments]

    def run(self, *arguments: str, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on this host to its end.

        Args:
            given: Its standard input.
            check: Fail when it fails.
        """
        done = subprocess.run(
            self.command(*arguments), input=given, capture_output=True, text=True, check=False, env=_environment()
        )
        assert not check or done.returncode == 0, f"{self.name}: {arguments}\n{done.stdout}\n{done.stderr}"
        return done


class Hosts:
    """An operator's machine and hosts it reaches by ssh, as a context; leaving it ends every process on them.

    Args:
        count: Hosts, named host1, host2, ... at NETWORK.1, NETWORK.2, ...
        folder: Of the keys and configurations made here.
        seen: Folders below /tmp that all hosts see, as a shared file system; others below /tmp they do not.
    """

    def __init__(self, count: int, folder: Path, seen: Sequence[Path] = ()) -> None:
        self._count = count
        self._folder = folder
        self._seen = " ".join(str(path) for path in (*seen, folder))
        self._tag = secrets.token_hex(3)
        self._cleanup = ExitStack()
        self.key = folder / "key"
        self.hosts: list[Host] = []
        self.operator: Host

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._host_key)], check=True)
            shutil.copy(self.key.with_suffix(".pub"), self._folder / "authorized_keys")
            (self._folder / "sshd_config").write_text(
                f"HostKey {self._host_key}\nAuthorizedKeysFile {self._folder / 'authorized_keys'}\n"
                "PermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nPidFile none\n"
                "MaxSessions 50\nMaxStartups 50\n"
            )
            operator_net = self._namespace(cleanup, "operator")
            _ip(operator_net, "link", "add", "bridge", "type", "bridge")
            _ip(operator_net, "addr", "add", f"{OPERATOR_ADDRESS}/24", "dev", "bridge")
            _ip(operator_net, "link", "set", "bridge", "up")
            self.operator = self._host(cleanup, "operator", operator_net, OPERATOR_ADDRESS, ["sleep", "infinity"])
            sshd = [str(_found("sshd")), "-D", "-e", "-f", str(self._folder / "sshd_config")]
            for number in range(1, self._count + 1):
                name, address = f"host{number}", f"{NETWORK}.{number}"
                net = self._namespace(cleanup, name)
                port = f"port{number}"
                _ip(operator_net, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", net)
                _ip(operator_net, "link", "set", port, "master", "bridge", "up")
                _ip(net, "addr", "add", f"{address}/24", "dev", "eth0")
                _ip(net, "link", "set", "eth0", "up")
                # Ray learns its own address from the route to the world outside; there is none behind this one.
                _ip(net, "route", "add", "default", "via", OPERATOR_ADDRESS)
                self.hosts.append(self._host(cleanup, name, net, address, sshd))
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def cut_off(self, host: Host) -> None:
        """Pull the host's cable."""
        _ip(f"{self._tag}-operator", "link", "set", f"port{self.hosts.index(host) + 1}", "down")

    def bring_back(self, host: Host) -> None:
        """Put the host's cable back in."""
        _ip(f"{self._tag}-operator", "link", "set", f"port{self.hosts.index(host) + 1}", "up")

    @property
    def _host_key(self) -> Path:
        return self._folder / "host_key"

    def _namespace(self, cleanup: ExitStack, name: str) -> str:
        full = f"{self._tag}-{name}"
        subprocess.run(["ip", "netns", "add", full], check=True)
        cleanup.callback(subprocess.run, ["ip", "netns", "del", full], check=True)
        _ip(full, "link", "set", "lo", "up")
        return full

    def _host(self, cleanup: ExitStack, name: str, net: str, address: str, command: Sequence[str]) -> Host:
        log = (self._folder / f"{name}.log").open("wb")
        cleanup.callback(log.close)
        init = subprocess.Popen(
            [
                *("ip", "netns", "exec", net),
                *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts"),
                *("bash", "-c", _MAKE_HOST, "host", *command),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment() | {"SEEN": self._seen, "NAME": name},
        )

        def end() -> None:
            # unshare takes the first process of the PID namespace with it, and that one all others.
            init.kill()
            init.wait()

        cleanup.callback(end)
        host = Host(name, address, init)
        _await_made(host, self._folder / f"{name}.log")
        return host


def _await_made(host: Host, log: Path) -> None:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        assert host.init.poll() is None, f"{host.name} was not made: {log.read_text()}"
        children = Path(f"/proc/{host.init.pid}/task/{host.init.pid}/children").read_text().split()
        if children and subprocess.run(
            [*host.command("hostname")], capture_output=True, text=True, check=False
        ).stdout.startswith(host.name):
            return
        time.sleep(0.05)
    raise AssertionError(f"{host.name} was not made: {log.read_text()}")


def _environment() -> dict[str, str]:
    """A login's environment: nothing of the test's own reaches the hosts."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYENV_ROOT") if name in os.environ}


def _found(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _ip(net: str, *arguments: str) -> None:
    subprocess.run(["ip", "-n", net, *arguments], check=True)

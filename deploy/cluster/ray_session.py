"""The Ray a deployment lives in: a private one, started and ended here, or a cluster that is joined.

A private Ray belongs to one deployment: no dashboard, a small object store (rows never travel through it), its own
temporary folder, and a token made for it, because Ray's ports listen on every interface. A joined cluster is left as
it was found; its authentication is the one its operator configured.

Ray is imported inside functions: it reads its authentication mode once, while it is loaded, so the environment comes
first.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import ringpull
from ringpull.deploy.cluster import control_store
from ringpull.deploy.cluster.actor_spec import NAMESPACE
from ringpull.deploy.signals import Interrupted
from ringpull.ps.errors import InvalidInput, StartupError

OBJECT_STORE_BYTES: Final = 80 << 20
"""Ray's minimum is 75 MiB."""

MAX_TEMPORARY_FOLDER: Final = 45
"""Characters: Ray puts sockets up to 62 characters below its folder, and a socket's path may have 107."""

CONNECT_TIMEOUT_S: Final = 5.0

CODE_ROOT: Final = Path(ringpull.__file__).resolve().parents[1]
"""The folder that holds the package, installed or checked out."""


class NoRay(StartupError):
    """Raised when nobody listens where a Ray cluster is to be joined: it has ended, or the address is another's."""


class RaySession:
    """A connection to Ray, as a context; leaving it disconnects, and ends a private Ray.

    Args:
        address: Cluster to join; None starts a private one.
        workers: Processes a private Ray should start at once, before anybody asks for them.
        ship_code: Send our packages to the other nodes of a joined cluster.
    """

    def __init__(self, address: str | None, *, workers: int = 1, ship_code: bool = False) -> None:
        self._address = address
        self._workers = workers
        self._ship_code = ship_code
        self._folder: Path | None = None
        self._begun = False

    @property
    def folder(self) -> Path | None:
        """The temporary folder of a private Ray, which goes with it; None with a joined one."""
        return self._folder

    def __enter__(self) -> Self:
        try:
            if self._address is None:
                self._start_private()
            else:
                self._join(self._address)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _start_private(self) -> None:
        os.environ.update(
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=secrets.token_hex(32),
            RAY_USAGE_STATS_ENABLED="0",
            **{control_store.AWAY: control_store.away_text()},
            # Ray runs workers at niceness 15, behind everything else on the machine; these serve requests.
            RAY_worker_niceness="0",
            # Worker processes inherit it: the same packages, also from a checkout that is not installed.
            PYTHONPATH=os.pathsep.join([str(CODE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        )
        self._folder = Path(tempfile.mkdtemp(prefix="ringpull-", dir=_short_folder()))
        # Ray opens its own folder to everybody; the one above it stays ours alone.
        ray_folder = self._folder / "r"
        self._init(
            address="local",
            # Logical: a private Ray starts this many workers side by side, where actors alone would start one after
            # the other.
            num_cpus=self._workers,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            _temp_dir=str(ray_folder),
        )

    def _join(self, address: str) -> None:
        if address != "auto":
            _check_listens(address)
        os.environ.setdefault("RAY_AUTH_MODE", "token" if _has_token() else "disabled")
        self._init(address=address, runtime_env=_runtime_env(self._ship_code))

    def _init(self, **options: Any) -> None:
        import ray

        self._begun = True
        handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            # Warnings about /dev/shm and the like are about the object store, which carries nothing here.
            ray.init(
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                **options,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as exc:
            where = (
                "a private Ray did not start" if self._address is None else f"Ray at {self._address} cannot be joined"
            )
            raise StartupError(f"{where}: {_first_line(exc)}") from exc
        except SystemExit as exc:
            # Ray's own answer to a SIGTERM that comes while it starts.
            raise Interrupted(signal.SIGTERM) from exc
        finally:
            if threading.current_thread() is threading.main_thread():
                # Ray puts its own in their place, which end the process at once.
                for signum, handler in handlers.items():
                    signal.signal(signum, handler)

    def _close(self) -> None:
        if self._begun:  # An interrupt may have come while Ray was being loaded: then there is no `shutdown` yet.
            import ray

            ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def has_gpu() -> bool:
    """Return whether the Ray that is joined has a GPU to give."""
    import ray

    return bool(ray.cluster_resources().get("GPU", 0) > 0)  # type: ignore[no-untyped-call]


def _check_listens(address: str) -> None:
    """Fail at once where nobody listens: Ray itself keeps trying for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise InvalidInput(f"--address {address!r}: write `auto`, or HOST:PORT of a Ray cluster")
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as exc:
        raise NoRay(f"Ray at {address} cannot be joined: {exc.strerror or exc}") from exc


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) + len("/ringpull-12345678/r") <= MAX_TEMPORARY_FOLDER else "/tmp"


def _has_token() -> bool:
    """Whether the operator has left a token where Ray looks for one."""
    return bool(
        os.environ.get("RAY_AUTH_TOKEN")
        or os.environ.get("RAY_AUTH_TOKEN_PATH")
        or (Path.home() / ".ray" / "auth_token").is_file()
    )


def _runtime_env(ship_code: bool) -> dict[str, Any]:
    if ship_code:
        return {"py_modules": [str(CODE_ROOT / "ringpull")]}
    # Nodes that share this file system find a checkout here; others have the package installed, and pass over the path.
    return {"env_vars": {"PYTHONPATH": str(CODE_ROOT)}}


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[0] if lines else type(exc).__name__

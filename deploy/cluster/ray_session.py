"""Ray session of a deployment: a private Ray, started and ended here, or a cluster that is joined.

A private Ray belongs to one deployment: no dashboard, a small object store (rows never travel through it), its own
temporary folder, and its own token, because Ray's ports listen on every interface. A joined cluster is left as it was
found; its authentication is configured by its operator.

Ray is imported inside functions: it reads its authentication mode while it is loaded, so the environment has to be set
before that.
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
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import ringpull
from ringpull.deploy.cluster import control_store
from ringpull.deploy.cluster.actor_spec import NAMESPACE
from ringpull.deploy.signals import Interrupted
from ringpull.ps.errors import InvalidInput, StartupError
from ringpull.ps.user_folder import temporary_folder

OBJECT_STORE_BYTES: Final = 80 << 20
"""Size of a private Ray's object store; Ray's minimum is 75 MiB."""

MAX_TEMPORARY_FOLDER: Final = 45
"""Upper bound on the length of its path, in bytes: Ray adds up to 62 for its sockets, whose paths may have 107."""

_RAY_FOLDER: Final = b"/ringpull-12345678/r"
"""What is added to the path of the temporary folder."""

CONNECT_TIMEOUT_S: Final = 5.0

ANSWER_TIMEOUT_S: Final = 30.0
"""Longest wait for the first byte of a Ray that is to be joined. One that hangs accepts connections all the same, and
Ray itself would wait for it for minutes."""

_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""How a client of gRPC begins (RFC 9113, 3.4): the server answers with its settings, and one of TLS with an error."""

CODE_ROOT: Final = Path(ringpull.__file__).resolve().parents[1]
"""Folder that contains the package, installed or checked out."""


class NoRay(StartupError):
    """Raised when nothing listens where a Ray cluster is to be joined: it has ended, or the address is wrong."""


class RaySession:
    """Connection to Ray, as a context; leaving it disconnects, and ends a private Ray.

    Args:
        address: Cluster to join; None starts a private one.
        workers: Number of worker processes that a private Ray starts in advance, in parallel.
        ship_code: Send our package to the other nodes of a joined cluster.
        made: Called with the folder of a private Ray as soon as it is there.
    """

    def __init__(
        self,
        address: str | None,
        *,
        workers: int = 1,
        ship_code: bool = False,
        made: Callable[[Path], None] | None = None,
    ) -> None:
        self._address = address
        self._workers = workers
        self._ship_code = ship_code
        self._made = made
        self._folder: Path | None = None
        self._begun = False

    @property
    def folder(self) -> Path | None:
        """Temporary folder of a private Ray, removed with it; None with a joined one."""
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
            **{control_store.RECONNECT_VARIABLE: control_store.reconnect_text()},
            # Ray's default niceness is 15, which would put workers that serve requests behind everything else.
            RAY_worker_niceness="0",
            # Worker processes inherit it, so they find the package even in a checkout that is not installed.
            PYTHONPATH=os.pathsep.join([str(CODE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        )
        self._folder = _new_folder()
        if self._made is not None:
            self._made(self._folder)
        # Ray makes its own folder world-readable; the folder above it is private.
        ray_folder = self._folder / "r"
        self._init(
            address="local",
            # Logical CPUs: a private Ray starts this many workers in parallel, while those for actors alone would start
            # one after the other.
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
            # Warnings, such as those about /dev/shm, concern the object store, which is not used.
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
            # Ray exits on a SIGTERM that comes while it starts.
            raise Interrupted(signal.SIGTERM) from exc
        finally:
            if threading.current_thread() is threading.main_thread():
                # Ray replaces them by handlers that end the process at once.
                for signum, handler in handlers.items():
                    signal.signal(signum, handler)

    def _close(self) -> None:
        if self._begun:  # After an interrupt during the import of Ray there may be no `shutdown` yet.
            import ray

            ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def has_gpu() -> bool:
    """Return whether the Ray that this process is connected to has a GPU."""
    import ray

    return bool(ray.cluster_resources().get("GPU", 0) > 0)  # type: ignore[no-untyped-call]


def _check_listens(address: str) -> None:
    """Fail at once if nothing listens there, and soon if what does answers nothing; Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise InvalidInput(f"--address {address!r}: write `auto`, or HOST:PORT of a Ray cluster")
    try:
        connection = socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S)
    except OSError as exc:
        raise NoRay(f"Ray at {address} cannot be joined: {exc.strerror or exc}") from exc
    with connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.sendall(_HTTP2)
            connection.recv(1)
        except TimeoutError as exc:
            raise StartupError(
                f"Ray at {address} cannot be joined: it accepts connections, and has answered nothing for"
                f" {ANSWER_TIMEOUT_S:g} s: its control store (GCS) hangs; end that Ray, or wait until it answers again"
            ) from exc
        except OSError:
            return  # It hung up, which is an answer: what it is, Ray says.


def _new_folder() -> Path:
    """Make the folder of a private Ray, whose path is short enough for its sockets.

    Raises:
        StartupError: None can be made.
    """
    try:
        within = _short_folder()
        return Path(tempfile.mkdtemp(prefix="ringpull-", dir=within))
    except OSError as exc:
        longest = MAX_TEMPORARY_FOLDER - len(_RAY_FOLDER)
        raise StartupError(
            f"there is no place for the files of Ray: {exc.filename or tempfile.tempdir or ''}: {exc.strerror or exc};"
            f" set TMPDIR to a folder that can be written, with a path of at most {longest} bytes"
        ) from exc


def _short_folder() -> str:
    folder = str(temporary_folder())
    return folder if len(os.fsencode(folder) + _RAY_FOLDER) <= MAX_TEMPORARY_FOLDER else "/tmp"


def _has_token() -> bool:
    """Whether the operator has put a token where Ray looks for one."""
    return bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or _has_token_file())


def _has_token_file() -> bool:
    try:
        return (Path.home() / ".ray" / "auth_token").is_file()
    except (RuntimeError, OSError):  # no home, or somebody else's
        return False


def _runtime_env(ship_code: bool) -> dict[str, Any]:
    if ship_code:
        return {"py_modules": [str(CODE_ROOT / "ringpull")]}
    # Nodes that share this file system find a checkout here; others ignore the path and use their installed package.
    return {"env_vars": {"PYTHONPATH": str(CODE_ROOT)}}


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[0] if lines else type(exc).__name__

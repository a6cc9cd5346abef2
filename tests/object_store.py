"""A real S3 server for the length of a `with`: moto's, on loopback, which counts what it gives away.

It is told to clients by the environment, as operators do it: `AWS_ENDPOINT_URL` and keys.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("moto", reason="moto and s3fs are in the extra `dev`")

import s3fs
from moto.moto_server.threaded_moto_server import MotoRequestHandler
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "models"
FORBIDDEN = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class QuietHandler(MotoRequestHandler):
    def log_request(self, *_: object) -> None: ...


class S3:
    """The server, with an empty bucket. One at a time: what it counts and refuses is for all clients."""

    def __init__(self) -> None:
        self._app: Any = DomainDispatcherApplication(create_backend_app)
        self._patch = pytest.MonkeyPatch()
        self._lock = threading.Condition()  # told when a GET was answered
        self._getting = 0
        self.given: dict[str, int] = {}
        """Key -> bytes of it that were given away by GET."""
        self.refuses: Callable[[str], bool] = lambda key: False
        """Keys that nobody may read."""
        self.before_get: Callable[[str], None] = lambda key: None

    def __enter__(self) -> Self:
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=QuietHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3", daemon=True)
        self._thread.start()
        for name, value in self.environment.items():
            self._patch.setenv(name, value)
        # Clients are kept by fsspec, and with them the address of a server that is gone.
        s3fs.S3FileSystem.clear_instance_cache()
        self.files = s3fs.S3FileSystem()
        # moto's buckets are the process's: another server may have been here.
        with urlopen(Request(f"{self.environment['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")):
            pass
        self.files.mkdir(BUCKET)
        return self

    def __exit__(self, *_: object) -> None:
        s3fs.S3FileSystem.clear_instance_cache()
        self._patch.undo()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def put(self, folder: Path, name: str) -> str:
        """Upload a folder; return its URL."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.files.pipe_file(f"{BUCKET}/{name}/{path.relative_to(folder)}", path.read_bytes())
        return f"s3://{BUCKET}/{name}"

    def flip_byte(self, key: str, at: int) -> None:
        """Damage one byte of an object."""
        content = bytearray(self.files.cat_file(f"{BUCKET}/{key}"))
        content[at] ^= 0xFF
        self.files.pipe_file(f"{BUCKET}/{key}", bytes(content))

    def forget(self) -> None:
        """Count from nothing again."""
        with self._lock:
            self.given.clear()

    def settle(self) -> None:
        """Wait until nothing is being given away, not even to clients that were killed."""
        with self._lock:
            self._lock.wait_for(lambda: self._getting == 0)

    def given_of(self, suffix: str) -> int:
        """Return the bytes given away of the keys that end so."""
        with self._lock:
            return sum(size for key, size in self.given.items() if key.endswith(suffix))

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
        if method not in ("GET", "HEAD"):
            return self._app(environ, start_response)
        if self.refuses(key):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [FORBIDDEN] if method == "GET" else []
        if method == "HEAD":
            return self._app(environ, start_response)
        with self._lock:
            self._getting += 1
        parts: list[bytes] = []
        try:
            self.before_get(key)
            parts = list(self._app(environ, start_response))
        finally:
            with self._lock:
                self.given[key] = self.given.get(key, 0) + sum(map(len, parts))
                self._getting -= 1
                self._lock.notify_all()
        return parts

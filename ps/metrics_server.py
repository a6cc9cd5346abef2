"""The port on which a process serves its metrics: `GET /metrics`, as Prometheus scrapes it. All paths are the same.

It has threads of its own, so that it answers even when an event loop hangs, and a scraper that stalls delays no other.
They are few: whoever connects and asks nothing takes no descriptor from what the process is there for. One more than
may be takes the place of the oldest connection of the address that has most, and a page that is not asked for and read
in time is given up, however its bytes drip. With TLS all this is the same.
"""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final

from prometheus_client import CollectorRegistry, MetricsHandler

from ringpull.ps.descriptors import NO_DESCRIPTOR
from ringpull.ps.errors import Forbidden, RingpullError, StartupError, Unauthenticated
from ringpull.ps.tls import LiveTls

Check = Callable[[str | None], None]

REFUSALS: Final = {Unauthenticated: 401, Forbidden: 403}
"""Statuses of scrapers that may not; 503 where that cannot be told."""

GOODBYE_S: Final = 1.0
"""Time for the goodbye of TLS, and for a scraper that is refused to read why."""
MAX_UNREAD: Final = 16
"""Pieces that are read, and thrown away, of what one sends that is refused."""

SCRAPER_TIMEOUT_S: Final = 10.0
"""Time after which a scraper that says nothing, or does not read, is hung up on."""
TOTAL_S: Final = 30.0
"""Time for all of it: to shake hands, to ask, and to read the answer."""

PAUSE_S: Final = 0.2
"""Time for which no connection is taken where the process has no descriptor left."""
MAX_SCRAPERS: Final = 32
"""Connections at a time."""

_LOG: Final = logging.getLogger(__name__)


class MetricsServer:
    """Serves a registry from construction until `close`."""

    def __init__(
        self, registry: CollectorRegistry, host: str, check: Check | None = None, *, tls: LiveTls | None = None
    ) -> None:
        """Listen on any free port.

        Args:
            check: Raises for a scraper that may not; given the value of its header `authorization`, or None. Called
                in any thread.
            tls: Speak HTTPS, and ask scrapers for certificates where clients are asked; None: plain HTTP.

        Raises:
            StartupError: `host` cannot be listened on.
        """
        served = registry

        class Handler(MetricsHandler):
            registry = served
            timeout = SCRAPER_TIMEOUT_S

            def do_GET(self) -> None:
                if check is None or _passes(self, check):
                    super().do_GET()

        class Server(_Server):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def finish_request(self, request: Any, client_address: Any) -> None:
                """Answer one scraper, in its own thread."""
                if tls is None:
                    super().finish_request(request, client_address)
                    return
                request.settimeout(SCRAPER_TIMEOUT_S)
                with self.secured(request, tls.public) as secured:
                    _shake_hands(secured)
                    super().finish_request(secured, client_address)
                    # Without its goodbye an answer of no given length looks cut off.
                    with suppress(OSError):
                        secured.settimeout(GOODBYE_S)
                        secured.unwrap()

        try:
            self._server = Server((host, 0), Handler)
        except OSError as exc:
            raise StartupError(f"metrics cannot be served on {host}: {exc.strerror or exc}") from exc
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Port it listens on."""
        port: int = self._server.socket.getsockname()[1]
        return port

    def close(self) -> None:
        """Take no more connections and end the thread. A second call does nothing."""
        if self._closing:
            return
        self._closing = True
        # Wakes the thread, which waits without a time limit: an idle server costs nothing.
        self._server.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.server_close()

    def _serve(self) -> None:
        while not self._closing:
            self._server.timeout = self._server.end_overdue()
            self._server.handle_request()


def _passes(handler: MetricsHandler, check: Check) -> bool:
    """Return whether a scraper may; one that may not is told so."""
    shown = handler.headers.get_all("authorization")
    try:
        check(", ".join(shown) if shown else None)
    except RingpullError as exc:
        status = next((status for kind, status in REFUSALS.items() if isinstance(exc, kind)), 503)
        body = f"{exc}\n".encode()
        handler.send_response(status)
        if status == 401:
            handler.send_header("WWW-Authenticate", "Bearer")
        handler.send_header("Content-Type", "text/plain; charset=utf-8")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return False
    return True


def _shake_hands(secured: ssl.SSLSocket) -> None:
    try:
        secured.do_handshake()
    except OSError:
        # Closed at once, with unread bytes, the connection would be reset, and whoever is refused not hear why.
        with suppress(OSError):
            secured.settimeout(GOODBYE_S)
            secured.shutdown(socket.SHUT_WR)
            for _ in range(MAX_UNREAD):
                if not secured.recv(1 << 16):
                    break
        raise


@dataclass(slots=True, eq=False)
class _Scraper:
    """One connection, from when it is accepted until its thread has closed it."""

    connection: socket.socket
    address: str
    until_s: float
    """Time at which it is ended."""
    is_ended: bool = False

    def hang_up(self) -> None:
        """End it; its thread, which waits for it, closes it."""
        self.is_ended = True
        with suppress(OSError):  # it went away
            # As a plain socket: TLS's own forgets that there is TLS, and its thread would take what comes as it is.
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)


class _Server(ThreadingMixIn, TCPServer):
    # Not an HTTPServer: that one looks its own name up, which may take seconds where no name server answers.
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._open: dict[socket.socket, _Scraper] = {}
        """Scrapers by the sockets that were accepted, in order of arrival."""
        self._guard = threading.Lock()
        super().__init__(*arguments, **options)

    def end_overdue(self) -> float | None:
        """Hang up on those whose time is up; return the seconds until the next one's is, None where there is none."""
        with self._guard:
            for scraper in self._open.values():
                if scraper.is_ended:
                    continue
                left_s = scraper.until_s - time.monotonic()
                if left_s > 0:
                    return left_s
                scraper.hang_up()
        return None

    def secured(self, request: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Return the connection of a scraper, within TLS; hands are not shaken yet.

        Raises:
            OSError: It was hung up on, or went away.
        """
        with self._guard:  # the connection moves to another object: who makes room must not be left with the old one
            scraper = self._open[request]
            wrapped = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            scraper.connection = wrapped
            return wrapped

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError as exc:
            if exc.errno in NO_DESCRIPTOR:
                time.sleep(PAUSE_S)  # it would else be tried again and again, at a core's expense
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            waiting = [scraper for scraper in self._open.values() if not scraper.is_ended]
            if len(waiting) >= MAX_SCRAPERS:
                of_address = Counter(scraper.address for scraper in waiting)
                max(waiting, key=lambda each: of_address[each.address]).hang_up()  # of several the oldest
            self._open[request] = _Scraper(request, str(client_address[0]), time.monotonic() + TOTAL_S)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _LOG.debug("a scraper of metrics went away", exc_info=sys.exc_info())

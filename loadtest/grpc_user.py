"""A locust user that sends encoded Predict requests over gRPC, one after the other, and records every one of them.

Three things have to be right, or a run loses requests or never ends:

* gRPC must wait the gevent way (`init_gevent`, called by the locustfile before any channel is made). Otherwise a call
  blocks the process's only thread: users take turns, and while a call hangs no timer runs, not even that of `-t`.
* A user that is stopped must finish its request. Locust's default is to kill its greenlet at once; what it had sent,
  the server answers and nobody counts. `finish_requests` gives users the deadline of a request to stop.
* Every request has a deadline, so that every user does stop.
"""

from __future__ import annotations

import time
from functools import partial
from typing import ClassVar, Final

import grpc
from locust import User, task
from locust.env import Environment

from ringpull.inference.client.channels import open_channel
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.numbers import timeout
from ringpull.inference.client.stubs import CHANNEL_OPTIONS, PREDICT
from ringpull.inference.client.targets import parse_target
from ringpull.inference.errors import Unavailable
from ringpull.loadtest.generator import CLIENT_OF_ITS_OWN, not_connected, why_failed
from ringpull.loadtest.latencies import stages_of
from ringpull.loadtest.locust_record import RunRecord
from ringpull.loadtest.messages import Messages

REQUEST_TYPE: Final = "grpc"
STAGE_TYPE: Final = "stage"
"""Type of the rows that stages are in locust's statistics. Locust rounds its percentiles to whole milliseconds, and a
stage is often shorter: our own report has them in microseconds."""

STOP_MARGIN_S: Final = 1.0
TURN_STRIDE: Final = 7919
"""A prime: workers spread over the messages, however many there are."""


class PredictUser(User):
    """Sends its share of the messages, one after the other without a pause: `wait_time` of a subclass changes that."""

    abstract = True

    record: ClassVar[RunRecord]
    """Record of this process; beside locust's own numbers, which it rounds to two digits."""
    messages: ClassVar[Messages]
    timeout_s: ClassVar[float] = 10.0
    credentials: ClassVar[Credentials] = Credentials()
    turn: ClassVar[int] = 0
    """Number of the next message, of all users of this process together."""

    @staticmethod
    def begin(
        environment: Environment, messages: Messages, timeout_s: float, credentials: Credentials | None = None
    ) -> None:
        """Make all users of this process send these messages; another process begins elsewhere in them.

        Args:
            credentials: Credentials for TLS, and a token; None: those of the environment.
        """
        PredictUser.messages = messages
        PredictUser.credentials = Credentials.given() if credentials is None else credentials
        PredictUser.timeout_s = timeout("timeout_s", timeout_s)
        PredictUser.turn = max(getattr(environment.runner, "worker_index", 0), 0) * TURN_STRIDE

    def on_start(self) -> None:
        target, options = parse_target(self.host or ""), (*CHANNEL_OPTIONS, *CLIENT_OF_ITS_OWN)
        self._channel = open_channel(grpc, target, self.credentials, options)
        self._send = partial(self._channel.unary_unary(PREDICT.path), metadata=self.credentials.metadata)
        # Connecting is not part of the first request: a client connects once and stays.
        try:
            grpc.channel_ready_future(self._channel).result(timeout=self.timeout_s)
        except grpc.FutureTimeoutError as exc:
            raise Unavailable(not_connected(target, self.timeout_s, self.credentials)) from exc

    def on_stop(self) -> None:
        self._channel.close()

    @task
    def predict(self) -> None:
        """Send the next message, wait for its answer, and record it."""
        payloads = self.messages.payloads
        payload = payloads[PredictUser.turn % len(payloads)]
        PredictUser.turn += 1
        error: grpc.RpcError | None = None
        reply = b""
        sent = time.perf_counter()
        try:
            reply = self._send(payload, timeout=self.timeout_s)
        except grpc.RpcError as exc:
            error = exc
        took_s = time.perf_counter() - sent
        if error is None:
            stages = stages_of(reply)
            self.record.latencies.answered(took_s, stages)
            for name, value_us in stages.items():
                # Not an event: locust would count each stage as one more request.
                self.environment.stats.get(name, STAGE_TYPE).log(value_us / 1000, 0)
        else:
            self.record.latencies.failed(took_s, why_failed(error))
        self.environment.events.request.fire(
            request_type=REQUEST_TYPE,
            name=self.messages.model,
            response_time=took_s * 1000,
            response_length=len(reply),
            exception=None if error is None else RequestFailed(why_failed(error)),
            context=self.context(),
        )


class RequestFailed(Exception):
    """A request that was not answered: status code and the server's words."""


def finish_requests(environment: Environment, timeout_s: float) -> None:
    """Let users that are stopped finish their request: give them its deadline, and a little more."""
    environment.stop_timeout = max(environment.stop_timeout, timeout_s + STOP_MARGIN_S)

"""The Python clients: predict calls with numpy arrays or plain lists, in threads (`Client`) or asyncio (`AsyncClient`).

    with Client("localhost:8500") as client:
        scores = client.predict("ranker", {"item_id": [10, 11, 12]}, context={"user_id": 7}).outputs["score"]

Both send raw buffers, and raise the errors of `ringpull.ps.errors` with the server's message: InvalidInput, NotFound
and LimitExceeded ask for another request; Unavailable and DeadlineExceeded may go away by themselves.

What could not be answered goes out again on another channel, within its deadline (`ringpull.inference.client.retry`):
every verb only reads, but a push, which has a number by which it is applied once. Of each channel `in_flight` calls are
out at once; one more goes out on a channel that has a free turn, and where none has, it waits for its turn, within its
deadline: heads let fewer wait at their door than a program may ask at once.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from ringpull.inference.client.channels import DEFAULT_CHANNELS
from ringpull.inference.client.connections import DEFAULT_TIMEOUT_S, IN_FLIGHT
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.push import AsyncPushCalls, PushCalls
from ringpull.inference.client.retry import DEFAULT_RETRIES, Attempts, Retrying
from ringpull.inference.client.top_k import AsyncTopKCalls, TopKCalls
from ringpull.inference.prediction import Prediction
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.rows_answer import RowsAnswer
from ringpull.inference.wire.codec import as_call, check_texts, checked_version, decode_response, encode_request
from ringpull.inference.wire.lookup_codec import decode_rows, encode_lookup

PathLike = str | os.PathLike[str]


class Client(TopKCalls, PushCalls):
    """Connections to the heads of one deployment. Thread-safe: threads share it, and its calls run side by side.

    Args:
        target: HOST:PORT of a head's gRPC port, 8500 where there is none; or several, as "a:1,b:2" or a list.
        timeout_s: Time for calls that do not give their own; `inf`: as long as a head grants.
        retries: Times that a call which could not be answered goes out again, within its time; 0: never.
        channels: Connections per target, made when they are first used. Calls take them in turn. Heads that share one
            port are reached by several.
        in_flight: Calls of one channel that are out at once; more wait for their turn, within their deadlines. What a
            head has no room for (`serve --max-pending`, `--max-requests`) it turns away.
        straight_pushes: Whether rows are pushed to the shards that own them, past the heads, where a head says that it
            may be done and they can be reached; else, and wherever that fails, they go through a head.
        tls_ca: PEM file of the CA that a head's certificate has to be of; with it, connections are TLS.
        tls_cert: PEM file of a certificate to show, and `tls_key` its key, where heads demand one.
        token: Token that says who asks. These four have defaults in the environment: RINGPULL_TLS_CA,
            RINGPULL_TLS_CERT, RINGPULL_TLS_KEY, RINGPULL_TOKEN; an empty text is none.
        credentials: `grpc.ChannelCredentials` for TLS, in place of files; or `Credentials`, in place of all four.

    Raises:
        InvalidInput: An argument cannot be used; the message names it.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        channels: int = DEFAULT_CHANNELS,
        in_flight: int = IN_FLIGHT,
        straight_pushes: bool = True,
        tls_ca: PathLike | None = None,
        tls_cert: PathLike | None = None,
        tls_key: PathLike | None = None,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | Credentials | None = None,
    ) -> None:
        shown = Credentials.of(credentials, tls_ca, tls_cert, tls_key, token)
        super().__init__(grpc, target, timeout_s, retries, channels, shown, in_flight, straight_pushes)
        self._turns = [threading.Semaphore(self.in_flight) for _ in self._channels]

    def predict(
        self,
        model: str,
        features: Mapping[str, Any],
        context: Mapping[str, Any] | None = None,
        *,
        version: int | None = None,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        with_timings: bool = False,
        with_unknown: bool = False,
        request_id: str = "",
        label: str | None = None,
    ) -> Prediction:
        """Score candidate rows.

        Args:
            features: Feature name -> one entry per row: an array (B,) or (B, w), `Ragged`, a list, or a list of lists.
            context: Feature name -> what stands for every row, as a column of one row: a scalar, `[value]`, `[[a, b]]`.
            version: Version that answers; None: the live one.
            outputs: Names of the outputs wanted; None: all.
            with_timings: Ask for the server's timings by stage.
            with_unknown: Ask in which rows ids were unknown; how many there were is told always.
            request_id: For the server's logs.
            label: Label of the version that answers, in place of `version`.

        Raises:
            InvalidInput: The server, or this client, cannot make sense of a feature; the message names it.
            NotFound: No such model, version or label is served there.
            LimitExceeded: The request is larger than the server allows, or than it has time for; `retry_after_s` tells
                which.
            DeadlineExceeded: No answer within `timeout_s`. Safe to repeat, as is `Unavailable`.
            Unavailable: No head, or no shard, could be reached, however often it was tried; the message has the cause
                of every attempt.
        """
        call = as_call(
            model,
            features,
            context,
            version=version,
            outputs=outputs,
            with_timings=with_timings,
            with_unknown=with_unknown,
            request_id=request_id,
            label=label,
        )
        return decode_response(self._call(self._predict, encode_request(call), timeout_s))

    def lookup(
        self,
        model: str,
        table: str,
        keys: Sequence[int] | Sequence[str] | NDArray[Any],
        *,
        version: int | None = None,
        label: str | None = None,
        pooling: str | None = None,
        offsets: Sequence[int] | NDArray[np.int64] | None = None,
        weights: Sequence[float] | NDArray[np.float32] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> RowsAnswer:
        """Return rows of a table by their keys: `rows, found = client.lookup("ranker", "user", [7, 9])`.

        Args:
            keys: (N,): integers, or strings where the table is keyed by strings.
            version: Version that answers; None: the live one.
            label: Label of the version that answers, in place of its number.
            pooling: sum, mean or max of each bag of rows; None: every row by itself.
            offsets: (B+1,): starts of bags among the keys, with a pooling.
            weights: (N,): one per key, by which its row is multiplied before the sum.
            request_id: For the server's logs.

        Returns:
            rows: float32 (N, dim), or (B, dim) where they are pooled. Of a table of bytes `BytesRows`, a sequence
                whose `rows[i]` is `bytes`. A key that the table does not have gets its default vector, or no bytes.
            found: bool (N,): whether the table has each key; None where rows are pooled.

        Raises:
            InvalidInput: Keys, pooling, offsets or weights do not fit each other or the table.
            NotFound: No such model, version or table is served there.
            LimitExceeded, DeadlineExceeded, Unavailable: As for `predict`.
        """
        request = encode_lookup(
            model,
            table,
            keys,
            version=version,
            label=label,
            pooling=pooling,
            offsets=offsets,
            weights=weights,
            request_id=request_id,
        )
        return decode_rows(self._call(self._lookup, request, timeout_s), pooled=bool(request.pooling))

    def model(
        self, name: str, version: int | None = None, *, label: str | None = None, timeout_s: float | None = None
    ) -> pb.Model:
        """Return what a model takes and gives: the contract's `Model` message."""
        check_texts(model=name, label="" if label is None else label)
        request = pb.GetModelRequest(model=name, version=checked_version(version) or 0, label=label or "")
        reply: pb.Model = self._call(self._get_model, request, timeout_s)
        return reply

    def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """Return all models served there."""
        return list(self._call(self._list_models, pb.ListModelsRequest(), timeout_s).models)

    def status(self, *, timeout_s: float | None = None) -> pb.ClusterStatus:
        """Return the state of the cluster: the contract's `ClusterStatus` message."""
        reply: pb.ClusterStatus = self._call(self._get_status, pb.GetStatusRequest(), timeout_s)
        return reply

    def close(self) -> None:
        """Close the connections. Calls in flight fail, and so do later ones."""
        self._close_straight()
        for channel in self._channels:
            channel.close()

    def _call(self, method: list[Any], request: Any, timeout_s: float | None, retrying: Retrying | None = None) -> Any:
        attempts = self._begin(timeout_s, retrying)
        while True:
            turn = self._take_turn(attempts)
            try:
                return method[attempts.channel](request, timeout=attempts.left_s, metadata=self._metadata)
            except grpc.RpcError as exc:
                pause_s = attempts.failed(self._failure(attempts, exc))
                if pause_s is None:
                    raise attempts.error() from exc
            except ValueError as exc:  # grpc's answer to a call on a closed channel
                raise self._closed(exc) from exc
            finally:
                turn.release()
            time.sleep(pause_s)
            attempts.resume()

    def _take_turn(self, attempts: Attempts) -> threading.Semaphore:
        """Wait until the attempt may go out; return what is released after it.

        Raises:
            DeadlineExceeded: Its time went by.
        """
        turn = self._turns[attempts.channel]
        if not turn.acquire(blocking=False):
            if attempts.elsewhere(lambda channel: self._turns[channel].acquire(blocking=False)):
                return self._turns[attempts.channel]
            if not turn.acquire(timeout=attempts.left_s):
                raise attempts.crowded()
            try:
                attempts.waited()
            except BaseException:
                turn.release()
                raise
        return turn

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(AsyncTopKCalls, AsyncPushCalls):
    """`Client` for asyncio: the same calls as coroutines. Make it inside the running loop that will use it.

    Cancelling a call cancels it at the server.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        channels: int = DEFAULT_CHANNELS,
        in_flight: int = IN_FLIGHT,
        straight_pushes: bool = True,
        tls_ca: PathLike | None = None,
        tls_cert: PathLike | None = None,
        tls_key: PathLike | None = None,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | Credentials | None = None,
    ) -> None:
        shown = Credentials.of(credentials, tls_ca, tls_cert, tls_key, token)
        super().__init__(grpc.aio, target, timeout_s, retries, channels, shown, in_flight, straight_pushes)
        self._turns = [asyncio.Semaphore(self.in_flight) for _ in self._channels]

    async def predict(
        self,
        model: str,
        features: Mapping[str, Any],
        context: Mapping[str, Any] | None = None,
        *,
        version: int | None = None,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        with_timings: bool = False,
        with_unknown: bool = False,
        request_id: str = "",
        label: str | None = None,
    ) -> Prediction:
        """Score candidate rows. Arguments and errors are those of `Client.predict`."""
        call = as_call(
            model,
            features,
            context,
            version=version,
            outputs=outputs,
            with_timings=with_timings,
            with_unknown=with_unknown,
            request_id=request_id,
            label=label,
        )
        return decode_response(await self._call(self._predict, encode_request(call), timeout_s))

    async def lookup(
        self,
        model: str,
        table: str,
        keys: Sequence[int] | Sequence[str] | NDArray[Any],
        *,
        version: int | None = None,
        label: str | None = None,
        pooling: str | None = None,
        offsets: Sequence[int] | NDArray[np.int64] | None = None,
        weights: Sequence[float] | NDArray[np.float32] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> RowsAnswer:
        """Return rows of a table by their keys. Arguments, answer and errors are those of `Client.lookup`."""
        request = encode_lookup(
            model,
            table,
            keys,
            version=version,
            label=label,
            pooling=pooling,
            offsets=offsets,
            weights=weights,
            request_id=request_id,
        )
        return decode_rows(await self._call(self._lookup, request, timeout_s), pooled=bool(request.pooling))

    async def model(
        self, name: str, version: int | None = None, *, label: str | None = None, timeout_s: float | None = None
    ) -> pb.Model:
        """Return what a model takes and gives: the contract's `Model` message."""
        check_texts(model=name, label="" if label is None else label)
        request = pb.GetModelRequest(model=name, version=checked_version(version) or 0, label=label or "")
        reply: pb.Model = await self._call(self._get_model, request, timeout_s)
        return reply

    async def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """Return all models served there."""
        return list((await self._call(self._list_models, pb.ListModelsRequest(), timeout_s)).models)

    async def status(self, *, timeout_s: float | None = None) -> pb.ClusterStatus:
        """Return the state of the cluster: the contract's `ClusterStatus` message."""
        reply: pb.ClusterStatus = await self._call(self._get_status, pb.GetStatusRequest(), timeout_s)
        return reply

    async def close(self) -> None:
        """Close the connections. Calls in flight fail, and so do later ones."""
        await self._close_straight()
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def _call(
        self, method: list[Any], request: Any, timeout_s: float | None, retrying: Retrying | None = None
    ) -> Any:
        attempts = self._begin(timeout_s, retrying)
        while True:
            turn = await self._take_turn(attempts)
            try:
                return await method[attempts.channel](request, timeout=attempts.left_s, metadata=self._metadata)
            except grpc.RpcError as exc:
                pause_s = attempts.failed(self._failure(attempts, exc))
                if pause_s is None:
                    raise attempts.error() from exc
            except grpc.aio.UsageError as exc:  # grpc's answer to a call on a closed channel
                raise self._closed(exc) from exc
            except asyncio.CancelledError as exc:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # Nobody cancelled it: it is grpc's answer to closing the channel of a call in flight.
                raise self._closed("the client was closed") from exc
            finally:
                turn.release()
            await asyncio.sleep(pause_s)
            attempts.resume()

    async def _take_turn(self, attempts: Attempts) -> asyncio.Semaphore:
        """Wait until the attempt may go out; return what is released after it.

        Raises:
            DeadlineExceeded: Its time went by.
        """
        turn = self._turns[attempts.channel]
        if turn.locked() and attempts.elsewhere(lambda channel: not self._turns[channel].locked()):
            turn = self._turns[attempts.channel]
        if not turn.locked():
            await turn.acquire()  # at once
            return turn
        try:
            async with asyncio.timeout(attempts.left_s):
                await turn.acquire()
        except TimeoutError:
            raise attempts.crowded() from None
        try:
            attempts.waited()
        except BaseException:
            turn.release()
            raise
        return turn

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

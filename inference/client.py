"""The Python clients: predict calls with numpy arrays or plain lists, in threads (`Client`) or asyncio (`AsyncClient`).

    with Client("localhost:8500") as client:
        scores = client.predict("ranker", {"item_id": [10, 11, 12]}, context={"user_id": 7}).outputs["score"]

Both send raw buffers, and raise the errors of `ps.errors` with the server's message: InvalidInput, NotFound and
LimitExceeded ask for another request; Unavailable and DeadlineExceeded may go away by themselves. Neither retries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio

from inference import stubs
from inference.codec import as_call, checked_version, decode_response, encode_request
from inference.prediction import Prediction
from inference.proto import ringpull_pb2 as pb
from ps.errors import DeadlineExceeded, RingpullError

DEFAULT_TIMEOUT_S: Final = 10.0


class Client:
    """A connection to one head. Thread-safe: threads share it, and its calls run side by side.

    Args:
        target: HOST:PORT of a head's gRPC port.
        timeout_s: Of calls that do not give their own.
        credentials: For TLS; None: plain text.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.target = target
        self.timeout_s = timeout_s
        if credentials is None:
            self._channel = grpc.insecure_channel(target, stubs.CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, stubs.CHANNEL_OPTIONS)
        self._predict = stubs.PREDICT.on(self._channel)
        self._get_model = stubs.GET_MODEL.on(self._channel)
        self._list_models = stubs.LIST_MODELS.on(self._channel)
        self._get_status = stubs.GET_STATUS.on(self._channel)

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
        request_id: str = "",
    ) -> Prediction:
        """Score candidate rows.

        Args:
            features: Feature name -> one entry per row: an array (B,) or (B, w), `Ragged`, a list, or a list of lists.
            context: Feature name -> what stands for every row, as a column of one row: a scalar, `[value]`, `[[a, b]]`.
            version: None: the one that is live.
            outputs: Names of the outputs wanted; None: all.
            with_timings: Ask for the server's timings by stage.
            request_id: For the server's logs.

        Raises:
            InvalidInput: The server, or this client, cannot make sense of a feature; the message names it.
            NotFound: No such model or version is served there.
            LimitExceeded: The request is larger than the server allows.
            DeadlineExceeded: No answer within `timeout_s`. Safe to repeat, as is `Unavailable`.
            Unavailable: No head, or no shard, could be reached.
        """
        call = as_call(
            model,
            features,
            context,
            version=version,
            outputs=outputs,
            with_timings=with_timings,
            request_id=request_id,
        )
        return decode_response(self._call(self._predict, encode_request(call), timeout_s))

    def model(self, name: str, version: int | None = None, *, timeout_s: float | None = None) -> pb.Model:
        """Return what a model takes and gives: the contract's `Model` message."""
        request = pb.GetModelRequest(model=name, version=checked_version(version) or 0)
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
        """Close the connection. Calls in flight fail, and so do later ones."""
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        try:
            return method(request, timeout=_checked(self.timeout_s if timeout_s is None else timeout_s))
        except grpc.RpcError as exc:
            raise stubs.error_of(self.target, exc) from exc
        except ValueError as exc:  # grpc's answer to a call on a closed channel
            raise RingpullError(f"{self.target}: {exc}") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.target}>"


class AsyncClient:
    """`Client` for asyncio: the same calls as coroutines. Make it inside the running loop that will use it.

    Cancelling a call cancels it at the server.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.target = target
        self.timeout_s = timeout_s
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, stubs.CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, stubs.CHANNEL_OPTIONS)
        self._predict = stubs.PREDICT.on(self._channel)
        self._get_model = stubs.GET_MODEL.on(self._channel)
        self._list_models = stubs.LIST_MODELS.on(self._channel)
        self._get_status = stubs.GET_STATUS.on(self._channel)

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
        request_id: str = "",
    ) -> Prediction:
        """Score candidate rows. Arguments and errors are those of `Client.predict`."""
        call = as_call(
            model,
            features,
            context,
            version=version,
            outputs=outputs,
            with_timings=with_timings,
            request_id=request_id,
        )
        return decode_response(await self._call(self._predict, encode_request(call), timeout_s))

    async def model(self, name: str, version: int | None = None, *, timeout_s: float | None = None) -> pb.Model:
        """Return what a model takes and gives: the contract's `Model` message."""
        request = pb.GetModelRequest(model=name, version=checked_version(version) or 0)
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
        """Close the connection. Calls in flight fail, and so do later ones."""
        await self._channel.close()

    async def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        try:
            return await method(request, timeout=_checked(self.timeout_s if timeout_s is None else timeout_s))
        except grpc.RpcError as exc:
            raise stubs.error_of(self.target, exc) from exc
        except grpc.aio.UsageError as exc:  # grpc's answer to a call on a closed channel
            raise RingpullError(f"{self.target}: {exc}") from exc

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient {self.target}>"


def _checked(timeout_s: float) -> float:
    if timeout_s <= 0:
        raise DeadlineExceeded(f"timeout_s is {timeout_s}: there is no time left for the call")
    return timeout_s

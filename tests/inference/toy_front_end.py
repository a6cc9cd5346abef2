"""A front-end of a protocol of its own over TCP: the proof that a second one needs nothing but the predictor.

A request is a line of JSON, `{"timeout_s": ..., "length": ..., "authorization": ...}`, then so many bytes of JSON: the
request itself. The reply is a line of JSON. One request per connection.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from ringpull.inference.head.predictor import Predictor
from ringpull.inference.head.request.inference_request import InferenceRequest
from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.inference.schema.columns import as_column
from ringpull.inference.wire.status_codes import public_text, status_of


class ToyFrontEnd:
    """Serves a predictor on a free port."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.bodies_read = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self.server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reply = await self._answer(reader, **json.loads(await reader.readline()))
        except Exception as error:
            status = status_of(error)
            reply = {"code": status.grpc, "http": status.http, "message": public_text(error)}
            reply["retry_after_s"] = getattr(error, "retry_after_s", None)
        writer.write(json.dumps(reply).encode() + b"\n")
        writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, timeout_s: float, length: int, authorization: str | None = None
    ) -> dict[str, Any]:
        with self.predictor.open(timeout_s, length, authorization=authorization) as call:
            body = json.loads(await call.within_deadline(reader.readexactly(length)))
            self.bodies_read += 1
            columns = [{name: as_column(name, each) for name, each in body.pop(part).items()} for part in PARTS]
            request = InferenceRequest(columns=ReceivedColumns.of_columns(*columns, self.predictor.limits), **body)
            prediction = await call.predict(request)
            outputs = {name: values.tolist() for name, values in prediction.outputs.items()}
            return {"code": "OK", "version": prediction.version, "outputs": outputs}


PARTS = ("features", "context")


async def ask(
    port: int,
    body: bytes | None,
    length: int | None = None,
    timeout_s: float = 60.0,
    authorization: str | None = None,
) -> dict[str, Any]:
    """Send a request and return the reply; without a body only what comes before it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    header = {"timeout_s": timeout_s, "length": len(body or b"") if length is None else length}
    if authorization is not None:
        header["authorization"] = authorization
    writer.write(json.dumps(header).encode() + b"\n" + (body or b""))
    reply = json.loads(await reader.readline())
    writer.close()
    return dict(reply)

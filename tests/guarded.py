"""A head that lets nobody in without TLS, or without a token: a fake that answers what clients and commands ask."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

import grpc

from ringpull.inference.proto import operations_pb2, ringpull_pb2, writer_pb2
from ringpull.inference.push_answer import PushAnswer
from ringpull.inference.wire.status_codes import status_of
from ringpull.ps.errors import RingpullError
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.operations import VERBS
from tests.certificates import Certificates, Pair
from tests.deploy.fake_operations import FakeOperations

TOKEN: Final = "a-token-of-tests"
MODEL: Final = ringpull_pb2.Model(
    name="ranker",
    version=3,
    features=[
        ringpull_pb2.FeatureInfo(name="user", kind="sparse", dtype=ringpull_pb2.INT64),
        ringpull_pb2.FeatureInfo(name="item", kind="sparse", dtype=ringpull_pb2.INT64),
    ],
    tables=[
        ringpull_pb2.TableInfo(name="items", dim=1, key_type="int64", live=True),
        ringpull_pb2.TableInfo(name="texts", row_type="bytes", key_type="string"),
    ],
)
ONE_ROW: Final = ringpull_pb2.LookupResponse(
    model="ranker", version=3, vectors=ringpull_pb2.Tensor(shape=[1, 1], floats=[0.5]), found=b"\1"
)


@dataclass
class GuardedHead:
    """Head, and what it has seen."""

    target: str = ""
    token: str = TOKEN
    """Token that everyone has to show; empty: none."""
    shown: list[str | None] = field(default_factory=list)
    """`authorization` of each call."""
    predictions: int = 0
    lookups: list[ringpull_pb2.LookupRequest] = field(default_factory=list)
    rows: ringpull_pb2.LookupResponse = field(default_factory=lambda: ONE_ROW)
    """Answer to each look-up."""
    top_ks: list[ringpull_pb2.TopKRequest] = field(default_factory=list)
    best: ringpull_pb2.TopKResponse = field(default_factory=ringpull_pb2.TopKResponse)
    """Answer to each top-k."""
    push: Callable[[writer_pb2.PushRequest], PushAnswer] | None = None
    """Function that applies a push; None: it is acknowledged."""
    operations: FakeOperations = field(default_factory=FakeOperations)

    def get_status(self, body: bytes) -> Any:
        return ringpull_pb2.ClusterStatus(head=self.target, requests=self.predictions, at_door=True)

    def get_model(self, body: bytes) -> Any:
        return MODEL

    def list_models(self, body: bytes) -> Any:
        return ringpull_pb2.ListModelsResponse(models=[MODEL])

    def predict(self, body: bytes) -> Any:
        self.predictions += 1
        return ringpull_pb2.PredictResponse(model="ranker", version=3)

    def lookup(self, body: bytes) -> Any:
        self.lookups.append(ringpull_pb2.LookupRequest.FromString(body))
        return self.rows

    def top_k(self, body: bytes) -> Any:
        self.top_ks.append(ringpull_pb2.TopKRequest.FromString(body))
        return self.best

    def pushed(self, body: bytes) -> Any:
        message = writer_pb2.PushRequest.FromString(body)
        answer = PushAnswer(rows=1) if self.push is None else self.push(message)
        counts = {"rows": answer.rows, "new_keys": answer.new_keys, "repeated": answer.repeated}
        return writer_pb2.PushResponse(stamp=str(answer.stamp), lineage=answer.lineage, **counts)

    def call(self, body: bytes) -> Any:
        message = operations_pb2.OperationRequest.FromString(body)
        verb = VERBS.named(message.verb)
        reply = self.operations.call(VALUES.from_json(verb.request, message.request))
        return operations_pb2.OperationReply(reply=VALUES.to_json(verb.reply, reply))

    def guarded(self, method: Callable[[bytes], Any]) -> grpc.RpcMethodHandler:
        def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
            shown = dict(context.invocation_metadata()).get("authorization")
            self.shown.append(shown)
            if self.token and shown != f"Bearer {self.token}":
                code = grpc.StatusCode.UNAUTHENTICATED if shown is None else grpc.StatusCode.PERMISSION_DENIED
                context.abort(code, "a token is asked for" if shown is None else "that token may not")
            try:
                return bytes(method(body).SerializeToString())
            except RingpullError as exc:
                context.abort(grpc.StatusCode[status_of(exc).grpc], str(exc))
                raise AssertionError("abort always raises") from exc

        return grpc.unary_unary_rpc_method_handler(answer)


def server_credentials(pair: Pair, ca: Path | None = None) -> grpc.ServerCredentials:
    """What a server shows; with a CA it demands certificates of it."""
    of_clients = None if ca is None else ca.read_bytes()
    return grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.cert.read_bytes())], of_clients, ca is not None)


@contextmanager
def guarded_head(credentials: grpc.ServerCredentials | None = None, *, token: str = TOKEN) -> Iterator[GuardedHead]:
    """Serve over TLS, or with no credentials over plain text."""
    head = GuardedHead(token=token)
    methods = {
        "ringpull.v1.Predictor": {
            "Predict": head.predict,
            "Lookup": head.lookup,
            "TopK": head.top_k,
            "GetModel": head.get_model,
            "ListModels": head.list_models,
        },
        "ringpull.v1.Admin": {"GetStatus": head.get_status},
        "ringpull.v1.Operations": {"Call": head.call},
        "ringpull.v1.Writer": {"Push": head.pushed},
    }
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads)
        for service, handlers in methods.items():
            handler = {name: head.guarded(method) for name, method in handlers.items()}
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handler)])
        address = "127.0.0.1:0"
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        head.target = f"127.0.0.1:{port}"
        server.start()
        try:
            yield head
        finally:
            server.stop(0).wait()


@contextmanager
def guarded_http(certificates: Certificates | None) -> Iterator[tuple[str, list[str | None]]]:
    """Serve HTTP, over TLS where there are certificates; yield its address and each request's `authorization`."""
    shown: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers["Authorization"])
            self.send_response(200 if self.headers["Authorization"] == f"Bearer {TOKEN}" else 401)
            self.end_headers()
            self.wfile.write(b"healthy")

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server.cert, certificates.server.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", shown
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def proxy_that_refuses() -> Iterator[tuple[str, list[bytes]]]:
    """Listen as a proxy of HTTP would, and answer 503; yield its address, and the first line of all it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(4096).split(b"\r\n")[0])
                    connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")

        thread = Thread(target=answer)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()

"""TLS of a whole deployment: predictions, health, status, metrics, and certificates that are exchanged under load."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from ringpull.deploy import cli
from ringpull.inference.client.client import Client
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.errors import InvalidInput, RingpullError, Unavailable
from ringpull.ps.process import ShardProcess
from ringpull.ps.tls import NO_TLS, TlsFiles
from tests.certificates import Certificates, Pair
from tests.integration.local import LocalCluster, local_cluster, open_versions
from tests.integration.ranker import Ranker, offline, random_columns
from tests.reference import assert_close

pytestmark = [pytest.mark.net, pytest.mark.medium]

Exported = tuple[Ranker, Path]


@dataclass(frozen=True)
class Deployment:
    """A deployment of two shards and a head, and what its clients need."""

    cluster: LocalCluster
    mutual: bool
    all: Certificates

    @property
    def shown(self) -> Credentials:
        return credentials(self.all, self.all.client if self.mutual else None)

    def client(self) -> Client:
        return self.cluster.client(self.shown)

    def get(self, path: str, port: int = 0, context: ssl.SSLContext | None = None) -> http.client.HTTPResponse:
        context = self.shown.ssl_context() if context is None else context
        at = port or self.cluster.address.http_port
        with closing(http.client.HTTPSConnection("127.0.0.1", at, context=context)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.body = answer.read()  # type: ignore[attr-defined]
            return answer


def credentials(certificates: Certificates, pair: Pair | None = None, ca: Path | None = None) -> Credentials:
    cert, key = (str(pair.cert), str(pair.key)) if pair else ("", "")
    return Credentials.given(str(ca or certificates.ca), cert, key, "")


def text_of(answer: http.client.HTTPResponse) -> str:
    return answer.body.decode()  # type: ignore[attr-defined, no-any-return]


def head_of(files: TlsFiles) -> HeadConfig:
    return HeadConfig(default_timeout_s=60, tls=files)


@pytest.fixture(scope="module", params=["tls", "mutual"])
def deployment(exported: Exported, certificates: Certificates, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    mutual = request.param == "mutual"
    config = head_of(certificates.mutual if mutual else certificates.tls)
    with local_cluster([exported[1]], shards=2, config=config) as cluster:
        yield Deployment(cluster, mutual, certificates)


@pytest.fixture(scope="module")
def plain(exported: Exported) -> Iterator[LocalCluster]:
    with local_cluster([exported[1]], shards=1) as cluster:
        yield cluster


def test_predictions_over_tls_equal_the_modules_own(exported: Exported, deployment: Deployment) -> None:
    module, _ = exported
    rng = np.random.default_rng(8)
    with deployment.client() as client:
        for rows in (1, 33, 2_000):
            columns = random_columns(rng, rows)
            outputs = dict(client.predict("ranker", columns).outputs)
            for name, values in offline(module, columns, rows).items():
                assert_close(outputs[name], values)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_clients_hold_the_name_they_connect_to_against_the_certificate(deployment: Deployment, host: str) -> None:
    with Client(f"{host}:{deployment.cluster.address.grpc_port}", credentials=deployment.shown) as client:
        assert client.models()


def models_of(target: str, shown: grpc.ChannelCredentials | None) -> None:
    channel = grpc.insecure_channel(target) if shown is None else grpc.secure_channel(target, shown)
    with channel:
        call = channel.unary_unary(
            "/ringpull.v1.Predictor/ListModels",
            pb.ListModelsRequest.SerializeToString,
            pb.ListModelsResponse.FromString,
        )
        assert call(pb.ListModelsRequest(), timeout=60).models


def test_a_plain_grpc_client_needs_the_ca_and_where_it_is_demanded_a_certificate(deployment: Deployment) -> None:
    target, known = deployment.cluster.target, deployment.all
    ca, client, strange = known.ca.read_bytes(), known.client, known.stranger
    right = [grpc.ssl_channel_credentials(ca, client.key.read_bytes(), client.cert.read_bytes())]
    wrong = [None, grpc.ssl_channel_credentials(known.stranger_ca.cert.read_bytes())]
    (wrong if deployment.mutual else right).append(grpc.ssl_channel_credentials(ca))
    if deployment.mutual:
        wrong.append(grpc.ssl_channel_credentials(ca, strange.key.read_bytes(), strange.cert.read_bytes()))
    for each in right:
        models_of(target, each)
    for each in wrong:
        with pytest.raises(grpc.RpcError) as caught:
            models_of(target, each)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_http_and_metrics_are_within_tls(deployment: Deployment) -> None:
    assert json.loads(text_of(deployment.get("/healthz")))["status"] == "SERVING"
    assert deployment.get("/status").status == 200
    assert "ringpull_requests_total" in text_of(deployment.get("/metrics"))
    shard = deployment.cluster.shards[0].heartbeat().metrics_port
    assert "ringpull_shard_requests_total" in text_of(deployment.get("/metrics", shard))


def test_http_demands_certificates_where_grpc_does(deployment: Deployment) -> None:
    context = credentials(deployment.all).ssl_context()
    ports = [deployment.cluster.address.http_port, deployment.cluster.shards[0].heartbeat().metrics_port]
    strange = credentials(deployment.all, deployment.all.stranger).ssl_context()
    for port in ports:
        if not deployment.mutual:
            assert deployment.get("/metrics", port, context).status == 200
            continue
        for each in (context, strange):
            with pytest.raises(ssl.SSLError, match=r"certificate required|unknown ca"):
                deployment.get("/metrics", port, each)


def test_plain_http_at_the_port_of_https_hears_why(deployment: Deployment) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", deployment.cluster.address.http_port)) as connection:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert answer.status == 400
        assert b"HTTPS only" in answer.read()


def test_a_silent_client_of_https_holds_nobody_up(deployment: Deployment) -> None:
    silent = [socket.create_connection(("127.0.0.1", deployment.cluster.address.http_port)) for _ in range(20)]
    try:
        assert deployment.get("/healthz").status == 200
    finally:
        for each in silent:
            each.close()


def test_a_head_without_the_certificate_says_that_its_shards_want_one(
    exported: Exported, deployment: Deployment, plain: LocalCluster
) -> None:
    """One that has it says that the shards it is told of speak in plain text."""
    strange = deployment.all.stranger.files(deployment.all.stranger_ca.cert)
    for files, shard_map, reason in (
        (NO_TLS, deployment.cluster.shard_map, "this shard speaks TLS only"),
        (strange, deployment.cluster.shard_map, "its certificate is not taken"),
        (deployment.all.tls, plain.shard_map, "it does not speak TLS"),
    ):
        head = HeadProcess(head_of(files))
        try:
            with pytest.raises(Unavailable, match=reason):
                head.start(shard_map, [exported[1]])
        finally:
            head.drain(0)


def test_files_that_cannot_be_used_start_no_process(certificates: Certificates) -> None:
    for make in (lambda tls: HeadProcess(head_of(tls)), lambda tls: ShardProcess(0, tls=tls)):
        with pytest.raises(InvalidInput, match=r"--tls-cert .* has expired"):
            make(certificates.expired.files())


def test_the_operators_door_at_a_port_is_within_tls(exported: Exported, certificates: Certificates) -> None:
    ca, client = certificates.ca.read_bytes(), certificates.client
    config = replace(head_of(certificates.mutual), admin_host="127.0.0.1")
    with local_cluster([exported[1]], shards=1, config=config) as cluster:
        models_of(
            cluster.address.admin,
            grpc.ssl_channel_credentials(ca, client.key.read_bytes(), client.cert.read_bytes()),
        )
        for wrong in (None, grpc.ssl_channel_credentials(ca)):
            with pytest.raises(grpc.RpcError):
                models_of(cluster.address.admin, wrong)


def test_commands_ask_over_tls(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = deployment.shown
    files = {"--tls-ca": shown.ca_file, "--tls-cert": shown.cert_file, "--tls-key": shown.key_file}
    given = [word for name, path in files.items() if path for word in (name, path)]
    for more, status in ((given, 0), ([], 1)):
        monkeypatch.setattr(sys, "argv", ["ringpull", "status", "--json", "--target", deployment.cluster.target, *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or 0) == status
        said = capsys.readouterr()
        assert json.loads(said.out)["head"] == deployment.cluster.target if given == more else "TLS" in said.err


def write(pair: Pair, to: Pair) -> None:
    shutil.copy(pair.cert, to.cert)
    shutil.copy(pair.key, to.key)


def test_certificates_are_exchanged_under_load(exported: Exported, certificates: Certificates, tmp_path: Path) -> None:
    """One file after the other, in all processes at once: no prediction fails, and new connections see the new one."""
    module, folder = exported
    pair = Pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    write(certificates.server, pair)
    columns = random_columns(np.random.default_rng(5), 3)
    [(name, expected)] = list(offline(module, columns, 3).items())[:1]
    stop, failures, answered = threading.Event(), [], []
    with local_cluster([folder], shards=2, config=head_of(pair.files())) as cluster:
        deployment = Deployment(cluster, False, certificates)

        def ask() -> None:
            while not stop.is_set():
                try:
                    with deployment.client() as client:  # a new connection, and several calls on it
                        for _ in range(3):
                            assert_close(client.predict("ranker", columns).outputs[name], expected)
                            answered.append(name)
                except (RingpullError, AssertionError) as exc:
                    failures.append(exc)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for now in (certificates.renewed, certificates.server, certificates.renewed):
                for source, target in ((now.cert, pair.cert), (now.key, pair.key)):
                    shutil.copy(source, target)
                    before = len(answered)
                    while len(answered) < before + 12 and not failures:
                        assert deployment.get("/healthz").status == 200
                assert deployment_shows(cluster) == now.cert.read_text()
                assert cluster.head.heartbeat().warnings == ()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not failures
        pair.key.write_text("not a key")
        for member in (cluster.head, *cluster.shards):
            [warning] = member.heartbeat().warnings
            assert re.search("of before are in use for TLS: --tls-key .* no private key", warning)
        with deployment.client() as client:
            assert_close(client.predict("ranker", columns).outputs[name], expected)


def deployment_shows(cluster: LocalCluster) -> str:
    """Return the certificate that gRPC and HTTP show to a new client; it is the same."""
    ports = {cluster.address.grpc_port, cluster.address.http_port, cluster.shards[0].heartbeat().metrics_port}
    [shown] = {ssl.get_server_certificate(("127.0.0.1", port)) for port in ports}
    return shown


def test_shards_that_come_later_speak_tls_too(exported: Exported, certificates: Certificates) -> None:
    """A map that tells of other shards, as after a rebalance, is gone by over TLS."""
    module, folder = exported
    columns = random_columns(np.random.default_rng(6), 5)
    with local_cluster([folder], shards=1, config=head_of(certificates.mutual)) as cluster:
        more = [ShardProcess(shard, tls=certificates.mutual) for shard in range(3)]
        try:
            later = replace(open_versions(more, [folder], 1), epoch=2)
            cluster.head.route(later, {"ranker": 1}, [("ranker", 1)])
            with cluster.client(credentials(certificates, certificates.client)) as client:
                outputs = client.predict("ranker", columns).outputs
            for name, values in offline(module, columns, 5).items():
                assert_close(outputs[name], values)
        finally:
            for each in more:
                each.stop()

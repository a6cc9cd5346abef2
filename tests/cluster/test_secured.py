"""A deployment that asks everyone: TLS on every leg, a client certificate, a token with a role, and quotas."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pytest

from ringpull import Client
from ringpull.inference.client.operations import OperationsClient, Publish
from ringpull.inference.errors import Forbidden, LimitExceeded, Unauthenticated, Unavailable
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.loadtest.local import LOCUSTFILE
from tests.certificates import Certificates
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.models import score, write_model
from tests.reference import assert_close

pytestmark = pytest.mark.ray

COLUMNS = {"user_id": [7, 800], "genres": [["drama"], []]}
REQUEST = {"model": "ranker", "features": COLUMNS}
EXPECTED = [score(7, ["drama"]), score(800, [])]
SECRETS = {name: f"{name}-secret-of-sufficient-length" for name in ("web", "load", "scraper", "ops", "few")}
ROLES = {"web": "predict", "load": "predict", "scraper": "read", "ops": "operate", "few": "predict"}
QUOTAS = {"few": "requests_per_s = 1\n"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = write_model(tmp_path_factory.mktemp("models") / "ranker", 1)
    return write_model(model, 2)


@pytest.fixture(scope="module")
def serving(
    folder: Path,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
    serve: Callable[..., Serving],
) -> Serving:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    tokens.write_text(
        "".join(
            f'[[token]]\nname = "{name}"\ntoken = "{secret}"\nroles = ["{ROLES[name]}"]\n{QUOTAS.get(name, "")}'
            for name, secret in SECRETS.items()
        )
    )
    tokens.chmod(0o600)
    tls = certificates.mutual
    files = ("--tls-cert", tls.cert, "--tls-key", tls.key, "--tls-ca", tls.ca)
    return serve(folder, "--shards", 2, *files, "--tokens", tokens, "--admin-port", 0)


def client(serving: Serving, certificates: Certificates, token: str, **how: int) -> Client:
    return Client(
        serving.ready["grpc"],
        tls_ca=certificates.ca,
        tls_cert=certificates.client.cert,
        tls_key=certificates.client.key,
        token=SECRETS.get(token, token),
        **how,  # type: ignore[arg-type]
    )


def asked_without_end(client: Client) -> None:
    while True:
        client.predict("ranker", COLUMNS)


@pytest.fixture
def asking(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """Environment of whoever has a certificate and the token of a name; "" is none."""

    def of(token: str) -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith("RINGPULL_T")}
        return {
            **known,
            "RINGPULL_TLS_CA": str(certificates.ca),
            "RINGPULL_TLS_CERT": str(certificates.client.cert),
            "RINGPULL_TLS_KEY": str(certificates.client.key),
            **({"RINGPULL_TOKEN": SECRETS[token]} if token else {}),
        }

    return of


def test_our_client_is_answered_by_its_role(serving: Serving, certificates: Certificates) -> None:
    with client(serving, certificates, "web") as web:
        assert_close(web.predict("ranker", COLUMNS).outputs["score"], EXPECTED)
        with pytest.raises(Forbidden, match="read"):
            web.status()
    with client(serving, certificates, "scraper") as scraper:
        assert [shard.alive for shard in scraper.status().shards] == [True, True]
        with pytest.raises(Forbidden, match="predict"):
            scraper.predict("ranker", COLUMNS)
    for token in ("", "nobody-knows-this-token"):
        with client(serving, certificates, token) as stranger, pytest.raises(Unauthenticated):
            stranger.predict("ranker", COLUMNS)
    with Client(serving.ready["grpc"], timeout_s=5, token=SECRETS["web"]) as plain, pytest.raises(Unavailable):
        plain.predict("ranker", COLUMNS)


def test_a_quota_is_refused_with_a_hint(serving: Serving, certificates: Certificates) -> None:
    with client(serving, certificates, "few", retries=0) as few:
        with pytest.raises(LimitExceeded, match="requests_per_s") as refused:
            asked_without_end(few)
        assert refused.value.retry_after_s
    with client(serving, certificates, "web", retries=0) as web:
        assert_close(web.predict("ranker", COLUMNS).outputs["score"], EXPECTED)


def test_a_plain_client_of_grpc(serving: Serving, certificates: Certificates) -> None:
    mine = certificates.client
    credentials = grpc.ssl_channel_credentials(
        certificates.ca.read_bytes(), mine.key.read_bytes(), mine.cert.read_bytes()
    )
    request = encode_request(as_call("ranker", COLUMNS)).SerializeToString()
    with grpc.secure_channel(serving.ready["grpc"], credentials) as channel:
        predict = channel.unary_unary(
            "/ringpull.v1.Predictor/Predict", response_deserializer=pb.PredictResponse.FromString
        )
        for metadata, code in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            ((("authorization", f"Bearer {SECRETS['scraper']}"),), grpc.StatusCode.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.RpcError) as failed:
                predict(request, metadata=metadata)
            assert failed.value.code() is code
        assert predict(request, metadata=(("authorization", f"Bearer {SECRETS['web']}"),)).version == 2


def test_http(serving: Serving, certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.load_cert_chain(certificates.client.cert, certificates.client.key)
    with httpx.Client(base_url=f"https://{serving.ready['http']}", verify=context) as http:
        assert http.get("/healthz").json()["status"] == "SERVING"
        assert http.get("/status").status_code == 401
        for token, status in (("web", 403), ("scraper", 200)):
            assert http.get("/metrics", headers={"authorization": f"Bearer {SECRETS[token]}"}).status_code == status
    assert httpx.get(f"http://{serving.ready['http']}/healthz").text == "This port speaks HTTPS only\n"


def test_commands(
    serving: Serving, environment: dict[str, str], asking: Callable[[str], dict[str, str]], ringpull: RingpullRun
) -> None:
    def run(token: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        known = {name: environment[name] for name in ("RINGPULL_STATE_DIR", "PYTHONPATH", "COLUMNS")}
        command = [sys.executable, "-m", "ringpull", *arguments, "--target", serving.ready["grpc"]]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env={**asking(token), **known}, check=False
        )

    plain = ringpull("status", "--target", serving.ready["grpc"])
    assert (plain.returncode, "Traceback" in plain.stderr) == (1, False)
    assert run("", "status").returncode == 1
    status = run("scraper", "status", "--json")
    assert status.returncode == 0, status.stderr
    assert len(json.loads(status.stdout)["shards"]) == 2
    predicted = run("web", "predict", "ranker", "--json", "--json-request", "-", stdin=json.dumps(REQUEST))
    assert predicted.returncode == 0, predicted.stderr
    refused = run("scraper", "publish", "ranker/1")
    assert refused.returncode == 1
    assert "operate" in refused.stderr
    published = run("ops", "publish", "ranker/1")
    assert published.returncode == 0, published.stderr
    assert run("ops", "publish", "ranker/2").returncode == 0
    for ran in (plain, status, predicted, refused, published):
        assert not any(secret in ran.stdout + ran.stderr for secret in SECRETS.values())


def test_the_port_of_operators_asks_for_the_role(serving: Serving, certificates: Certificates) -> None:
    mine = {"tls_ca": certificates.ca, "tls_cert": certificates.client.cert, "tls_key": certificates.client.key}
    with OperationsClient(serving.ready["admin"], token=SECRETS["web"], **mine) as web, pytest.raises(Forbidden):
        web.call(Publish(model="ranker", version=1))
    with OperationsClient(serving.ready["admin"], **mine, token="") as nobody, pytest.raises(Unauthenticated):
        nobody.call(Publish(model="ranker", version=1))


def test_locust_and_the_open_loop(
    serving: Serving, asking: Callable[[str], dict[str, str]], tmp_path: Path, environment: dict[str, str]
) -> None:
    mine = {**asking("load"), "PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], *sys.path[1:]])}
    workload = ["--candidates", "4", "--requests", "4"]
    locust = ["locust", "-f", str(LOCUSTFILE), "--headless", "-H", serving.ready["grpc"], "-u", "2", "-t", "2s"]
    locust += [*workload, "--report", str(tmp_path)]
    loop = ["ringpull", "loadtest", "--rate", "50", "--seconds", "1", *workload, "--json"]
    loop += ["--target", serving.ready["grpc"]]
    for command in (locust, loop):
        ran = subprocess.run(
            [sys.executable, "-m", *command], env=mine, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["failures"] == 0
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert (summary["failures"], summary["requests"] > 0) == (0, True)


def test_it_ends_and_has_told_no_secret(serving: Serving) -> None:
    """The last one here."""
    assert serving.end() == 0
    log = serving.log.read_text()
    assert not any(secret in log for secret in SECRETS.values())

"""A head that asks for tokens, with real shards: a plain client of gRPC, HTTP, metrics, and a file that changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from ringpull.inference.client import stubs
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.head.tokens import tokens as tokens_module
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.ps.errors import InvalidInput
from tests.inference.tiny import export_tiny
from tests.integration.local import LocalCluster, local_cluster
from tests.metrics_page import Page, documented

pytestmark = [pytest.mark.net, pytest.mark.medium]

OLD, NEW, READER, SELDOM = "old-secret-0123456789", "new-secret-0123456789", "secret-of-prometheus", "secret-of-seldom"


def text_of(*secrets: str) -> str:
    listed = ", ".join(f'"{each}"' for each in secrets)
    return (
        f'[[token]]\nname = "web"\ntoken = [{listed}]\nroles = ["predict"]\nin_flight = 100\n'
        f'[[token]]\nname = "seldom"\ntoken = "{SELDOM}"\nroles = ["predict"]\nrequests_per_s = 1e-9\n'
        f'[[token]]\nname = "prometheus"\ntoken = "{READER}"\nroles = ["read"]\n'
    )


def put(file: Path, text: str) -> None:
    other = file.with_name("other")
    other.touch(0o600)
    other.write_text(text)
    other.rename(file)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("models"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens.toml"
    put(file, text_of(OLD))
    return file


@pytest.fixture
def cluster(version: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    monkeypatch.setattr(tokens_module, "LOOK_S", 0.01)
    config = HeadConfig(default_timeout_s=60, tokens=TokenSettings(file=str(file)))
    with local_cluster([version], shards=1, config=config) as running:
        yield running


def predicts(cluster: LocalCluster, secret: str) -> str:
    """The code of a plain call."""
    message = encode_request(as_call("tiny", {"item": [1, 2], "price": [1.0, 2.0]}, {})).SerializeToString()
    with grpc.insecure_channel(cluster.target) as channel:
        call = channel.unary_unary(stubs.PREDICT.path)
        try:
            call(message, timeout=60, metadata=[("authorization", f"Bearer {secret}")])
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.01)


def test_a_token_is_exchanged_without_a_call_refused(cluster: LocalCluster, file: Path) -> None:
    assert (predicts(cluster, OLD), predicts(cluster, NEW)) == ("OK", "UNAUTHENTICATED")
    assert predicts(cluster, READER) == "PERMISSION_DENIED"
    put(file, text_of(OLD, NEW))
    until(lambda: predicts(cluster, NEW) == "OK")
    assert predicts(cluster, OLD) == "OK"
    put(file, text_of(NEW))
    until(lambda: predicts(cluster, OLD) == "UNAUTHENTICATED")
    assert predicts(cluster, NEW) == "OK"


def test_what_is_wrong_with_the_file_is_in_the_status(cluster: LocalCluster, file: Path) -> None:
    def warnings() -> list[str]:
        answer = httpx.get(http + "/status", headers={"Authorization": f"Bearer {READER}"}, timeout=60)
        return [str(each) for each in answer.json()["warnings"]]

    http = f"http://{cluster.address.host}:{cluster.address.http_port}"
    assert warnings() == []
    file.write_text(text_of(NEW) + "x = ")
    until(lambda: bool(cluster.head.heartbeat().warnings))
    (warning,) = warnings()
    assert warning.startswith(f"the tokens of before are in force: tokens file {file} is not valid TOML: see ")
    assert (predicts(cluster, OLD), predicts(cluster, NEW)) == ("OK", "UNAUTHENTICATED")
    put(file, text_of(NEW))
    until(lambda: not cluster.head.heartbeat().warnings)
    until(lambda: predicts(cluster, NEW) == "OK")


def test_metrics_tell_of_callers_as_documented(cluster: LocalCluster) -> None:
    assert [predicts(cluster, each) for each in (OLD, SELDOM, SELDOM)] == ["OK", "OK", "RESOURCE_EXHAUSTED"]
    page = Page.of(cluster.address.host, cluster.address.http_port, Authorization=f"Bearer {READER}")
    assert page.value("ringpull_token_requests_total", token="web", code="OK") == 1
    assert page.value("ringpull_quota_refused_total", token="seldom", limit="requests_per_s") == 1
    told = documented("Metrics of a head that asks for tokens")
    assert told == {name: about for name, about in page.described().items() if name in told}
    assert httpx.get(f"http://{cluster.address.host}:{cluster.address.http_port}/metrics").status_code == 401


def test_our_client_without_a_token_is_told_so(cluster: LocalCluster) -> None:
    with grpc.insecure_channel(cluster.target) as channel:
        call = channel.unary_unary("/ringpull.v1.Predictor/ListModels")
        with pytest.raises(grpc.RpcError, match="a token is asked for here") as caught:
            call(pb.ListModelsRequest().SerializeToString(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_head_whose_tokens_cannot_be_read_is_not_made(file: Path) -> None:
    file.chmod(0o666)
    with pytest.raises(InvalidInput, match="can be written by others"):
        HeadProcess(HeadConfig(tokens=TokenSettings(file=str(file))))

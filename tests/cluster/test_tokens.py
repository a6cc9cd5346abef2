"""Tokens of a deployment as its users start it: asked by the commands, by a scraper, and nowhere to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.models import write_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WEB, READER, SELDOM = "s3cret-of-the-web-0123456789", "s3cret-of-prometheus-012345", "s3cret-of-who-comes-seldom"
TEXT = f"""
[[token]]
name = "web"
token = "{WEB}"
roles = ["predict"]

[[token]]
name = "seldom"
token = "{SELDOM}"
roles = ["predict"]
requests_per_s = 0.0001

[[token]]
name = "prometheus"
token = "{READER}"
roles = ["read"]
"""


@pytest.fixture(scope="module")
def serving(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], serve: Callable[..., Serving]
) -> Iterator[Serving]:
    model = write_model(tmp_path_factory.mktemp("models") / "ranker", 3)
    environment["RINGPULL_TOKENS"] = TEXT
    serving = serve(model, "--log-dir", tmp_path_factory.mktemp("logs"), "--log-level", "debug")
    del environment["RINGPULL_TOKENS"]
    yield serving
    serving.end()


def predict(ringpull: RingpullRun, serving: Serving, *options: str) -> tuple[int, str]:
    ran = ringpull(
        "predict", "ranker", "--features", "user_id=7,genres=drama", "--target", serving.ready["grpc"], *options
    )
    return ran.returncode, ran.stderr


def test_the_commands_and_a_scraper_are_asked(serving: Serving, ringpull: RingpullRun) -> None:
    assert predict(ringpull, serving, "--token", WEB) == (0, "")
    for options, message in (
        ((), "a token is asked for here"),
        (("--token", "s3cret-of-nobody-0123456789"), "the token is not known here"),
        (("--token", READER), "token prometheus may not do that: it has read, and predict is needed"),
    ):
        status, said = predict(ringpull, serving, *options)
        assert (status, message in said) == (1, True), said
    assert predict(ringpull, serving, "--token", SELDOM)[0] == 0
    assert (
        "token seldom is over its quota: requests_per_s is 0.0001" in predict(ringpull, serving, "--token", SELDOM)[1]
    )
    targets = f"http://{serving.ready['http']}/metrics/targets"
    assert httpx.get(targets).status_code == 401
    reader = {"Authorization": f"Bearer {READER}"}
    found = httpx.get(targets, headers=reader).json()
    assert {each["labels"]["role"] for each in found} == {"head", "shard"}
    for each in found:
        page = f"http://{each['targets'][0]}/metrics"
        assert httpx.get(page).status_code == 401
        assert httpx.get(page, headers={"Authorization": f"Bearer {WEB}"}).status_code == 403
        assert "ringpull_" in httpx.get(page, headers=reader).text


def test_no_secret_is_in_a_process_that_was_started_or_in_a_file_that_was_written(
    serving: Serving, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> None:
    below = psutil.Process(serving.process.pid).children(recursive=True)
    assert any(each.name().startswith("ray::") for each in below)
    for each in below:
        try:
            told = [*each.cmdline(), *each.environ().values()]
        except psutil.NoSuchProcess:
            continue
        assert not any("s3cret" in word for word in told), each
    written = [
        path
        for folder in (Path(environment["RINGPULL_STATE_DIR"]), tmp_path_factory.getbasetemp())
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert any(path.name.endswith("-head-0.log") for path in written), written
    assert [path for path in written if b"s3cret" in path.read_bytes()] == []
    assert "s3cret" not in str(serving.ready)

"""TensorFlow Serving's REST API over a real socket: its published examples, its errors, `curl`, and hostile bodies."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest

from ringpull import Ragged
from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.access import ANYONE, Caller
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.tfs import rest, rest_answers
from ringpull.ps.errors import Unauthenticated
from ringpull.router.control.verbs import Role
from tests.inference.http_served import HttpServed, http_served
from tests.inference.served import Served, still_serves
from tests.inference.tfs.rest_served import RestServed

pytestmark = pytest.mark.net

CONFIG = HeadConfig(max_message_bytes=200_000, max_candidates=50, max_values_per_row=20, default_timeout_s=60)
GOLDEN = Path(__file__).parent / "rest_golden" / "examples.txt"


class Example(NamedTuple):
    """A request and its answer."""

    method: str
    path: str
    body: str
    status: int
    answer: str

    @classmethod
    def read(cls, text: str) -> Example:
        request, _, answer = text.partition("\n\n")
        asked, _, body = request.partition("\n")
        method, path = asked.split()
        status, _, expected = answer.partition("\n")
        return cls(method, path, body, int(status), expected)


EXAMPLES = [Example.read(each) for each in GOLDEN.read_text(encoding="utf-8").removesuffix("\n").split("\n====\n")[1:]]


@pytest.fixture
async def http() -> AsyncIterator[HttpServed]:
    with ThreadPoolExecutor(1) as executor:
        served = RestServed(executor, CONFIG)
        async with http_served(served) as http:  # type: ignore[arg-type]
            yield http
        await served.stop()


async def test_published_examples_to_the_character(http: HttpServed) -> None:
    assert len(EXAMPLES) > 30
    for example in EXAMPLES:
        answer = await http.client.request(example.method, example.path, content=example.body.encode())
        assert (answer.status_code, answer.text) == (example.status, example.answer), example
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_the_first_curl_of_its_documentation(http: HttpServed) -> None:
    url = f"{http.url}/v1/models/half_plus_two:predict"
    curl = await asyncio.create_subprocess_exec(
        "curl", "-s", "-d", '{"instances": [1.0, 2.0, 5.0]}', "-X", "POST", url, stdout=subprocess.PIPE
    )
    out, _ = await curl.communicate()
    assert json.loads(out) == {"predictions": [2.5, 3.0, 4.5]}
    assert out == EXAMPLES[0].answer.encode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_the_page_on_the_api_tells_the_truth(http: HttpServed) -> None:
    """Each command of REST.md is answered with the JSON that follows it there."""
    page = (Path(rest.__file__).parent / "REST.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```sh\n(.*?)^```\n```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == page.count("```sh") > 4
    for command, expected in examples:
        shell = ["bash", "-c", command.replace("http://localhost:8501", http.url).replace("curl ", "curl -s ", 1)]
        ran = await asyncio.create_subprocess_exec(*shell, stdout=subprocess.PIPE)
        out, _ = await ran.communicate()
        assert json.loads(out) == json.loads(expected), command


async def test_metadata_is_what_clients_read(http: HttpServed) -> None:
    told = (await http.client.get("/v1/models/wide/metadata")).json()
    assert told["model_spec"] == {"name": "wide", "signature_name": "", "version": "1"}
    signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert {name: each["dtype"] for name, each in signature["inputs"].items()} == {
        "tag": "DT_STRING",
        "signal": "DT_FLOAT",
        "sensor": "DT_FLOAT",
    }
    shape = signature["outputs"]["sensor"]["tensor_shape"]
    assert [each["size"] for each in shape["dim"]] == ["-1", "2", "2"]


async def test_head_is_get_without_the_body(http: HttpServed) -> None:
    answer = await http.client.head("/v1/models/half_plus_two")
    assert (answer.status_code, answer.text) == (200, "")
    assert (await http.client.head("/v1/models/nobody")).status_code == 404


async def test_labels_name_versions(http: HttpServed) -> None:
    http.served.catalog.show(
        {each.key[0]: each.key[1] for each in http.served.catalog.served()},
        [each.key for each in http.served.catalog.served()],
        labels={"half.plus_four": {"stable/Old": 4}},
    )
    asked = "/v1/models/half.plus_four/labels/stable%2FOld"
    assert (await http.client.post(f"{asked}:predict", json={"instances": [1.0]})).json() == {"predictions": [4.5]}
    told = (await http.client.get(asked)).json()["model_version_status"]
    assert [each["version"] for each in told] == ["4"]
    assert (await http.client.get(f"{asked}/metadata")).json()["model_spec"]["version"] == "4"
    assert (await http.client.get(asked.replace("Old", "old"))).status_code == 400


async def test_the_list_of_models_stays_ours(http: HttpServed) -> None:
    names = {each["name"] for each in (await http.client.get("/v1/models")).json()["models"]}
    assert {"half_plus_two", "wide"} <= names


# -- a recommender's requests ------------------------------------------------------------------------------------------

ROWS = [
    {"item": 1, "genres": [1, 2], "tags": [1, 4], "tags_weights": [0.5, 2.0], "history": [5, 6, 7], "recent": []},
    {"item": 2, "genres": [], "tags": [], "tags_weights": [], "history": [], "recent": [3]},
    {"item": 5, "genres": [4], "tags": [2], "tags_weights": [1.0], "history": [5], "recent": [3, 4]},
]
CONTEXT = {"user": 3, "age": [1.0, 2.0], "price": 3.0}
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
FLAT = {
    "item": [1, 2, 5],
    "genres": [1, 2, 4],
    "genres_offsets": [0, 2, 2, 3],
    "tags": [1, 4, 2],
    "tags_offsets": [0, 2, 2, 3],
    "tags_weights": [0.5, 2.0, 1.0],
    "history": [5, 6, 7, 5],
    "history_offsets": [0, 3, 3, 4],
    "recent": [3, 3, 4],
    "recent_offsets": [0, 0, 1, 3],
}
ONE_ROW = {"user": [3], "age": [[1.0, 2.0]], "price": [3.0]}
REPEATED = {"user": [3] * 3, "age": [[1.0, 2.0]] * 3, "price": [3.0] * 3}
FORMS: dict[str, dict[str, Any]] = {
    "rows": {"instances": [{**row, **CONTEXT} for row in ROWS]},
    "rows beside a context": {"instances": ROWS, "context": CONTEXT},
    "columns": {"inputs": {**COLUMNS, **REPEATED}},
    "columns beside a context": {"inputs": COLUMNS, "context": CONTEXT},
    "columns of one row": {"inputs": {**COLUMNS, **ONE_ROW}},
    "plain values among columns": {"inputs": {**COLUMNS, **CONTEXT}},
    "offsets": {"inputs": {**FLAT, **ONE_ROW}},
    "offsets beside a context": {"inputs": FLAT, "context": CONTEXT},
}


@pytest.mark.medium
@pytest.mark.parametrize("form", FORMS)
async def test_all_forms_of_a_request_are_answered_as_over_our_own_protocol(served: Served, form: str) -> None:
    tags = Ragged([1, 4, 2], [0, 2, 2, 3], [0.5, 2.0, 1.0])
    features = {name: COLUMNS[name] for name in ("item", "genres", "history", "recent")} | {"tags": tags}
    async with http_served(served) as http, AsyncClient(served.target, timeout_s=60, retries=0) as client:
        expected = await client.predict("ranker", features, ONE_ROW)
        answer = await http.client.post("/v1/models/ranker:predict", json=FORMS[form])
    assert answer.status_code == 200, answer.text
    if "inputs" in FORMS[form]:
        found = answer.json()["outputs"]
    else:
        rows = answer.json()["predictions"]
        found = {name: [row[name] for row in rows] for name in rows[0]}
    assert list(found) == [each.name for each in served.version.loaded.manifest.outputs]
    assert found.keys() == expected.outputs.keys()
    for name, values in expected.outputs.items():
        assert np.array_equal(np.array(found[name], np.float32), values), name


# -- bad input ---------------------------------------------------------------------------------------------------------

PATH = "/v1/models/half_plus_two:predict"
BAD = {
    "no JSON": b"instances = [1, 2]",
    "no end": b'{"instances": [1.0, 2.0',
    "what follows": b'{"instances": [1.0]} {}',
    "no UTF-8": b'{"instances": ["\xff\xfe"]}',
    "nested deep": b'{"instances": ' + b"[" * 50_000 + b"1" + b"]" * 50_000 + b"}",
    "nested": b'{"instances": ' + b"[" * 100 + b"1" + b"]" * 100 + b"}",
    "nested objects": b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
    "a null": b'{"instances": [null]}',
    "a string": b'{"instances": "1.0"}',
    "strings": b'{"instances": ["1.0", "x"]}',
    "mixed": b'{"instances": [1.0, "x"]}',
    "mixed shapes": b'{"instances": [1.0, [1.0]]}',
    "mixed objects": b'{"instances": [{"x": 1.0}, 2.0]}',
    "mixed objects the other way": b'{"instances": [2.0, {"x": 1.0}]}',
    "ragged": b'{"instances": [[1.0], [1.0, 2.0]]}',
    "two values": b'{"instances": [[1.0, 2.0], [3.0, 4.0]]}',
    "no values": b'{"instances": [[], []]}',
    "empty objects": b'{"instances": [{}, {}]}',
    "an unknown name": b'{"instances": [{"z": 1.0}]}',
    "other names": b'{"instances": [{"x": 1.0}, {"y": 1.0}]}',
    "no rows": b'{"inputs": []}',
    "no names": b'{"inputs": {}}',
    "inputs that are null": b'{"inputs": null}',
    "inputs in base64": b'{"inputs": {"b64": "AAAA"}}',
    "wrong base64": b'{"instances": [{"b64": "====="}]}',
    "a number beyond float32": b'{"instances": [1e39]}',
    "a number beyond float64": b'{"instances": [1e999]}',
    "an integer beyond float64": b'{"instances": [1' + b"0" * 400 + b"]}",
    "an integer of 5,000 digits": b'{"instances": [' + b"9" * 5_000 + b"]}",
    "a context that is none": b'{"instances": [1.0], "context": 3}',
    "a context that is in the rows": b'{"instances": [{"x": 1.0}], "context": {"x": 2.0}}',
    "offsets of what has none": b'{"inputs": {"x": [1.0], "x_offsets": [0, 1]}}',
    "a surrogate": b'{"instances": ["\\ud800"]}',
    "a signature that is not there": b'{"signature_name": "z", "instances": [1.0]}',
    "examples": b'{"examples": [{"x": 1.0}]}',
}


async def test_a_bad_body_is_a_clear_error(http: HttpServed) -> None:
    for what, body in BAD.items():
        answer = await http.client.post(PATH, content=body)
        assert answer.status_code == 400, (what, answer.text)
        assert list(answer.json()) == ["error"]
        assert 10 < len(answer.json()["error"]) < 600, what
        assert (await http.client.post(PATH, content=EXAMPLES[0].body)).status_code == 200, what
    assert http.served.predictor.admission.in_flight_bytes == 0


BAD_EXAMPLES = {
    "none": b"{}",
    "no list": b'{"examples": {"x": 1.0}}',
    "empty": b'{"examples": []}',
    "no objects": b'{"examples": [1.0]}',
    "lists of lists": b'{"examples": [{"x": [[1.0]]}]}',
    "one without": b'{"examples": [{"x": 1.0}, {}]}',
    "two values": b'{"examples": [{"x": [1.0, 2.0]}]}',
    "null": b'{"examples": [{"x": null}]}',
    "an object": b'{"examples": [{"x": {"y": 1}}]}',
    "unknown": b'{"examples": [{"z": 1.0}]}',
}


@pytest.mark.parametrize("verb", ["classify", "regress"])
async def test_bad_examples_are_a_clear_error(http: HttpServed, verb: str) -> None:
    model = {"classify": "classes", "regress": "half_plus_two"}[verb]
    for what, body in BAD_EXAMPLES.items():
        answer = await http.client.post(f"/v1/models/{model}:{verb}", content=body)
        assert answer.status_code == 400, (what, answer.text)
        assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("path", "needs"),
    [
        ("/v1/models/half_plus_two:classify", "Classify needs an output of C values a row"),
        ("/v1/models/classes:regress", "Regress needs an output of one value a row"),
        ("/v1/models/wide:classify", "Classify needs an output of C values a row"),
    ],
)
async def test_a_verb_that_no_output_fits(http: HttpServed, path: str, needs: str) -> None:
    answer = await http.client.post(path, content=b'{"examples": [{"x": 1.0}]}')
    assert (answer.status_code, needs in answer.json()["error"]) == (400, True), answer.text


async def test_what_is_too_much_is_refused(http: HttpServed) -> None:
    many = json.dumps({"instances": [1.0] * 51})
    answer = await http.client.post(PATH, content=many)
    assert (answer.status_code, answer.json()["error"]) == (413, "the request has 51 rows; max_candidates is 50")
    columns = json.dumps({"inputs": {"x": [1.0] * 51}})
    assert (await http.client.post(PATH, content=columns)).status_code == 413
    names = json.dumps({"instances": [{f"x{place}": 1 for place in range(5_000)}]})
    answer = await http.client.post(PATH, content=names)
    assert (answer.status_code, "max_columns" in answer.json()["error"]) == (413, True)
    reader, writer = await http.raw(f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: {100 << 20}\r\n\r\n".encode())
    assert b" 413 " in await reader.readline()
    writer.close()
    assert http.served.predictor.admission.in_flight_bytes == 0


async def test_bodies_may_be_compressed(http: HttpServed) -> None:
    """TensorFlow Serving unpacks gzip."""
    body, zipped = EXAMPLES[0].body.encode(), {"Content-Encoding": "gzip"}
    answer = await http.client.post(PATH, content=gzip.compress(body), headers=zipped)
    assert (answer.status_code, answer.text) == (200, EXAMPLES[0].answer)
    assert (await http.client.post(PATH, content=body, headers=zipped)).status_code == 400
    bomb = gzip.compress(b'{"instances": [1.0' + b" " * 10_000_000 + b"]}")
    assert len(bomb) < CONFIG.max_message_bytes
    assert (await http.client.post(PATH, content=bomb, headers=zipped)).status_code == 413


async def test_who_goes_away_while_it_sends_costs_nothing(http: HttpServed) -> None:
    _, writer = await http.raw(f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{{".encode())
    while not len(http.served.predictor.receiving):
        await asyncio.sleep(0.001)
    writer.close()
    while len(http.served.predictor.receiving):
        await asyncio.sleep(0.001)
    assert (await http.client.post(PATH, content=EXAMPLES[0].body)).status_code == 200


async def test_a_stated_deadline_is_kept(served: Served) -> None:
    served.router.gate.clear()
    async with http_served(served) as http, AsyncClient(served.target, timeout_s=60, retries=0) as client:
        answer = await http.client.post(
            "/v1/models/ranker:predict", json=FORMS["rows"], headers={"Request-Timeout": "0.05"}
        )
        assert answer.status_code == 504
        assert list(answer.json()) == ["error"]
        served.router.gate.set()
        await still_serves(client)


async def test_a_deployment_with_tokens_asks_for_one() -> None:
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, access=OnlyWhoShows("Bearer right"))
        async with http_served(served) as http:
            for path in ("/v1/models/ranker:predict", "/V1/MODELS/ranker:predict"):
                answer = await http.client.post(path, json=FORMS["rows"])
                assert (answer.status_code, answer.json()) == (401, {"error": "show a token"})
                assert answer.headers["www-authenticate"] == "Bearer"
            assert (await http.client.get("/v1/models/ranker")).status_code == 401
            shown = {"Authorization": "Bearer right"}
            answer = await http.client.post("/v1/models/ranker:predict", json=FORMS["rows"], headers=shown)
            assert answer.status_code == 200
            assert (await http.client.get("/v1/models/ranker/metadata", headers=shown)).status_code == 200
        await served.version.batcher.close(timeout_s=60)


class OnlyWhoShows:
    """Access of whoever shows this."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def admit(self, authorization: str | None, *roles: Role) -> Caller:
        if authorization != self._shown:
            raise Unauthenticated("show a token")
        return ANYONE


async def test_what_is_long_is_worked_on_in_a_thread(http: HttpServed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests over 64 KiB, those that become so once they are unpacked, and long answers."""
    threads: list[tuple[str, bool]] = []

    def told(what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            threads.append((what, threading.current_thread() is threading.main_thread()))
            return work(*arguments)

        return call

    monkeypatch.setattr(rest, "read_question", told("read", rest.read_question))
    monkeypatch.setattr(rest_answers, "predictions", told("write", rest_answers.predictions))
    body = EXAMPLES[0].body.encode()
    padded = body + b" " * 70_000
    answers = [
        await http.client.post(PATH, content=body),
        await http.client.post(PATH, content=padded),
        await http.client.post(PATH, content=gzip.compress(padded), headers={"Content-Encoding": "gzip"}),
        await http.client.post(PATH, content=gzip.compress(body), headers={"Content-Encoding": "gzip"}),
    ]
    assert [answer.text for answer in answers] == [EXAMPLES[0].answer] * 4
    assert threads == [
        ("read", True),
        ("write", True),
        ("read", False),
        ("write", True),
        ("read", False),
        ("write", True),
        ("read", True),
        ("write", True),
    ]
    monkeypatch.setattr(rest, "BYTES_OF_NUMBER", 100_000)
    await http.client.post(PATH, content=body)
    assert threads[8:] == [("read", True), ("write", False)]


# -- fuzz --------------------------------------------------------------------------------------------------------------

PIECES = [b"[", b"]", b"{", b"}", b'"x"', b'"b64"', b"NaN", b"-", b"1e400", b"null", b"\x00", b"\xff", b"9" * 30, b","]


@pytest.mark.medium
async def test_bodies_with_errors_in_them_never_are_our_fault(http: HttpServed) -> None:
    """Published requests, cut and spliced at random: the answer is right or says what is wrong, and is never a 500."""
    random = Random(6)
    asked = [each for each in EXAMPLES if each.method == "POST" and each.body]
    seen = set()
    for _ in range(400):
        example = random.choice(asked)
        body = bytearray(example.body.encode())
        for _ in range(random.randrange(1, 4)):
            begin = random.randrange(len(body) + 1)
            body[begin : begin + random.randrange(6)] = random.choice(PIECES)
        answer = await http.client.post(example.path, content=bytes(body))
        assert answer.status_code in (200, 400, 404, 413), (bytes(body), answer.text)
        assert isinstance(answer.json(), dict)
        seen.add(answer.status_code)
    assert {200, 400} <= seen

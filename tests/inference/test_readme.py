"""What the READMEs of inference say is so: their requests fit their schema; every kind, setting and status is named."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import ringpull.inference
from ringpull.inference.client.client import Client
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.schema.kinds import KINDS
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import TRANSFORMS
from ringpull.inference.wire.codec import PredictCall, encode_request
from ringpull.inference.wire.request_json import call_from_json
from ringpull.inference.wire.status_codes import STATUSES
from ringpull.ps.errors import RingpullError

PAGES = ("schema/README.md", "proto/README.md", "client/README.md", "README.md")
README = "\n".join((Path(ringpull.inference.__file__).parent / page).read_text(encoding="utf-8") for page in PAGES)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def schema_of_the_readme() -> Schema:
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)
    schema: Schema = names["schema"]
    return schema


def test_both_requests_by_hand_are_one_and_fit_the_schema() -> None:
    by_hand, short = (call_from_json(text) for text in blocks("json"))
    prepared = [schema_of_the_readme().prepare_requests(call.features, call.context, [3]) for call in (by_hand, short)]
    assert by_hand.rows == short.rows == 3
    assert [part.context.filled for part in prepared] == [(), ()]
    for name, ready in prepared[0].candidates.features.items():
        other = prepared[1].candidates.features[name]
        assert (ready.ids is None) == (other.ids is None)
        if ready.ids is not None and other.ids is not None:
            assert ready.ids.tolist() == other.ids.tolist()


def test_the_clients_example_fits_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[PredictCall] = []

    class Stop(Exception):
        pass

    def keep(call: PredictCall) -> None:
        calls.append(call)
        encode_request(call)
        raise Stop

    monkeypatch.setattr("ringpull.inference.client.client.encode_request", keep)
    example = next(block for block in blocks("python") if "with Client" in block)
    with pytest.raises(Stop):
        exec(example, {})
    (call,) = calls
    request = schema_of_the_readme().prepare_requests(call.features, call.context, [call.rows])
    assert [filled.feature for filled in request.context.filled] == ["price"]


def test_the_asyncio_example_is_python() -> None:
    example = next(block for block in blocks("python") if "AsyncClient" in block)
    names: dict[str, Any] = {}
    exec(example, names)
    assert callable(names["scores"])


@pytest.mark.parametrize("kind", [*KINDS, *TRANSFORMS], ids=lambda kind: kind.__name__)
def test_every_kind_and_transform_is_in_a_table_with_its_fields(kind: type) -> None:
    rows = [line for line in README.splitlines() if line.startswith(f"| `{kind.__name__}(")]
    assert rows
    missing = [each.name for each in fields(kind) if not any(re.search(rf"\b{each.name}\b", row) for row in rows)]
    assert missing == []


def test_every_setting_is_in_the_table_with_its_default() -> None:
    for each in fields(HeadConfig):
        default = "none" if each.default is None else each.default
        if each.default is MISSING:
            default = f"`{each.default_factory.__name__}()`"
        assert f"| `{each.name}` | {default} |" in README


def test_every_status_is_in_the_table() -> None:
    for status in STATUSES:
        if issubclass(status.error, RingpullError):
            assert re.search(rf"^\| {status.grpc} \|", README, re.MULTILINE), status


def test_clients_have_the_same_verbs() -> None:
    verbs = {name for name in vars(Client) if not name.startswith("_")}
    assert verbs == {"predict", "lookup", "model", "models", "status", "close"}
    assert verbs == {name for name in vars(ringpull.AsyncClient) if not name.startswith("_")}

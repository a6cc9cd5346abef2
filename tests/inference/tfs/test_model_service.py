"""States of versions, and reloads, as TensorFlow Serving's clients ask for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ringpull.inference.head.access import AtDoor
from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.operators import Operators
from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import InvalidInput
from ringpull.router.control.change import Kind
from ringpull.router.control.operations import ChangeStatus, ModelSource, ServeModels
from tests.inference.small_model import SCHEMA, make_manifest
from tests.inference.tfs.requests import SPEC, refusal
from tests.inference.tfs.tfs_served import OUTPUTS, ScoringProgram, TfsServed

pytestmark = pytest.mark.net

# -- GetModelStatus ----------------------------------------------------------------------------------------------------


def states(reply: Any) -> list[tuple[int, str, str, str]]:
    named = messages.ModelVersionStatus.State
    codes = messages.StatusProto.DESCRIPTOR.fields_by_name["error_code"].enum_type.values_by_number
    return [
        (each.version, named.Name(each.state), codes[each.status.error_code].name, each.status.error_message)
        for each in reply.model_version_status
    ]


def another(tfs: TfsServed, number: int) -> ServedVersion:
    manifest = replace(make_manifest(), version=number, outputs=OUTPUTS)
    loaded = LoadedVersion(Path(f"ranker/{number}"), manifest, SCHEMA, ScoringProgram())  # type: ignore[arg-type]
    return ServedVersion(loaded, tfs.router, tfs.version.executor, max_batch_rows=64)


async def test_status_tells_the_state_of_every_version(tfs: TfsServed) -> None:
    tfs.catalog.add(another(tfs, 4))
    reply = await tfs.call("GetModelStatus", model_spec=SPEC)
    assert states(reply) == [(4, "LOADING", "OK", ""), (3, "AVAILABLE", "OK", "")]
    tfs.catalog.show({"ranker": 4}, [("ranker", 3), ("ranker", 4)])
    reply = await tfs.call("GetModelStatus", model_spec=SPEC)
    assert states(reply) == [(4, "AVAILABLE", "OK", ""), (3, "AVAILABLE", "OK", "")]


async def test_what_could_not_be_loaded_has_ended(tfs: TfsServed) -> None:
    tfs.catalog.show({"ranker": 3}, [("ranker", 3), ("ranker", 5)], {("ranker", 5): "no memory"})
    reply = await tfs.call("GetModelStatus", model_spec=SPEC)
    assert states(reply) == [(5, "END", "UNAVAILABLE", "no memory"), (3, "AVAILABLE", "OK", "")]


async def test_status_of_one_version(tfs: TfsServed) -> None:
    tfs.catalog.add(another(tfs, 4))
    tfs.catalog.show({"ranker": 4}, [("ranker", 3), ("ranker", 4)], labels={"ranker": {"stable": 3}})
    for chosen in ({"version": {"value": 3}}, {"version_label": "stable"}):
        assert states(await tfs.call("GetModelStatus", model_spec={**SPEC, **chosen})) == [(3, "AVAILABLE", "OK", "")]


@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        ({"name": "other"}, "NOT_FOUND", "Could not find any versions of model other"),
        ({"name": "ranker", "version": {"value": 9}}, "NOT_FOUND", "Could not find version 9 of model ranker"),
        ({"name": "ranker", "version": {"value": 0}}, "NOT_FOUND", "Specific(ranker, 0)"),
        ({"name": "ranker", "version_label": "x"}, "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        ({}, "INVALID_ARGUMENT", "model_spec.name: is empty"),
        (None, "INVALID_ARGUMENT", "Missing ModelSpec"),
    ],
    ids=["model", "version", "none", "label", "empty", "absent"],
)
async def test_status_of_what_is_not_served(tfs: TfsServed, spec: Any, code: str, says: str) -> None:
    found, message = await refusal(tfs.call("GetModelStatus", model_spec=spec))
    assert found == code
    assert says in message


# -- HandleReloadConfigRequest -----------------------------------------------------------------------------------------


class Coordinator:
    """Carries every change out at once, or refuses it."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: Exception | None = None

    def call(self, request: Any, *, within_s: float | None = None) -> ChangeStatus:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return ChangeStatus(id=1, kind=Kind.LOAD, subject="models")


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
async def door(coordinator: Coordinator) -> AsyncIterator[TfsServed]:
    """A server as at the operators' door."""
    with ThreadPoolExecutor(1) as executor:
        operators = Operators(coordinator)  # type: ignore[arg-type]
        served = TfsServed(executor, access=AtDoor(), operators=operators)
        await served.start()
        yield served
        await served.stop()
        operators.close()


def config(*models: dict[str, Any]) -> dict[str, Any]:
    return {"model_config_list": {"config": models}}


A = {"name": "a", "base_path": "/models/a"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"model_platform": "tensorflow", "model_type": "TENSORFLOW"}, {}),
        ({"model_version_policy": {"latest": {}}}, {}),
        ({"model_version_policy": {"latest": {"num_versions": 3}}}, {"latest": 3}),
        ({"model_version_policy": {"all": {}}}, {"latest": 0}),
        ({"model_version_policy": {"specific": {"versions": [4, 7]}}}, {"versions": (4, 7)}),
        ({"version_labels": {"stable": 4, "canary": 7}}, {"labels": {"stable": 4, "canary": 7}}),
    ],
    ids=["plain", "platform", "latest", "three", "all", "specific", "labels"],
)
async def test_a_reload_asks_for_the_whole_list(
    door: TfsServed, coordinator: Coordinator, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    reply = await door.call("HandleReloadConfigRequest", config=config({**A, **fields}, {"name": "b"}))
    assert (reply.status.error_code, reply.status.error_message) == (0, "")
    named = ModelSource(**{"name": "a", "folder": "/models/a", "labels": {}, **expected})
    assert coordinator.asked == [ServeModels(models=(named, ModelSource(name="b", labels={})))]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "config.model_config_list: names no model"),
        (config(), "config.model_config_list: names no model"),
        ({"custom_model_config": {}}, "Only ModelConfigList is currently supported"),
        (config(A, {}), "config[1].name: is empty"),
        (config({**A, "model_platform": "pytorch"}), "config[0].model_platform: is 'pytorch'"),
        (config({**A, "model_version_policy": {"specific": {}}}), "config[0].model_version_policy.specific.versions"),
        (
            config({**A, "model_version_policy": {"specific": {"versions": [0]}}}),
            "config[0].model_version_policy.specific.versions",
        ),
        (config({**A, "model_version_policy": {"specific": {"versions": [4, 4]}}}), "each may be named once"),
        (config({**A, "version_labels": {"": 4}}), "label"),
        (config(A, A), "models names a twice"),
    ],
    ids=["none", "empty", "custom", "name", "platform", "unspecific", "zero", "twice", "label", "models"],
)
async def test_a_list_that_cannot_be_is_refused(
    door: TfsServed, coordinator: Coordinator, given: dict[str, Any], says: str
) -> None:
    code, message = await refusal(door.call("HandleReloadConfigRequest", config=given))
    assert code == "INVALID_ARGUMENT"
    assert says in message
    assert coordinator.asked == []


async def test_what_the_coordinator_refuses_is_told(door: TfsServed, coordinator: Coordinator) -> None:
    coordinator.error = InvalidInput("folder /models/a holds no version")
    found = await refusal(door.call("HandleReloadConfigRequest", config=config(A)))
    assert found == ("INVALID_ARGUMENT", "folder /models/a holds no version")


async def test_clients_may_not_reload_whatever_they_send(tfs: TfsServed) -> None:
    for body in (messages.ReloadConfigRequest(config=config(A)).SerializeToString(), b"", b"\xff\xff"):
        code, message = await refusal(tfs.call("HandleReloadConfigRequest", body))
        assert code == "PERMISSION_DENIED"
        assert "their door" in message


# -- tokens ------------------------------------------------------------------------------------------------------------

ROLES = ("read", "predict", "operate")
MAY = {
    "Predict": {"predict"},
    "Classify": {"predict"},
    "Regress": {"predict"},
    "GetModelMetadata": {"read", "predict", "operate"},
    "GetModelStatus": {"read", "predict", "operate"},
    "HandleReloadConfigRequest": {"operate"},
}


@pytest.fixture
async def guarded(coordinator: Coordinator) -> AsyncIterator[TfsServed]:
    """A server that asks for tokens."""
    text = "".join(
        f'[[token]]\nname = "{role}"\ntoken = "s3cret-{role}-0123456789"\nroles = ["{role}"]\n' for role in ROLES
    )
    with ThreadPoolExecutor(1) as executor:
        operators = Operators(coordinator)  # type: ignore[arg-type]
        access = Tokens(TokenSettings(entries=parse_tokens(text, "here")))
        served = TfsServed(executor, access=access, operators=operators)
        await served.start()
        yield served
        await served.stop()
        operators.close()


@pytest.mark.parametrize("method", sorted(MAY))
async def test_each_verb_asks_for_its_role(guarded: TfsServed, method: str) -> None:
    for role in ROLES:
        shown = [("authorization", f"Bearer s3cret-{role}-0123456789")]
        code, _ = await refusal(guarded.call(method, b"", metadata=shown))
        assert (role, code) == (role, "INVALID_ARGUMENT" if role in MAY[method] else "PERMISSION_DENIED")
    code, message = await refusal(guarded.call(method, b""))
    assert code == "UNAUTHENTICATED"
    assert "a token is asked for here" in message


async def test_a_token_of_role_operate_may_reload_at_the_port_of_clients(
    guarded: TfsServed, coordinator: Coordinator
) -> None:
    shown = [("authorization", "Bearer s3cret-operate-0123456789")]
    await guarded.call("HandleReloadConfigRequest", metadata=shown, config=config(A))
    assert len(coordinator.asked) == 1


async def test_every_refusal_of_a_reload_is_told_in_the_audit_log(
    guarded: TfsServed, caplog: pytest.LogCaptureFixture
) -> None:
    expected = []
    for role, code in ((None, "UNAUTHENTICATED"), ("read", "PERMISSION_DENIED"), ("operate", "INVALID_ARGUMENT")):
        shown = [] if role is None else [("authorization", f"Bearer s3cret-{role}-0123456789")]
        assert (await refusal(guarded.call("HandleReloadConfigRequest", metadata=shown, config=config())))[0] == code
        expected.append(("serve", code))
    told = [each for each in caplog.records if each.name == "ringpull.audit"]
    assert [(vars(each)["verb"], vars(each)["outcome"]) for each in told] == expected

"""Every verb of operators is told of in the audit log, with who, from where and what came of it; refused ones too."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from ringpull import __version__
from ringpull.inference.client.operations import OperationsClient
from ringpull.inference.head import audit, audit_file
from ringpull.inference.head.audit import REFUSALS_AT_ONCE, REFUSALS_PER_S, Audited, AuditLog, Entry
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.operations import OperationsService
from ringpull.inference.head.frontends.operators import THREADS, Operators
from ringpull.inference.head.head import HeadAddress
from ringpull.inference.proto import operations_pb2 as pb
from ringpull.ps.errors import Forbidden, InvalidInput, RingpullError, StartupError, Unauthenticated
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.operations import VERBS, Control, ControlChange, GetChange, Publish
from ringpull.router.control.verbs import Role
from tests.clock import Clock
from tests.in_the_way import leave_socket
from tests.inference.operated import grpc_of, operated
from tests.inference.test_door import CHANGES, LOOKS, ask
from tests.inference.test_operations import FakeOperations

net = pytest.mark.net

PUBLISH = Publish(model="m", version=3)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def fake() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
def head(fake: FakeOperations, file: Path, tmp_path: Path) -> Iterator[HeadAddress]:
    with operated(fake, HeadConfig(audit_log=str(file)), state=tmp_path, head=3) as address:
        yield address


@net
def test_who_did_what_from_where_and_what_came_of_it(
    head: HeadAddress, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with OperationsClient(grpc_of(head)) as client:
        client.call(PUBLISH)
    [line] = read(file)
    assert line.pop("time").endswith("Z")
    assert line.pop("took_s") >= 0
    assert json.loads(line.pop("request"))["version"] == 3
    assert line == {
        "head": 3,
        "who": "operator",
        "verb": "publish",
        "peer": "unix:",
        "door": "admin",
        "outcome": "ok",
    }
    told = next(each for each in caplog.records if each.name == "ringpull.audit")
    assert (told.verb, told.who, told.outcome) == ("publish", "operator", "ok")  # type: ignore[attr-defined]


@net
def test_every_verb_that_changes_something_is_told_and_no_other(head: HeadAddress, file: Path) -> None:
    for request in (*CHANGES, *LOOKS):
        ask(head.admin, request)
    assert [line["verb"] for line in read(file)] == [VERBS.of(request).name for request in CHANGES]


@net
def test_whoever_is_not_let_in_is_told_with_its_address(head: HeadAddress, file: Path) -> None:
    for request in CHANGES:
        with pytest.raises(grpc.RpcError):
            ask(grpc_of(head), request)
    lines = read(file)
    assert [line["verb"] for line in lines] == [VERBS.of(request).name for request in CHANGES]
    for line in lines:
        assert (line["outcome"], line["door"], line["who"]) == ("PERMISSION_DENIED", "grpc", "")
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert "operators are not let in here" in line["error"]


@net
def test_what_fails_is_told_with_its_error(head: HeadAddress, fake: FakeOperations, file: Path) -> None:
    fake.error = InvalidInput("there is no change under way")
    with OperationsClient(grpc_of(head)) as client, pytest.raises(InvalidInput):
        client.call(ControlChange(Control.ABORT))
    [line] = read(file)
    assert (line["who"], line["outcome"]) == ("operator", "INVALID_ARGUMENT")
    assert line["error"] == "there is no change under way"


@net
@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        (pb.OperationRequest(build="0.0.1", verb="publish", request="{}"), "INVALID_ARGUMENT"),
        (pb.OperationRequest(build=__version__, verb="publish", request="no JSON"), "INVALID_ARGUMENT"),
        (pb.OperationRequest(build=__version__, verb="publish", request="x" * 100_000), "INVALID_ARGUMENT"),
    ],
)
def test_requests_that_make_no_sense_are_told_and_cut(
    head: HeadAddress, file: Path, message: pb.OperationRequest, outcome: str
) -> None:
    with grpc.insecure_channel(head.admin) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/ringpull.v1.Operations/Call")(message.SerializeToString(), timeout=600)
    [line] = read(file)
    assert (line["verb"], line["outcome"]) == ("publish", outcome)
    assert len(line["request"]) < 2 * audit.MAX_TEXT


@net
@pytest.mark.parametrize(("verb", "build"), [("publish", "0.0.1"), ("unknown", "0.0.1"), ("unknown", __version__)])
def test_whoever_is_not_let_in_cannot_fill_the_disk_by_whatever_they_send(
    head: HeadAddress, file: Path, verb: str, build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REFUSALS_PER_S", 0.0)
    message = pb.OperationRequest(build=build, verb=verb, request="x" * 10_000).SerializeToString()
    with grpc.insecure_channel(grpc_of(head)) as channel:
        call = channel.unary_unary("/ringpull.v1.Operations/Call")
        for _ in range(REFUSALS_AT_ONCE + 20):
            with pytest.raises(grpc.RpcError) as caught:
                call(message, timeout=600)
    codes = {"publish": "PERMISSION_DENIED", "unknown": "INVALID_ARGUMENT" if build != __version__ else "NOT_FOUND"}
    assert caught.value.code().name == codes[verb]
    ask(head.admin, PUBLISH)
    *refused, own = read(file)
    assert {(line["verb"], line["who"], line["outcome"]) for line in refused} == {(verb, "", codes[verb])}
    assert (len(refused), own["who"], own["refusals_untold"]) == (REFUSALS_AT_ONCE, "operator", 20)


@net
def test_a_stranger_is_not_told_which_build_this_is(head: HeadAddress) -> None:
    message = pb.OperationRequest(build="0.0.1", verb="publish", request="{}").SerializeToString()
    with grpc.insecure_channel(grpc_of(head)) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/ringpull.v1.Operations/Call")(message, timeout=600)
    assert "operators are not let in here" in caught.value.details()
    assert __version__ not in caught.value.details()


@net
def test_the_file_is_its_owners_alone_and_appended_to(head: HeadAddress, file: Path) -> None:
    ask(head.admin, PUBLISH)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    moved = file.rename(file.with_suffix(".1"))
    ask(head.admin, PUBLISH)
    ask(head.admin, PUBLISH)
    assert (len(read(moved)), len(read(file))) == (1, 2)


@net
def test_a_file_that_cannot_be_written_fails_no_verb_and_is_warned_of(
    head: HeadAddress, fake: FakeOperations, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.mkdir()
    with OperationsClient(grpc_of(head)) as client:
        client.call(PUBLISH)
    assert fake.asked == [PUBLISH]
    assert f"the audit log {file} cannot be written: Is a directory" in caplog.text


class Busy(FakeOperations):
    """Takes as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.goes_on = threading.Event()

    def call(self, request: Any, *, within_s: float | None = None) -> Any:
        if request == PUBLISH:
            self.begun.release()
            self.goes_on.wait()
        return super().call(request, within_s=within_s)


class Told(logging.Handler):
    """Notes that a verb was told of."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = threading.Semaphore(0)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.release()


@pytest.fixture
def told() -> Iterator[Told]:
    handler = Told()
    logging.getLogger("ringpull.audit").addHandler(handler)
    yield handler
    logging.getLogger("ringpull.audit").removeHandler(handler)


def message_of(request: object) -> pb.OperationRequest:
    verb = VERBS.of(request)  # type: ignore[arg-type]
    return pb.OperationRequest(build=__version__, verb=verb.name, request=VALUES.to_json(verb.request, request))


def begin(channel: grpc.Channel, request: object) -> Any:
    body = message_of(request).SerializeToString()
    return channel.unary_unary("/ringpull.v1.Operations/Call").future(body, timeout=600)


@net
def test_what_is_carried_out_for_a_caller_that_goes_away_is_told_as_it_ended(
    file: Path, tmp_path: Path, told: Told
) -> None:
    fake = Busy()
    config = HeadConfig(audit_log=str(file))
    with operated(fake, config, state=tmp_path) as address, grpc.insecure_channel(address.admin) as channel:
        call = begin(channel, PUBLISH)
        fake.begun.acquire()
        call.cancel()
        begin(channel, GetChange()).result()  # by then the head knows
        fake.goes_on.set()
        told.lines.acquire()
    [line] = read(file)
    assert (line["verb"], line["who"], line["outcome"]) == ("publish", "operator", "ok")
    assert fake.asked == [GetChange(), PUBLISH]


class Context:
    """Call over gRPC, as far as the service looks at it."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "unix:"

    def time_remaining(self) -> None:
        return None


async def test_what_was_not_begun_for_a_caller_that_went_away_is_told_as_that(file: Path) -> None:
    fake, log = Busy(), AuditLog(file)
    operators = Operators(fake, log)
    service = OperationsService(operators)

    def call(request: object) -> asyncio.Task[Any]:
        return asyncio.create_task(service.call(message_of(request).SerializeToString(), Context()))  # type: ignore[arg-type]

    busy = [call(PUBLISH) for _ in range(THREADS)]
    left = call(ControlChange(Control.ABORT))
    await asyncio.sleep(0)  # each is with a thread, or waits for one
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    fake.goes_on.set()
    await asyncio.gather(*busy)
    assert [(line["verb"], line["outcome"]) for line in read(file)] == [
        ("control", "CANCELLED"),
        *[("publish", "ok")] * THREADS,
    ]
    assert fake.asked == [PUBLISH] * THREADS
    operators.close()
    log.close()


# -- the log by itself -------------------------------------------------------------------------------------------------


def entry(verb: str = "publish", who: str = "") -> Entry:
    return Entry(verb, "{}", "ipv4:10.0.0.7:1", "grpc", who)


def refuse(log: AuditLog, error: RingpullError) -> None:
    with pytest.raises(type(error)), log.of(entry()):
        raise error


async def test_a_trouble_is_over_when_a_line_is_written_again(file: Path) -> None:
    log = AuditLog(file)
    file.mkdir()
    with log.of(entry()):
        pass
    await log.written()
    assert log.warnings == (f"the audit log {file} cannot be written: Is a directory",)
    file.rmdir()
    with log.of(entry()):
        pass
    await log.written()
    assert log.warnings == ()
    log.close()


async def test_a_disk_that_hangs_holds_up_no_verb_for_long(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comes_back = threading.Event()
    monkeypatch.setattr(audit_file, "append", lambda file, line: comes_back.wait())
    monkeypatch.setattr(audit_file, "WRITE_WAIT_S", 0.01)
    log = AuditLog(file)
    with log.of(entry()):
        pass
    await log.written()
    assert "has not been written for" in log.warnings[0]
    comes_back.set()
    log.close()


@pytest.mark.parametrize("error", [Forbidden("no"), Unauthenticated("who"), InvalidInput("of another build")])
async def test_callers_who_are_not_let_in_cannot_fill_the_disk(file: Path, error: RingpullError) -> None:
    clock = Clock(0.0)
    log = AuditLog(file, clock=clock)
    for _ in range(10 * REFUSALS_AT_ONCE):
        refuse(log, error)
    with log.of(entry("rollback", "operator")):
        pass
    await log.written()
    *refused, own = read(file)
    assert len(refused) == REFUSALS_AT_ONCE
    assert (own["verb"], own["outcome"], own["refusals_untold"]) == ("rollback", "ok", 9 * REFUSALS_AT_ONCE)
    clock.now_s += 2
    for _ in range(10 * REFUSALS_AT_ONCE):
        refuse(log, error)
    await log.written()
    assert len(read(file)) == REFUSALS_AT_ONCE + 1 + 2 * REFUSALS_PER_S
    log.close()


async def test_a_closed_log_fails_no_verb_and_loses_no_line(file: Path, fake: FakeOperations) -> None:
    """Verbs that are carried out yet, and what `--watch` publishes, may end after the head has."""
    log = AuditLog(file)
    for _ in range(2):
        Audited(fake, log).call(PUBLISH)
        with pytest.raises(InvalidInput), log.of(entry(who="operator")):
            raise InvalidInput("its own")
        log.close()
    await log.written()
    assert [line["outcome"] for line in read(file)] == ["ok", "INVALID_ARGUMENT"] * 2


async def test_a_disk_that_hangs_takes_no_memory_and_keeps_no_process_from_ending(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comes_back, write = threading.Event(), audit_file.append
    monkeypatch.setattr(audit_file, "append", lambda file, line: comes_back.wait() and write(file, line))
    monkeypatch.setattr(audit_file, "MAX_WAITING", 10)
    monkeypatch.setattr(audit_file, "WRITE_WAIT_S", 0.01)
    others = threading.enumerate()  # of logs of other tests
    log = AuditLog(file)
    for _ in range(100):
        with log.of(entry(who="operator")):
            pass
    assert "loses lines: 10 are waiting" in log.warnings[0]
    [writer] = [each for each in threading.enumerate() if each.name.startswith("audit") and each not in others]
    assert writer.daemon
    log.close()
    comes_back.set()
    writer.join()
    with log.of(entry(who="operator")):
        pass
    *told, _ = lines = read(file)
    assert len(told) <= 12
    assert len(told) + sum(line.get("lines_lost", 0) for line in lines) == 100
    assert log.warnings == ()


def test_what_cannot_be_written_is_found_out_before_anything_is_started(tmp_path: Path) -> None:
    audit_file.check(tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b""
    with pytest.raises(StartupError, match=r"--audit-log: .*none/audit cannot be written: No such file or directory"):
        audit_file.check(tmp_path / "none" / "audit")


@pytest.mark.parametrize("kind", ["pipe", "pipe that is read", "socket", "device"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "audit"
    with ExitStack() as stack:
        if kind == "device":
            file.symlink_to("/dev/null")
        elif kind == "socket":
            leave_socket(file)
        else:
            os.mkfifo(file)
        if kind == "pipe that is read":
            stack.callback(os.close, os.open(file, os.O_RDONLY | os.O_NONBLOCK))
        with pytest.raises(StartupError, match=r"--audit-log: .*audit cannot be written: it is no regular file"):
            audit_file.check(file)


def test_the_log_tells_what_went_well_whatever_the_level_of_other_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)
    assert logging.getLogger("ringpull.audit").isEnabledFor(logging.INFO)


async def test_what_a_head_publishes_by_itself_is_told_too(fake: FakeOperations, file: Path) -> None:
    log = AuditLog(file)
    operations = Audited(fake, log)
    operations.call(GetChange())
    operations.call(PUBLISH)
    await log.written()
    [line] = read(file)
    assert (line["who"], line["verb"], line["door"], line["outcome"]) == ("--watch", "publish", "", "ok")
    assert fake.asked == [GetChange(), PUBLISH]
    log.close()


def test_roles_of_the_verbs() -> None:
    """Whatever changes a deployment is the operators'; what only tells is not."""
    assert {verb.name for verb in VERBS if verb.role is Role.OPERATE} >= {
        "publish",
        "rollback",
        "rebalance",
        "control",
        "restart",
    }
    assert {verb.name for verb in VERBS if verb.role is Role.READ} == {"change", "plan", "status", "members"}

"""Operators have a door of their own: the port of predictions changes nothing, and the client finds the door."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from ringpull import __version__
from ringpull.inference.client import door as client_door
from ringpull.inference.client import operations, stubs
from ringpull.inference.client.operations import OperationsClient
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends import door, unix_socket
from ringpull.inference.head.frontends.ports import told
from ringpull.inference.head.frontends.unix_socket import MAX_PATH_BYTES, UnixSocket, own_folder
from ringpull.inference.head.head import HeadAddress
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.loopback import is_loopback
from ringpull.inference.proto import operations_pb2 as pb
from ringpull.inference.proto import ringpull_pb2 as public_pb
from ringpull.ps.errors import Forbidden, StartupError, Unauthenticated, Unavailable
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.operations import VERBS, GetChange
from ringpull.router.control.verbs import Role
from tests.inference.operated import NOBODY, grpc_of, operated
from tests.inference.test_operations import ANSWERS, REQUESTS, FakeOperations
from tests.patience import PATIENCE_S
from tests.ports import free_port

pytestmark = pytest.mark.net

CHANGES = [request for request in REQUESTS if VERBS.of(request).role is Role.OPERATE]
LOOKS = [request for request in REQUESTS if VERBS.of(request).role is Role.READ]

LOCAL_TCP = HeadConfig(admin_host="127.0.0.1")


@pytest.fixture(scope="module")
def fake() -> FakeOperations:
    return FakeOperations()


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def head(fake: FakeOperations, state: Path) -> Iterator[HeadAddress]:
    with operated(fake, state=state, deployment="0123456789abcdef", head=2) as address:
        yield address


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The temporary folder, with a path as short as it mostly is."""
    tmp_path_factory.getbasetemp()  # first: else pytest would make its own there, and it would go with this test
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


@pytest.fixture(autouse=True)
def _forgotten(fake: FakeOperations) -> None:
    fake.asked.clear()


def ask(address: str, request: object) -> pb.OperationReply:
    """Ask as a stranger does, who knows no door."""
    verb = VERBS.of(request)  # type: ignore[arg-type]
    message = pb.OperationRequest(build=__version__, verb=verb.name, request=VALUES.to_json(verb.request, request))
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/ringpull.v1.Operations/Call", response_deserializer=pb.OperationReply.FromString)
        return call(message.SerializeToString(), timeout=PATIENCE_S)


# -- who is let in where -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", CHANGES, ids=repr)
def test_the_port_of_predictions_changes_nothing(head: HeadAddress, fake: FakeOperations, request_: object) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(grpc_of(head), request_)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert head.admin in caught.value.details()
    assert fake.asked == []


def test_whoever_may_only_look_may_look_there(head: HeadAddress, fake: FakeOperations) -> None:
    for request in LOOKS:
        ask(grpc_of(head), request)
    assert fake.asked == LOOKS


def test_the_door_takes_every_verb(head: HeadAddress, fake: FakeOperations) -> None:
    for request in REQUESTS:
        ask(head.admin, request)
    assert fake.asked == REQUESTS


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/status", "/v1/models", "/healthz", "/metrics", "/ringpull.v1.Operations/Call"])
def test_http_changes_nothing(head: HeadAddress, fake: FakeOperations, method: str, path: str) -> None:
    body = pb.OperationRequest(build=__version__, verb="publish", request='{"model": "m"}').SerializeToString()
    answer = httpx.request(method, f"http://{head.host}:{head.http_port}{path}", content=body)
    assert answer.status_code in (404, 405) or path == "/metrics"  # which tells the same, however it is asked
    assert fake.asked == []


def test_a_head_tells_where_its_door_is(head: HeadAddress) -> None:
    with grpc.insecure_channel(grpc_of(head)) as channel, grpc.insecure_channel(head.admin) as at_door:
        whole = stubs.GET_STATUS.on(channel)(public_pb.GetStatusRequest(), timeout=PATIENCE_S)
        alone = stubs.GET_STATUS.on(channel)(public_pb.GetStatusRequest(head_only=True), timeout=PATIENCE_S)
        there = stubs.GET_STATUS.on(at_door)(public_pb.GetStatusRequest(head_only=True), timeout=PATIENCE_S)
    assert whole.admin == alone.admin == there.admin == head.admin
    assert (whole.at_door, alone.at_door, there.at_door) == (False, False, True)
    assert len(whole.shards) == 1
    assert len(alone.shards) == 0
    # Whoever connects to a shard has to know the id of the deployment, so it is not told to everybody.
    assert "0123456789abcdef" not in alone.deployment
    assert httpx.get(f"http://{head.host}:{head.http_port}/status").json()["admin"] == head.admin


# -- the socket --------------------------------------------------------------------------------------------------------


def test_nobody_but_its_user_can_open_the_socket(head: HeadAddress, state: Path) -> None:
    path = Path(head.admin.removeprefix("unix:"))
    assert path == state / "doors" / "0123456789abcdef" / "head-2.sock"
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)] == [
        0o600,
        0o700,
        0o700,
    ]


def test_a_folder_that_was_open_to_others_is_closed(short: Path) -> None:
    (short / "doors").mkdir(0o777)
    (short / "doors").chmod(0o777)
    with operated(FakeOperations(), state=short) as address:
        assert address.admin.startswith(f"unix:{short}/doors/")
        assert stat.S_IMODE((short / "doors").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["x" * 100, "with space", "ünïcode", "per%20cent", "que?ry"])
def test_a_state_folder_that_can_hold_no_socket(short: Path, tmp_path: Path, name: str) -> None:
    fake = FakeOperations()
    with operated(fake, state=tmp_path / name) as address:
        path = Path(address.admin.removeprefix("unix:"))
        assert path.is_relative_to(short / f"ringpull-{os.geteuid()}" / "doors")
        assert len(os.fsencode(path)) <= MAX_PATH_BYTES
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        ask(address.admin, CHANGES[0])
    assert fake.asked == [CHANGES[0]]


def test_a_state_folder_that_cannot_be_written(short: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with operated(FakeOperations(), state=tmp_path / "file") as address:
        assert address.admin.startswith(f"unix:{short}/ringpull-{os.geteuid()}/doors/")


def test_a_temporary_folder_that_can_hold_no_socket_either(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.setattr(door, "SHORTEST", short)
    with operated(FakeOperations(), state=long) as address:
        assert address.admin.startswith(f"unix:{short}/ringpull-{os.geteuid()}/doors/")


def test_no_head_goes_where_another_user_waits_for_it(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "SHORTEST", short)
    mine = short / f"ringpull-{os.geteuid()}"
    mine.mkdir()
    real = os.lstat

    def lstat(path: object, **options: object) -> object:
        found = real(path, **options)  # type: ignore[call-overload]
        if Path(str(path)) == mine:
            found = os.stat_result([*found[:4], found.st_uid + 1, *found[5:10]])
        return found

    monkeypatch.setattr(os, "lstat", lstat)
    monkeypatch.setattr(Path, "lstat", lambda self: lstat(self))
    with operated(FakeOperations()) as address:
        assert address.admin == ""
    assert list(mine.iterdir()) == []


def test_the_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(unix_socket.os, "geteuid", lambda: 12345)
    with pytest.raises(StartupError, match="belongs to user"):
        own_folder(tmp_path / "theirs")


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartupError, match="is no folder, or a link"):
        own_folder(tmp_path / "link")


def test_a_head_without_a_door_serves_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who makes a folder in the temporary one first keeps predictions from being served."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(door, "SHORTEST", tmp_path)
    (tmp_path / f"ringpull-{os.geteuid()}").write_text("")
    with operated(FakeOperations()) as address:
        assert address.admin == ""
        with OperationsClient(grpc_of(address)) as client:
            client.call(GetChange())
            with pytest.raises(Forbidden, match=r"it has no door for operators; .*--admin-host and --admin-port"):
                client.call(CHANGES[0])
        with grpc.insecure_channel(grpc_of(address)) as channel:
            warnings = stubs.GET_STATUS.on(channel)(public_pb.GetStatusRequest(), timeout=PATIENCE_S).warnings
    assert any("operators have no door" in each and "--admin-host" in each for each in warnings)


@pytest.mark.medium
def test_a_head_that_is_restarted_has_the_same_door(short: Path) -> None:
    """Also beside the process that it replaces, which takes its own socket away and not the new one's."""
    fake = FakeOperations()
    first = HeadProcess(HeadConfig(), FakeOperations(), deployment="d", state=lambda: short)
    address = first.route(NOBODY, {}, ())
    with operated(fake, state=short, deployment="d") as again:
        assert again.admin == address.admin
        first.drain(timeout_s=0)
        ask(again.admin, CHANGES[0])
        assert fake.asked == [CHANGES[0]]
    assert list((short / "doors").iterdir()) == []


def test_what_a_killed_head_left_is_in_nobodys_way(short: Path) -> None:
    folder = own_folder(own_folder(short / "doors") / "d")
    left = UnixSocket.claim([lambda: folder], "head-0.sock")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(left.address_to_bind.removeprefix("unix:"))
        left.show()
    assert left.path.exists()
    with operated(FakeOperations(), state=short, deployment="d") as address:
        ask(address.admin, CHANGES[0])


# -- a port ------------------------------------------------------------------------------------------------------------


def test_a_door_at_a_port(tmp_path: Path) -> None:
    fake = FakeOperations()
    with operated(fake, LOCAL_TCP, state=tmp_path) as address:
        host, _, port = address.admin.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) not in (0, address.grpc_port, address.http_port)
        assert not (tmp_path / "doors").exists()
        ask(address.admin, CHANGES[0])
        with OperationsClient(grpc_of(address)) as by_port, OperationsClient(address.admin) as at_door:
            by_port.call(CHANGES[0])
            at_door.call(CHANGES[0])
    assert fake.asked == [CHANGES[0]] * 3


@pytest.mark.parametrize(
    ("config", "at"),
    [
        (HeadConfig(), None),
        (HeadConfig(admin_port=0), ("127.0.0.1", 0)),
        (HeadConfig(admin_port=8502), ("127.0.0.1", 8502)),
        (HeadConfig(admin_host="0.0.0.0"), ("0.0.0.0", 0)),
        (HeadConfig(admin_host="::1", admin_port=8502), ("::1", 8502)),
    ],
)
def test_where_the_door_is(config: HeadConfig, at: tuple[str, int] | None) -> None:
    assert config.admin_at == at


def test_a_port_that_is_in_use_is_a_clear_error_and_leaves_the_others_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken, grpc_port = stranger.getsockname()[1], free_port()
        head = HeadProcess(HeadConfig(grpc_port=grpc_port, admin_port=taken))
        with pytest.raises(StartupError, match=f"admin port {taken} on 127.0.0.1"):
            head.route(NOBODY, {}, ())
        socket.create_server(("127.0.0.1", grpc_port)).close()
        head.drain(timeout_s=0)


def test_a_door_on_every_interface_is_told_as_one_that_can_be_connected_to() -> None:
    fake = FakeOperations()
    with operated(fake, HeadConfig(host="0.0.0.0", admin_host="0.0.0.0")) as address:
        assert not address.admin.startswith("0.0.0.0")
        ask(address.admin, CHANGES[0])
        with OperationsClient(f"127.0.0.1:{address.grpc_port}") as client:
            client.call(CHANGES[0])
    assert fake.asked == [CHANGES[0]] * 2


def test_hosts_as_they_are_told() -> None:
    assert told("10.0.0.7") == "10.0.0.7"
    assert told("localhost") == "localhost"
    assert told("0.0.0.0", "10.0.0.7") == "10.0.0.7"
    assert told("0.0.0.0", "127.0.0.1") not in ("", "0.0.0.0")
    assert told("0.0.0.0") not in ("", "0.0.0.0")
    assert told("::") not in ("", "::")


def test_hosts_that_only_their_own_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.7", "head-0", "")))


# -- tokens ------------------------------------------------------------------------------------------------------------

TOKENS = TokenSettings(
    entries=parse_tokens(
        """
        [[token]]
        name = "ci"
        token = "operates-0123456789abcdef"
        roles = ["operate"]
        [[token]]
        name = "app"
        token = "predicts-0123456789abcdef"
        roles = ["predict"]
        """,
        "tokens",
    )
)
OPERATES, PREDICTS = "operates-0123456789abcdef", "predicts-0123456789abcdef"


@pytest.fixture(scope="module")
def guarded(fake: FakeOperations, state: Path) -> Iterator[HeadAddress]:
    with operated(fake, HeadConfig(tokens=TOKENS), state=state, deployment="guarded") as address:
        yield address


def test_the_socket_asks_for_no_token(guarded: HeadAddress, fake: FakeOperations) -> None:
    for request in REQUESTS:
        ask(guarded.admin, request)
    assert fake.asked == REQUESTS


def test_a_token_that_may_operate_is_let_in_at_the_port_where_the_door_is_out_of_reach(
    guarded: HeadAddress, fake: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "why_unreachable", lambda address, timeout_s: "it is not on this machine")
    with OperationsClient(grpc_of(guarded), token=OPERATES) as client:
        for request in REQUESTS:
            client.call(request)
    assert fake.asked == REQUESTS
    with OperationsClient(grpc_of(guarded), token=PREDICTS) as client, pytest.raises(Forbidden, match="operate"):
        client.call(CHANGES[0])
    monkeypatch.setenv("RINGPULL_TOKEN", OPERATES)
    with OperationsClient(grpc_of(guarded)) as client:
        client.call(CHANGES[0])


def test_whoever_shows_nothing_is_let_in_where_the_door_is_known(guarded: HeadAddress, fake: FakeOperations) -> None:
    """As for the commands, which know it from the record of what was served from here."""
    with OperationsClient(grpc_of(guarded)) as client, pytest.raises(Unauthenticated, match="a token is asked for"):
        client.call(CHANGES[0])
    with OperationsClient(grpc_of(guarded), admin=guarded.admin) as client:
        for request in REQUESTS:
            client.call(request)
        assert client.models() == []
    assert fake.asked == REQUESTS


def test_a_door_at_a_port_asks_for_a_token_as_the_other_port_does() -> None:
    fake = FakeOperations()
    with operated(fake, HeadConfig(tokens=TOKENS, admin_port=0)) as address:
        with pytest.raises(grpc.RpcError) as caught:
            ask(address.admin, CHANGES[0])
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with OperationsClient(address.admin, token=PREDICTS) as client, pytest.raises(Forbidden):
            client.call(CHANGES[0])
        with OperationsClient(address.admin, token=OPERATES) as client:
            client.call(CHANGES[0])
    assert fake.asked == [CHANGES[0]]


# -- the client --------------------------------------------------------------------------------------------------------


def test_the_client_finds_the_door_by_itself(head: HeadAddress, fake: FakeOperations) -> None:
    with OperationsClient(grpc_of(head)) as client:
        for request in REQUESTS:
            assert client.call(request) == ANSWERS[VERBS.of(request).name]
        assert client.models() == []
    with OperationsClient(head.admin) as client:
        assert [client.call(request) for request in REQUESTS] == [ANSWERS[VERBS.of(each).name] for each in REQUESTS]
        assert client.models() == []
    assert fake.asked == REQUESTS * 2


def test_a_door_that_is_another_machines_or_users_is_named_with_what_to_do(
    head: HeadAddress, fake: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, reason in (
        (FileNotFoundError(), "it is not on this machine"),
        (PermissionError(), "it is another user's"),
        (ConnectionRefusedError(), "nobody listens there"),
    ):

        def refuse(self: object, path: str, error: OSError = error) -> None:
            raise error

        monkeypatch.setattr(client_door.socket.socket, "connect", refuse)
        with OperationsClient(grpc_of(head)) as client, pytest.raises(Forbidden) as caught:
            client.call(CHANGES[0])
        for part in (
            grpc_of(head),
            head.admin,
            reason,
            "as the user that serves",
            "--admin-host",
            "--admin-port",
            "--token",
            "RINGPULL_TOKEN",
        ):
            assert part in str(caught.value)
        monkeypatch.undo()
    assert fake.asked == []


@pytest.mark.medium
def test_a_head_that_came_back_elsewhere_is_found_again(tmp_path: Path) -> None:
    """What the client knew of the door is asked for anew where nobody is there any more."""
    fake = FakeOperations()
    config = HeadConfig(grpc_port=free_port())
    with operated(fake, config, state=tmp_path / "a") as address:
        client = OperationsClient(grpc_of(address))
        client.call(CHANGES[0])
    with operated(fake, config, state=tmp_path / "b"):
        for _ in range(50):  # gRPC waits a moment before it connects again.
            try:
                client.call(CHANGES[0], within_s=10)
                break
            except Unavailable:
                continue
    client.close()
    assert fake.asked == [CHANGES[0]] * 2


@pytest.mark.medium
def test_another_deployments_door_at_the_same_address_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """127.0.0.1 of another machine is another address here, and somebody may listen there."""
    ours, theirs = FakeOperations(), FakeOperations()
    with (
        operated(theirs, LOCAL_TCP, deployment="theirs") as other,
        operated(ours, LOCAL_TCP, deployment="ours") as address,
    ):
        real = OperationsClient._told_by

        def told_by(self: OperationsClient, at: str, until_s: float) -> public_pb.ClusterStatus | None:
            status = real(self, at, until_s)
            if at == grpc_of(address) and status is not None:
                status.admin = other.admin
            return status

        monkeypatch.setattr(OperationsClient, "_told_by", told_by)
        with OperationsClient(grpc_of(address)) as client, pytest.raises(Forbidden, match="is not its door"):
            client.call(CHANGES[0])
    assert ours.asked == theirs.asked == []

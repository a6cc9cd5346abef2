"""Operators' doors as the commands know them: found, warned of, removed; and told where a token would do."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ringpull.deploy import coordinator_client, doors, served
from ringpull.deploy.config import ServeConfig
from ringpull.deploy.process_identity import own_identity
from ringpull.deploy.served import ServedRecord
from ringpull.deploy.view import change_watch
from ringpull.inference.client import operations as client_operations
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.head import HeadAddress
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.ps.errors import InvalidInput
from ringpull.ps.tls import TlsFiles
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.observed import HeadHeartbeat
from tests.deploy.actor_specs import make_actor_spec
from tests.deploy.fake_operations import FakeOperations
from tests.deploy.running import Run
from tests.inference.operated import grpc_of, operated
from tests.ports import free_port

OPERATES, READS = "operates-0123456789abcdef", "reads-0123456789abcdef"

TOKENS = TokenSettings(
    entries=parse_tokens(
        f"""
        [[token]]
        name = "ci"
        token = "{OPERATES}"
        roles = ["operate"]
        [[token]]
        name = "eyes"
        token = "{READS}"
        roles = ["read"]
        """,
        "tokens",
    )
)


@pytest.fixture
def ringpull(ringpull: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process, whose changes are followed without a pause."""
    monkeypatch.setattr(change_watch, "POLL_S", 0.0)
    monkeypatch.setattr(coordinator_client, "table_dims", lambda target: {"ranker/item": 16, "ranker/genre": 16})
    return ringpull


def record(target: str, admin: str) -> ServedRecord:
    return ServedRecord(
        target=target,
        http="127.0.0.1:8501",
        admin=admin,
        models=("ranker/3",),
        shards=2,
        name="ringpull",
        address=None,
        **asdict(own_identity()),
    )


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


# -- through the door --------------------------------------------------------------------------------------------------


@pytest.fixture
def fake() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
def head(fake: FakeOperations, state: Path) -> Iterator[HeadAddress]:
    with operated(fake, state=state, deployment="0123456789abcdef") as address:
        yield address


@pytest.mark.medium
@pytest.mark.net
def test_commands_that_change_something_go_through_the_door(
    ringpull: Run, head: HeadAddress, fake: FakeOperations
) -> None:
    target = ("--target", grpc_of(head))
    assert ringpull("publish", "ranker/4", *target)[:2] == (0, "ranker/4 is live\n")
    assert ringpull("rollback", "ranker", *target).status == 0
    assert ringpull("rebalance", "--shards", 4, "--yes", "--json", *target).status == 0
    assert ringpull("restart", "--rolling", "--force", "--json", *target).status == 0
    assert ringpull("load", "/models/other", *target)[:2] == (0, "other/1 is live\n")
    assert ringpull("unload", "other", *target).status == 0
    assert ringpull("label", "ranker", "stable=3", *target).status == 0
    assert [type(each).__name__ for each in fake.submitted] == [
        "Publish",
        "Rollback",
        "Rebalance",
        "LoadModel",
        "UnloadModel",
        "LabelVersion",
    ]
    assert len(fake.restarted) == 3


@pytest.mark.medium
@pytest.mark.net
def test_a_door_out_of_reach_is_one_line_with_what_to_do(
    ringpull: Run, head: HeadAddress, fake: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_operations, "why_unreachable", lambda address, timeout_s: "it is not on this machine")
    target = ("--target", grpc_of(head))
    for command in (
        ("load", "/models/other"),
        ("unload", "other"),
        ("label", "ranker", "stable=3"),
        ("publish", "ranker/4"),
        ("rollback", "ranker"),
        ("rebalance", "--shards", 4, "--yes"),
        ("restart", "--rolling", "--force"),
    ):
        ran = ringpull(*command, *target)
        assert ran.status == 1
        said = ran.err.splitlines()[-1]
        assert said.startswith(f"error: {grpc_of(head)}: the operators' door of {grpc_of(head)}, {head.admin}, cannot")
        for part in ("it is not on this machine", "--admin-host and --admin-port", "--token or RINGPULL_TOKEN"):
            assert part in said
    assert (fake.submitted, fake.restarted) == ([], [])
    # What only looks needs no door.
    assert ringpull("rebalance", "--status", *target).status == 0
    assert ringpull("rebalance", "--shards", 4, "--dry-run", *target).status == 0


@pytest.mark.medium
@pytest.mark.net
def test_with_tokens_a_command_goes_by_its_token_or_through_the_door_that_was_recorded(
    ringpull: Run, fake: FakeOperations, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with operated(fake, HeadConfig(tokens=TOKENS), state=state, deployment="guarded") as address:
        target = ("--target", grpc_of(address))
        assert "a token is asked for here" in ringpull("publish", "ranker/4", *target).err
        assert ringpull("publish", "ranker/4", *target, "--token", OPERATES).status == 0
        served.save(record(grpc_of(address), address.admin))
        assert ringpull("publish", "ranker/5", *target).status == 0
        assert ringpull("rebalance", "--shards", 4, "--yes", "--json", *target).status == 0
        monkeypatch.setattr(client_operations, "why_unreachable", lambda address, timeout_s: "it is another user's")
        assert ringpull("rollback", "ranker", *target, "--token", OPERATES).status == 0
        refused = ringpull("rollback", "ranker", *target, "--token", READS)
        assert (refused.status, "token eyes may not do that" in refused.err) == (1, True)
    assert [type(each).__name__ for each in fake.submitted] == ["Publish", "Publish", "Rebalance", "Rollback"]


@pytest.mark.medium
@pytest.mark.net
def test_with_tokens_the_user_that_serves_sees_the_status_through_the_door(
    ringpull: Run, fake: FakeOperations, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with operated(fake, HeadConfig(tokens=TOKENS), state=state, deployment="guarded") as address:
        target = ("--target", grpc_of(address))
        assert "a token is asked for here" in ringpull("status", *target).err
        served.save(record(grpc_of(address), address.admin))
        for command in (("status", "--json", *target), ("status", "--json")):
            ran = ringpull(*command)
            assert ran.status == 0, ran.err
            told = json.loads(ran.out)
            assert (told["target"], told["at_door"]) == (grpc_of(address), True)
        # A door that lets nobody in changes nothing of what is said.
        served.save(record(grpc_of(address), "unix:/nowhere/doors/guarded/head-0.sock"))
        assert "a token is asked for here" in ringpull("status", "--timeout", 1, *target).err


@pytest.mark.medium
@pytest.mark.net
def test_commands_take_a_socket_that_was_brought_here_as_their_target(
    ringpull: Run, fake: FakeOperations, state: Path, short_folder: Path
) -> None:
    """As `ssh -L HERE:THERE HOST` brings it; with tokens too, and none is needed."""
    here = short_folder / "ringpull.sock"
    with operated(fake, HeadConfig(tokens=TOKENS), state=state, deployment="guarded") as address:
        here.symlink_to(address.admin.removeprefix("unix:"))
        target = ("--target", f"unix:{here}")
        for command in (("status", "--json"), ("rebalance", "--status"), ("publish", "ranker/4")):
            ran = ringpull(*command, *target)
            assert ran.status == 0, ran.err
        assert ringpull("restart", "--rolling", "--force", "--json", *target).status == 0
    assert [type(each).__name__ for each in fake.submitted] == ["Publish"]


# -- what is known of it -----------------------------------------------------------------------------------------------


def test_the_ready_line_and_the_record_tell_where_the_door_is() -> None:
    admin = "unix:/state/doors/0123456789abcdef/head-0.sock"
    told = record("127.0.0.1:8500", admin)
    assert f"http=127.0.0.1:8501 admin={admin} shards=2" in told.ready_line
    served.save(told)
    assert served.find("127.0.0.1:8500").admin == admin
    assert served.door_of("127.0.0.1:8500") == admin
    assert served.door_of("10.0.0.7:8500") == ""


def test_sockets_go_with_the_deployment(tmp_path: Path) -> None:
    """Also of heads that were killed: the record says where they lie."""
    folder = tmp_path / "doors" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "head-0.sock").touch()
    (tmp_path / "doors" / "another").mkdir()
    ended = record("127.0.0.1:8500", f"unix:{folder}/head-0.sock")
    served.save(ended)
    assert served.discard(ended, seen_ended=True)
    assert [each.name for each in (tmp_path / "doors").iterdir()] == ["another"]


def test_nothing_is_removed_for_a_door_at_a_port(tmp_path: Path) -> None:
    assert record("127.0.0.1:8500", "127.0.0.1:8502").door_folder is None
    assert record("127.0.0.1:8500", "").door_folder is None


@pytest.mark.parametrize("admin", ["unix:/", "unix:/home/me/head-0.sock", "unix:relative/doors/d/head-0.sock"])
def test_a_record_that_names_something_else_removes_nothing(admin: str) -> None:
    assert record("127.0.0.1:8500", admin).door_folder is None


def test_where_heads_of_this_machine_leave_sockets(state: Path) -> None:
    with operated(FakeOperations(), state=state, deployment="d") as address:
        folder = Path(address.admin.removeprefix("unix:")).parent
    assert folder in doors.folders("d")
    assert all(each.name == "d" and each.is_absolute() for each in doors.folders("d"))


@pytest.mark.medium
def test_heads_of_one_machine_share_the_port_of_their_door(state: Path) -> None:
    fake = FakeOperations()
    port = free_port()
    config = HeadConfig(share_port=True, admin_port=port)
    with operated(fake, config, head=0) as first, operated(fake, config, head=1) as second:
        assert first.admin == second.admin == f"127.0.0.1:{port}"


# -- settings ----------------------------------------------------------------------------------------------------------


def config(head: HeadConfig | None = None, **changes: Any) -> ServeConfig:
    version = PlacedVersion("ranker", 1, "/models/ranker/1", {})
    return ServeConfig(versions=(version,), head=head or HeadConfig(), state_dir="/state", **changes)


def test_what_only_this_machine_reaches_is_no_matter() -> None:
    assert doors.warnings(config()) == []
    assert doors.warnings(config(HeadConfig(admin_port=8502))) == []
    assert doors.warnings(config(host="localhost")) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "head-0.example"])
def test_what_others_reach_is_warned_of_by_name(host: str) -> None:
    [ports] = doors.warnings(config(host=host))
    assert host in ports
    assert "gRPC and HTTP" in ports
    [door] = doors.warnings(config(HeadConfig(admin_host=host, admin_port=8502)))
    assert f"{host}:8502" in door.replace("[", "").replace("]", "")
    assert "publish" in door
    assert len(doors.warnings(config(HeadConfig(admin_host=host), host=host))) == 2


def test_a_joined_ray_serves_others_without_being_told_to() -> None:
    [ports] = doors.warnings(config(address="auto"))
    assert "the address of its node" in ports


def test_tls_and_tokens_together_leave_nothing_to_warn_of() -> None:
    tls = TlsFiles(cert="/c", key="/k")
    for head in (HeadConfig(admin_host="0.0.0.0"), HeadConfig(admin_host="0.0.0.0", tls=tls)):
        assert all("without tokens (--tokens)" in each for each in doors.warnings(config(head, host="0.0.0.0")))
    plain = doors.warnings(config(HeadConfig(admin_host="0.0.0.0", tokens=TOKENS), host="0.0.0.0"))
    assert all("in plain text (--tls-cert, --tls-key)" in each for each in plain)
    both = HeadConfig(admin_host="0.0.0.0", tokens=TOKENS, tls=tls)
    assert doors.warnings(config(both, host="0.0.0.0")) == []


def test_with_a_ca_and_no_tokens_whoever_has_a_certificate_is_warned_of() -> None:
    tls = TlsFiles(cert="/c", key="/k", ca="/ca")
    found = doors.warnings(config(HeadConfig(admin_host="0.0.0.0", tls=tls), host="0.0.0.0"))
    assert len(found) == 2
    for each in found:
        assert "without tokens (--tokens): whoever has a certificate of --tls-ca can " in each


def test_a_door_at_the_port_of_predictions_is_refused() -> None:
    for port in (8500, 8501):
        with pytest.raises(InvalidInput, match=f"--admin-port is {port}"):
            config(HeadConfig(grpc_port=8500, http_port=8501, admin_port=port))


@pytest.mark.medium
def test_serve_warns_before_anything_is_started(ringpull: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ringpull.deploy.cluster import cluster
    from tests.deploy.folders import write_version

    write_version(tmp_path / "ranker", 1, {"item": 1}, rows=10)

    def bring_up(*arguments: object) -> None:
        raise InvalidInput("nothing is started here")

    monkeypatch.setattr(cluster.Cluster, "bring_up", bring_up)
    said = ringpull("serve", tmp_path / "ranker", "--host", "0.0.0.0", "--admin-host", "0.0.0.0").err
    assert said.index("gRPC and HTTP listen on 0.0.0.0") < said.index("nothing is started here")
    assert "warning: the operators' door listens on 0.0.0.0:0" in said
    quiet = ringpull("serve", tmp_path / "ranker").err
    assert "warning" not in quiet
    unwritable = ringpull("serve", tmp_path / "ranker", "--audit-log", tmp_path / "none" / "audit")
    assert unwritable.err.splitlines()[-1].startswith("error: --audit-log: ")


@pytest.mark.medium
def test_a_head_that_is_restarted_takes_the_port_that_its_door_had(monkeypatch: pytest.MonkeyPatch) -> None:
    from ringpull.deploy.cluster import actors

    before = HeadHeartbeat(
        incarnation="a",
        host="10.0.0.7",
        grpc_port=1,
        http_port=2,
        epoch=1,
        versions=(),
        admin="[2001:db8::7]:8502",
    )

    class Coordinator:
        def __init__(self, *arguments: object, **options: object) -> None:
            pass

        def heads(self) -> dict[int, HeadHeartbeat]:
            return {0: before}

    monkeypatch.setattr(actors, "RemoteProcess", Coordinator)
    any_port = HeadConfig(host="10.0.0.7", grpc_port=1, http_port=2, admin_host="::")
    assert actors.with_ports_before(any_port, 0, make_actor_spec()).admin_port == 8502
    told = replace(any_port, admin_port=9000)
    assert actors.with_ports_before(told, 0, make_actor_spec()).admin_port == 9000
    on_socket = HeadConfig(host="10.0.0.7")
    assert actors.with_ports_before(on_socket, 0, make_actor_spec()).admin_at is None

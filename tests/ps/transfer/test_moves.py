"""Shards with separate data folders over real TCP: moves under load, kills, throttles, cancels."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.ps.errors import CorruptData, ExportError, LimitExceeded, NotFound, NotOwner, StartupError, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import RangeSource, ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.pull_messages import Op
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.slot_mask import mask_of
from ringpull.ps.spec import RowType
from ringpull.ps.store.base import Base
from ringpull.ps.tls import NO_TLS
from ringpull.ps.transfer.piece import Piece
from tests.certificates import Certificates
from tests.ps.tables import MODEL, VERSION, WrittenTable, pull_request, pulled, rows_request, write_table
from tests.ps.transfer.placements import (
    NOWHERE,
    assert_holds,
    assign,
    copied_bytes,
    owned_slots,
    placement,
    slots_of,
    sources_in,
)
from tests.reference import assert_close

pytestmark = pytest.mark.net

TWO = Ring.even([0, 1])
THREE = TWO.join(2)


@pytest.fixture(scope="module", params=[RowType.FLOAT32, RowType.BYTES])
def users(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> WrittenTable:
    """About 11 MB: several blocks for each shard."""
    return write_table(tmp_path_factory.mktemp("tables") / "users", rows=80_000, dim=32, row_type=request.param)


@pytest.fixture
def actors(
    tmp_path: Path, users: WrittenTable, certificates: Certificates, request: pytest.FixtureRequest
) -> Iterator[dict[int, ShardProcess]]:
    """Shards 0 to 2, each with a data folder; the first two have their ranges and answer for them. In plain text, where
    no test says otherwise."""
    tls = certificates.tls if getattr(request, "param", "") == "tls" else NO_TLS
    made = {
        shard: ShardProcess(shard, data_dir=tmp_path / "data", tidy_after_s=0, node="here", tls=tls)
        for shard in range(3)
    }
    try:
        for shard in TWO.shards:
            made[shard].prepare([placement([users.folder], owned_slots(TWO, shard))])
            assign(made[shard], 1, TWO)
        yield made
    finally:
        for actor in made.values():
            actor.stop()


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.002)


def copy_of(tmp_path: Path, shard: int) -> Base:
    [folder] = (tmp_path / "data" / f"shard-{shard}" / MODEL / str(VERSION) / "users").glob("base-*")
    return Base.open(folder)


def move(actors: dict[int, ShardProcess], before: Ring, after: Ring, epoch: int) -> None:
    """Lead from one ring to the next as a coordinator does."""
    for shard in after.shards:
        held = [*owned_slots(after, shard)]
        actors[shard].prepare([placement([NOWHERE / "users"], held, sources_in(before, actors, shard))])
    for shard in {*before.shards, *after.shards}:
        assign(actors[shard], epoch, before, after)
    for shard in after.shards:
        assign(actors[shard], epoch + 1, after)


@pytest.mark.parametrize("actors", ["plain", "tls"], indirect=True)
def test_two_to_three_to_two_over_tcp(actors: dict[int, ShardProcess], tmp_path: Path, users: WrittenTable) -> None:
    for epoch, before, after in ((2, TWO, THREE), (4, THREE, TWO)):
        move(actors, before, after, epoch)
        for shard in after.shards:
            gained = after.owned_mask(shard, 1) & (before.owned_mask(shard, 1) ^ 1)
            heartbeat = actors[shard].heartbeat()
            assert heartbeat.copied_bytes == heartbeat.bytes_to_copy == copied_bytes(users, gained)
            assert (heartbeat.shard, heartbeat.epoch, heartbeat.node) == (shard, epoch + 1, "here")
            assert (heartbeat.host, heartbeat.port) == actors[shard].address()
            assert heartbeat.resident_bytes > 1 << 20
        due = {shard: after.owned_mask(shard, 1) for shard in after.shards}
        for shard, mask in due.items():
            until(lambda shard=shard, mask=mask: held_is(tmp_path, shard, mask))
            assert_holds(copy_of(tmp_path, shard), users, mask)
    incarnations = {actor.heartbeat().incarnation for actor in actors.values()}
    assert len(incarnations) == 3


def whole_version(number: int, table: WrittenTable) -> VersionPlacement:
    tables = {"users": TablePlacement(str(table.folder), (SlotRange(0, SLOTS),), ())}
    return VersionPlacement(MODEL, number, tables)


def test_a_prepare_that_finds_no_room_does_not_keep_what_nobody_needs(tmp_path: Path, users: WrittenTable) -> None:
    """No assignment follows a prepare that failed: it called the tidying off, which would have made the room."""
    size = copied_bytes(users, mask_of([SlotRange(0, SLOTS)]))
    ring = Ring.even([0])
    # One version is answered for; of the next there are pieces, and the base that is made of them.
    limit_bytes = 3 * size + size // 2
    actor = ShardProcess(0, data_dir=tmp_path / "data", tidy_after_s=3600, data_limit_bytes=limit_bytes)
    try:
        for number in (1, 2):
            actor.prepare([whole_version(number, users)])
            actor.assign(number, [ServedRanges(ring, {(MODEL, "users"): 1})], [(MODEL, number)])
        actor._tidy_after_s = 0
        with pytest.raises(LimitExceeded):
            actor.prepare([whole_version(3, users)])
        until(lambda: not (tmp_path / "data" / "shard-0" / MODEL / "1").exists())
        actor.prepare([whole_version(3, users)])
    finally:
        actor.stop()


def test_a_prepare_that_fails_on_the_way_leaves_no_pieces_for_good(
    actors: dict[int, ShardProcess], tmp_path: Path, users: WrittenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, written = Piece.append, threading.Event()

    def append_once(self: Piece, block: Any, until: int) -> None:
        if written.is_set():
            raise ExportError("no space left on device")
        append(self, block, until)
        written.set()

    monkeypatch.setattr(Piece, "append", append_once)
    with pytest.raises(ExportError):
        actors[0].prepare([placement([users.folder], [SlotRange(0, SLOTS)])])
    assert written.is_set()
    until(lambda: not list((tmp_path / "data" / "shard-0").rglob("piece-*")))
    assert_holds(copy_of(tmp_path, 0), users, TWO.owned_mask(0, 1))


def held_is(tmp_path: Path, shard: int, mask: np.ndarray) -> bool:
    """Whether a shard has dropped what it does not own: that happens beside everything else."""
    folders = list((tmp_path / "data" / f"shard-{shard}" / MODEL / str(VERSION) / "users").glob("base-*"))
    try:
        return len(folders) == 1 and bool((Base.open(folders[0]).held_mask() == mask).all())
    except CorruptData:
        return False  # it is being removed, just now


@pytest.mark.medium
def test_pulls_stay_right_while_ranges_move(actors: dict[int, ShardProcess], users: WrittenTable) -> None:
    """Threads ask for everything all the time: right, or NotOwner for a slot that is not owned; never anything else."""
    stop = threading.Event()
    outcomes: dict[str, int] = {"right": 0, "refused": 0}
    problems: list[str] = []
    slots = slots_of(users.keys)

    def hammer(shard: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        pull = actors[shard]._shard.pull
        while not stop.is_set():
            epoch, before = actors[shard]._shard.epoch, owned(shard)
            picked = rng.choice(len(users.keys), 64)
            picked = picked[before[slots[picked]] == 1] if rng.random() < 0.9 else picked
            bags = len(picked) // 4
            try:
                reply = pull(rows_request("users", users.keys[picked]))
                if pulled(reply) != users.row_bytes(picked):
                    problems.append("wrong rows")
                outcomes["right"] += 1
                if users.rows.dtype == object:
                    continue
                pooled = pull(pull_request([("users", Op.SUM, users.keys[picked[: 4 * bags]], [4] * bags, None)]))
                expected = users.rows[picked[: 4 * bags]].reshape(bags, 4, -1).astype(np.float64).sum(1)
                assert_close(pooled.values.reshape(bags, -1), expected)
            except NotOwner:
                outcomes["refused"] += 1
                if before[slots[picked]].all() and actors[shard]._shard.epoch == epoch:
                    problems.append("refused what it owned")
            except Exception as exc:
                problems.append(repr(exc))

    def owned(shard: int) -> np.ndarray:
        mask = actors[shard]._shard.owned(MODEL, "users")
        return np.zeros(SLOTS, np.uint8) if mask is None else mask

    threads = [threading.Thread(target=hammer, args=(shard, shard)) for shard in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        epoch = 2
        for before, after in ((TWO, THREE), (THREE, TWO)) * 2:
            move(actors, before, after, epoch)
            epoch += 2
            seen = outcomes["right"]
            until(lambda seen=seen: outcomes["right"] > seen + 5 or bool(problems))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert outcomes["refused"] > 0


@pytest.mark.medium
def test_a_target_killed_on_the_way_goes_on(
    actors: dict[int, ShardProcess], tmp_path: Path, users: WrittenTable
) -> None:
    """kill -9, twice, and then to the end: the sources are asked for nothing that was on disk."""
    due = copied_bytes(users, THREE.owned_mask(2, 1))
    actors.pop(2).stop()
    path = tmp_path / "placement"
    path.write_bytes(pickle.dumps(placement([NOWHERE / "users"], owned_slots(THREE, 2), sources_in(TWO, actors, 2))))
    folder = tmp_path / "elsewhere" / "shard-2" / MODEL / str(VERSION) / "users"

    def on_disk() -> int:
        return sum(piece.stat().st_size for piece in folder.glob("piece-*"))

    command = [sys.executable, "-m", "tests.ps.transfer.target", str(path), str(tmp_path / "elsewhere")]
    kept = 0
    for part in (0.05, 0.6):
        with subprocess.Popen([*command, "4000000"], stdout=subprocess.PIPE) as target:
            until(lambda part=part: on_disk() > part * due or target.poll() is not None)
            target.kill()
        assert on_disk() >= kept
        kept = on_disk()
    before = sum(actor.statistics().requests for actor in actors.values())
    done = subprocess.run([*command, "1e12"], capture_output=True, text=True, check=True)
    assert done.stdout == "ready\n"
    left = due - kept
    asked = sum(actor.statistics().requests for actor in actors.values()) - before
    assert asked <= left // (1 << 20) + 4, "blocks of a MiB at least, and one more where a range or a file was cut"
    [base] = folder.glob("base-*")
    assert_holds(Base.open(base), users, THREE.owned_mask(2, 1))


def test_a_copy_can_be_held_let_go_and_given_up(
    actors: dict[int, ShardProcess], tmp_path: Path, users: WrittenTable
) -> None:
    target, wanted = actors[2], placement([NOWHERE / "users"], owned_slots(THREE, 2), sources_in(TWO, actors, 2))
    outcome: list[Exception | None] = []

    def prepare() -> None:
        try:
            target.prepare([wanted])
            outcome.append(None)
        except Unavailable as exc:
            outcome.append(exc)

    target.throttle(0)
    first = threading.Thread(target=prepare)
    first.start()
    until(lambda: target.heartbeat().bytes_to_copy > 0)
    assert target.heartbeat().copied_bytes == 0
    target.cancel()
    first.join()
    assert isinstance(outcome[0], Unavailable)
    second = threading.Thread(target=prepare)
    second.start()
    target.throttle(None)
    second.join()
    assert outcome[1] is None
    assert_holds(copy_of(tmp_path, 2), users, THREE.owned_mask(2, 1))
    target.cancel()  # nothing is under way


def test_a_source_that_is_gone_is_left_for_the_next(
    actors: dict[int, ShardProcess], tmp_path: Path, users: WrittenTable
) -> None:
    everything = [SlotRange(0, SLOTS)]
    one = Ring.even([0])
    actors[0].prepare([placement([users.folder], everything)])
    assign(actors[0], 2, one)
    gone = sources_in(TWO, actors, 0)
    actors[1].stop()
    wanted = placement([NOWHERE / "users"], owned_slots(THREE, 2), [*gone, *sources_in(one, actors, 2)])
    actors[2].prepare([wanted])
    assert_holds(copy_of(tmp_path, 2), users, THREE.owned_mask(2, 1))


STRANGERS = [("theirs", 0), ("ours", 3), ("ours", 0)]
"""Deployment and shard of who has got the port of shard 0 of `ours`. The last one is another life of the same shard."""


@pytest.mark.parametrize(("deployment", "shard"), STRANGERS)
def test_a_stranger_at_the_port_of_a_source_is_no_source(
    tmp_path: Path, users: WrittenTable, deployment: str, shard: int
) -> None:
    """It has a table of that name, too, and would stream it."""
    everything = [SlotRange(0, SLOTS)]
    others = write_table(tmp_path / "others" / "users", rows=9_000, dim=32)
    source = ShardProcess(0, deployment="ours")
    stranger = ShardProcess(shard, deployment=deployment)
    target = ShardProcess(2, data_dir=tmp_path / "data", deployment="ours")
    try:
        for member, table in ((source, users), (stranger, others)):
            member.prepare([placement([table.folder], everything)])
            assign(member, 1, Ring.even([member.heartbeat().shard]))
        meant = source.heartbeat().incarnation
        reused = RangeSource(SlotRange(0, SLOTS), *stranger.address(), 0, meant)
        with pytest.raises(Unavailable, match=r"hung up: this is shard .* was meant"):
            target.prepare([placement([NOWHERE / "users"], owned_slots(THREE, 2), [reused])])
        right = RangeSource(SlotRange(0, SLOTS), *source.address(), 0, meant)
        target.prepare([placement([NOWHERE / "users"], owned_slots(THREE, 2), [reused, right])])
        assert_holds(copy_of(tmp_path, 2), users, THREE.owned_mask(2, 1))
    finally:
        for member in (source, stranger, target):
            member.stop()


def test_shards_of_two_deployments_have_nothing_of_each_other(
    certificates: Certificates, users: WrittenTable, tmp_path: Path
) -> None:
    """Whoever has another certificate, or none, copies no rows: it hears why, and so does whoever reads its error."""
    source = ShardProcess(0, tls=certificates.mutual)
    others = {
        "its certificate is not taken": certificates.stranger.files(certificates.stranger_ca.cert),
        "this shard speaks TLS only": NO_TLS,
    }
    try:
        source.prepare([placement([users.folder], [SlotRange(0, SLOTS)])])
        for number, (reason, files) in enumerate(others.items(), 1):
            target = ShardProcess(number, data_dir=tmp_path, tls=files)
            sources = (RangeSource(SlotRange(0, SLOTS), *source.address()),)
            try:
                with pytest.raises(Unavailable, match=reason):
                    target.prepare([placement([NOWHERE], [SlotRange(0, SLOTS)], sources)])
            finally:
                target.stop()
    finally:
        source.stop()


def test_without_a_data_folder_files_are_opened_where_they_lie(users: WrittenTable) -> None:
    actor = ShardProcess(0, prefault=True, verify=True)
    try:
        with pytest.raises(NotFound, match=r"model/3: the folder of table users, .* no data folder"):
            actor.prepare([placement([NOWHERE / "users"], owned_slots(TWO, 0))])
        for _ in range(2):
            actor.prepare([placement([users.folder], owned_slots(TWO, 0))])
        assign(actor, 1, TWO)
        assert actor.statistics().tables[0].rows == (TWO.owned_mask(0, 1)[slots_of(users.keys)] == 1).sum()
        assert (actor.heartbeat().copied_bytes, actor.heartbeat().bytes_to_copy) == (0, 0)
        actor.cancel()
    finally:
        actor.stop()


def test_a_data_folder_is_found_again_and_belongs_to_one_process(
    actors: dict[int, ShardProcess], tmp_path: Path, users: WrittenTable
) -> None:
    with pytest.raises(StartupError, match="in use by another process"):
        ShardProcess(0, data_dir=tmp_path / "data")
    actors[0].stop()
    again = ShardProcess(0, data_dir=tmp_path / "data")
    try:
        again.prepare([placement([NOWHERE / "users"], owned_slots(TWO, 0))])
        assert again.heartbeat().bytes_to_copy == 0
        assign(again, 1, TWO)
        assert_holds(copy_of(tmp_path, 0), users, TWO.owned_mask(0, 1))
    finally:
        again.stop()


def test_stopping_ends_a_prepare(actors: dict[int, ShardProcess], users: WrittenTable) -> None:
    target = actors[2]
    target.throttle(0)
    outcome: list[type] = []

    def prepare() -> None:
        try:
            target.prepare([placement([users.folder], owned_slots(THREE, 2))])
        except Unavailable as exc:
            outcome.append(type(exc))

    thread = threading.Thread(target=prepare)
    thread.start()
    until(lambda: target.heartbeat().bytes_to_copy > 0)
    target.stop()
    thread.join()
    assert len(outcome) == 1

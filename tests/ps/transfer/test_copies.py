"""A shard's own copies: exactly the ranges it should have, byte for byte, whatever happened on the way there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import CorruptData, LimitExceeded, NotFound, NotOwner, StartupError, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import RangeSource
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.slot_mask import mask_of
from ringpull.ps.spec import RowType
from ringpull.ps.transfer import copies as copies_module
from ringpull.ps.transfer.copies import LocalCopies
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.piece import Piece
from ringpull.ps.transfer.throttle import Throttle
from tests.ps.tables import MODEL, VERSION, WrittenTable, pulled, rows_request, write_table
from tests.ps.transfer.placements import (
    NOWHERE,
    assert_holds,
    copied_bytes,
    copied_rows,
    owned_slots,
    placement,
    slots_of,
)
from tests.ps.transfer.shards import Crew, Member

TWO = Ring.even([0, 1])
THREE = TWO.join(2)


@pytest.fixture(scope="module", params=[RowType.FLOAT32, RowType.BYTES])
def users(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> WrittenTable:
    dim = 3 if request.param is RowType.BYTES else 5
    return write_table(tmp_path_factory.mktemp("tables") / "users", rows=1500, dim=dim, row_type=request.param)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "items", rows=300, dim=7, row_type=RowType.INT8)


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    with Crew(tmp_path) as made:
        yield made


def answers(member: Member, table: WrittenTable) -> None:
    """Assert that a member answers right for what it owns, and refuses the rest."""
    mask = member.shard.owned(MODEL, "users")
    assert mask is not None
    mine = mask[slots_of(table.keys)] == 1
    reply = member.shard.pull(rows_request("users", table.keys[mine]))
    assert pulled(reply) == table.row_bytes(mine)
    assert reply.missing.tolist() == [0]
    if not mine.all():
        with pytest.raises(NotOwner):
            member.shard.pull(rows_request("users", table.keys[~mine][:1]))


# -- moves -------------------------------------------------------------------------------------------------------------


def test_shards_stream_two_to_three_to_two(crew: Crew, users: WrittenTable, items: WrittenTable) -> None:
    made = crew.bring_up(3, TWO, users, items)
    for shard in (0, 1):
        assert_holds(made[shard].base(), users, TWO.owned_mask(shard, 1))
        assert_holds(made[shard].base("items"), items, TWO.owned_mask(shard, 1))
        due = sum(copied_bytes(table, TWO.owned_mask(shard, 1)) for table in (users, items))
        assert made[shard].job.copied_bytes == made[shard].job.bytes_to_copy == due
    epoch = 2
    for before, after in ((TWO, THREE), (THREE, TWO)):
        for shard in after.shards:
            made[shard].prepare_streamed(after, before, ["users", "items"])
            gained = after.owned_mask(shard, 1) & (before.owned_mask(shard, 1) ^ 1)
            due = sum(copied_bytes(table, gained) for table in (users, items))
            assert made[shard].job.copied_bytes == made[shard].job.bytes_to_copy == due
            made[shard].assign(epoch, before, after)
        for shard in after.shards:
            answers(made[shard], users)
            made[shard].assign(epoch + 1, after)
            answers(made[shard], users)
            made[shard].tidy()
            answers(made[shard], users)
            assert_holds(made[shard].base(), users, after.owned_mask(shard, 1))
            assert_holds(made[shard].base("items"), items, after.owned_mask(shard, 1))
            assert made[shard].pieces() == []
        epoch += 2


@pytest.mark.medium
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_history_of_rings_leaves_everyone_with_its_own(
    tmp_path_factory: pytest.TempPathFactory, users: WrittenTable, data: st.DataObject
) -> None:
    ring = Ring.even([0, 1], data.draw(st.integers(1, 2)))
    with Crew(tmp_path_factory.mktemp("history")) as crew:
        live_through(crew, ring, users, data)


def live_through(crew: Crew, ring: Ring, users: WrittenTable, data: st.DataObject) -> None:
    made = crew.bring_up(4, ring, users)
    for step in range(data.draw(st.integers(1, 4))):
        after = ring.with_shards(data.draw(st.sets(st.integers(0, 3), min_size=1)))
        after = after.with_ranks(data.draw(st.integers(1, 2)))
        for shard in after.shards:
            if data.draw(st.booleans()):
                made[shard].restart()
                if shard in ring.shards:
                    made[shard].prepare_streamed(ring, ring)
                    made[shard].assign(2 * step + 1, ring)
            made[shard].prepare_streamed(after, ring)
        for shard in {*ring.shards, *after.shards}:
            made[shard].assign(2 * step + 2, ring, after)
            owned = ring.owned_mask(shard, ring.ranks) | after.owned_mask(shard, after.ranks)
            assert (made[shard].shard.owned(MODEL, "users") == owned).all()
            answers(made[shard], users)
        for shard in {*ring.shards, *after.shards}:
            made[shard].assign(2 * step + 3, after)
            if data.draw(st.booleans()):
                made[shard].tidy()
            if shard in after.shards:
                answers(made[shard], users)
                assert (made[shard].base().held_mask() >= after.owned_mask(shard, after.ranks)).all()
        ring = after


def test_preparing_again_copies_nothing(crew: Crew, users: WrittenTable) -> None:
    made = crew.bring_up(3, TWO, users)
    for _ in range(2):
        made[2].prepare_streamed(THREE, TWO)
    assert (made[2].job.copied_bytes, made[2].job.bytes_to_copy) == (0, 0)
    base = made[2].base()
    made[2].restart()
    made[2].prepare_streamed(THREE, TWO)
    assert made[2].peers.rows == 0
    assert made[2].base().folder == base.folder


# -- interruptions -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a kill is to a test in the same process."""


@contextmanager
def killed_at_write(monkeypatch: pytest.MonkeyPatch, write: int, *, torn: bool) -> Iterator[None]:
    """Have the process "die" at the n-th block that it writes to a piece, before or in the middle of it."""
    append, count = Piece.append, 0

    def dying(self: Piece, block: object, until: int) -> None:
        nonlocal count
        if count == write:
            if torn:
                append(self, block, until)  # type: ignore[arg-type]
                with self.path.open("r+b") as file:
                    file.truncate(self.bytes - 17)
            raise Killed
        count += 1
        append(self, block, until)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Piece, "append", dying)
        yield


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_at_any_block_costs_no_more_than_that_block(
    crew: Crew, users: WrittenTable, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    made = crew.bring_up(3, TWO, users)
    gained = THREE.owned_mask(2, 1)
    due = copied_bytes(users, gained)
    target, rows, kills = made[2], 0, 0
    while True:
        before = target.peers.rows
        try:
            with killed_at_write(monkeypatch, 1, torn=torn):
                target.prepare_streamed(THREE, TWO)
            break
        except Killed:
            kills += 1
        assert target.peers.rows - before <= 3 * 200, "the block written, the one that failed, the one on its way"
        rows += 200  # 4000 bytes of rows of 20
        target.restart()
        assert not target.shard.is_open(MODEL, VERSION)
    assert kills >= 2
    assert target.job.copied_bytes == target.job.bytes_to_copy == due
    assert_holds(target.base(), users, gained)
    assert target.pieces() == []


@pytest.mark.parametrize("moment", ["merge", "replace", "drop_pieces"])
def test_a_kill_at_any_later_step_copies_nothing_again(
    crew: Crew, users: WrittenTable, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    made = crew.bring_up(3, TWO, users)
    target = made[2]

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "merge":
            patch.setattr("ringpull.ps.store.base_writer.BaseWriter.finish", die)
            patch.setattr("ringpull.ps.store.base_writer.shutil.rmtree", lambda *_, **__: None)
        else:
            patch.setattr(f"ringpull.ps.transfer.table_copy.TableCopy.{moment}", die)
        with pytest.raises(Killed):
            target.prepare_streamed(THREE, TWO)
    streamed = target.peers.rows
    assert streamed > 0
    target.restart()
    target.prepare_streamed(THREE, TWO)
    assert target.peers.rows == 0
    assert_holds(target.base(), users, THREE.owned_mask(2, 1))
    if moment == "merge":  # nobody can know, later, how much of a base was copied in which attempt
        assert target.job.copied_bytes == target.job.bytes_to_copy == copied_bytes(users, THREE.owned_mask(2, 1))
    assert list(target.folder.rglob("*.tmp")) == []
    target.prepare_streamed(THREE, TWO)


def test_an_interrupted_copy_goes_on_for_other_ranges_from_other_sources(
    crew: Crew, users: WrittenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move changed its mind meanwhile: what was copied serves as far as it is wanted."""
    made = crew.bring_up(3, TWO, users)
    target = made[2]
    first = placement([NOWHERE / "users"], [SlotRange(10_000, 30_000)], [RangeSource(SlotRange(0, 32_768), "peer", 0)])
    with killed_at_write(monkeypatch, 1, torn=False), pytest.raises(Killed):
        target.prepare(first)
    target.restart()
    begun = Piece.open(target.pieces()[0])
    assert 10_000 < begun.until < 30_000
    made[0].assign(2, Ring.even([0]))
    made[0].prepare(placement([users.folder], [SlotRange(0, SLOTS)]))
    sources = [RangeSource(SlotRange(begin, begin + 8192), "peer", 0) for begin in range(0, SLOTS, 8192)]
    wanted = [SlotRange(5_000, 25_000), SlotRange(50_000, 50_001)]
    target.prepare(placement([NOWHERE / "users"], wanted, sources))
    assert_holds(target.base(), users, mask_of(wanted))
    due = copied_bytes(users, mask_of(wanted))
    assert target.job.copied_bytes == due
    assert target.peers.rows == copied_rows(users, mask_of(wanted)) - begun.rows


def test_damage_in_a_piece_is_found_and_only_the_rest_copied_again(
    crew: Crew, users: WrittenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = crew.bring_up(3, TWO, users)
    target = made[2]
    merge = copies_module.merge

    def damage_then_merge(*arguments: object) -> object:
        path = target.pieces()[-1]
        data = bytearray(path.read_bytes())
        data[-3] ^= 8
        path.write_bytes(bytes(data))
        return merge(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(copies_module, "merge", damage_then_merge)
        with pytest.raises(Unavailable, match="was damaged; it was cut"):
            target.prepare_streamed(THREE, TWO)
    assert not target.shard.is_open(MODEL, VERSION)
    streamed = target.peers.rows
    target.prepare_streamed(THREE, TWO)
    assert 0 < target.peers.rows - streamed <= 200
    assert_holds(target.base(), users, THREE.owned_mask(2, 1))


def test_a_damaged_copy_is_copied_anew(crew: Crew, users: WrittenTable) -> None:
    made = crew.bring_up(3, TWO, users)
    made[1].base()
    rows = made[0].base().folder / "rows"
    data = bytearray(rows.read_bytes())
    data[100] ^= 1
    rows.write_bytes(bytes(data))
    with pytest.raises(CorruptData, match="damaged"):
        made[2].prepare_streamed(THREE, TWO)
    one = Ring.even([0])
    with pytest.raises(Unavailable, match=r"damaged: prepare again"):
        made[0].prepare(placement([users.folder], owned_slots(one, 0)))
    made[0].prepare(placement([users.folder], owned_slots(one, 0)))
    assert_holds(made[0].base(), users, one.owned_mask(0, 1))
    position_file = made[0].base().folder / "positions"
    position_file.write_bytes(position_file.read_bytes()[:-8])
    made[0].restart()
    made[0].prepare(placement([users.folder], owned_slots(one, 0)))
    assert_holds(made[0].base(), users, one.owned_mask(0, 1))
    made[0].assign(2, one)
    made[2].prepare_streamed(THREE, one)
    assert_holds(made[2].base(), users, THREE.owned_mask(2, 1))


def test_a_cancelled_prepare_goes_on_later(crew: Crew, users: WrittenTable) -> None:
    made = crew.bring_up(3, TWO, users)
    target, request = made[2], made[2].peers.request

    def cancel_at_third(source: RangeSource, message: object) -> object:
        reply = request(source, message)  # type: ignore[arg-type]
        if target.peers.rows > 300:
            target.job.cancel()
        return reply

    target.peers.request = cancel_at_third  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        target.prepare_streamed(THREE, TWO)
    streamed, target.peers.request = target.peers.rows, request  # type: ignore[method-assign]
    assert target.pieces()
    target.prepare_streamed(THREE, TWO)
    assert_holds(target.base(), users, THREE.owned_mask(2, 1))
    assert target.peers.rows <= copied_rows(users, THREE.owned_mask(2, 1)) + 400
    assert streamed < target.peers.rows


# -- giving back -------------------------------------------------------------------------------------------------------


def test_what_is_not_answered_for_is_given_back(crew: Crew, users: WrittenTable) -> None:
    [member] = crew.bring_up(1, Ring.even([0]), users)
    whole = member.size()
    member.assign(2, Ring.even(range(4)))
    member.tidy()
    assert member.size() < whole / 2
    assert_holds(member.base(), users, Ring.even(range(4)).owned_mask(0, 1))
    answers(member, users)
    small = member.base().folder
    nearly = Ring.even(range(4)).owned_mask(0, 1)
    nearly[np.flatnonzero(nearly)[-10:]] = 0
    member.tidy()
    assert member.base().folder == small, "too little to drop to write it all again"
    member.assign(3, Ring.even(range(4)), versions=())
    member.tidy(())
    assert list(member.folder.glob("*")) == [member.folder / ".lock"]
    with pytest.raises(NotFound):
        member.shard.pull(rows_request("users", users.keys[:1]))


def test_pieces_of_a_move_that_was_given_up_are_dropped(
    crew: Crew, users: WrittenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = crew.bring_up(3, THREE, users)
    held = made[0].base().held
    with killed_at_write(monkeypatch, 2, torn=False), pytest.raises(Killed):
        made[0].prepare_streamed(Ring.even([0]), THREE)
    made[0].tidy()
    assert made[0].pieces()
    made[0].tidy(drop_pieces=True)
    assert made[0].pieces() == []
    assert made[0].base().held == held
    answers(made[0], users)


def test_a_copy_with_damage_is_not_made_smaller(crew: Crew, users: WrittenTable) -> None:
    [member] = crew.bring_up(1, Ring.even([0]), users)
    rows = member.base().folder / "rows"
    data = bytearray(rows.read_bytes())
    data[100] ^= 1
    rows.write_bytes(bytes(data))
    member.assign(2, TWO)
    with pytest.raises(Unavailable, match="damaged"):
        member.tidy()
    member.tidy()
    assert member.base().rows == len(users.keys)


# -- limits and refusals -----------------------------------------------------------------------------------------------


def test_over_the_limit_nothing_is_copied(crew: Crew, users: WrittenTable) -> None:
    need = copied_bytes(users, TWO.owned_mask(0, 1))
    small = crew.add(0, "small", limit_bytes=2 * need)
    with pytest.raises(LimitExceeded, match=rf"shard-0: this would take up to \d+ bytes; the limit is {2 * need}"):
        small.prepare(placement([users.folder], owned_slots(TWO, 0)))
    assert list(small.folder.glob("*")) == [small.folder / ".lock"]
    # Pieces and the base that is made of them meet: twice the rows, and an index and a header.
    large = crew.add(0, "large", limit_bytes=2 * need + 8192)
    large.prepare(placement([users.folder], owned_slots(TWO, 0)))
    assert large.size() < need + 8192
    large.prepare(placement([users.folder], owned_slots(TWO, 0)))


@pytest.mark.parametrize("room", [True, False])
def test_a_copy_is_made_smaller_only_within_the_limit(crew: Crew, users: WrittenTable, room: bool) -> None:
    """The smaller one is written beside it."""
    [member] = crew.bring_up(1, Ring.even([0]), users)
    whole = member.size()
    half = copied_bytes(users, TWO.owned_mask(0, 1))
    member.limit(whole + half + (8192 if room else -1))
    member.prepare(placement([users.folder], [SlotRange(0, SLOTS)]))
    member.assign(2, TWO)
    member.tidy()
    assert (member.size() < whole) == room
    answers(member, users)


def test_the_folder_belongs_to_one_process(tmp_path: Path) -> None:
    first = LocalCopies(tmp_path / "shard-0", Throttle())
    with pytest.raises(StartupError, match=r"shard-0 is in use by another process"):
        LocalCopies(tmp_path / "shard-0", Throttle())
    first.close()
    LocalCopies(tmp_path / "shard-0", Throttle()).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="cannot be written"):
        LocalCopies(tmp_path / "file" / "shard-0", Throttle())


def test_rows_of_two_exports_are_never_mixed(crew: Crew, tmp_path: Path, users: WrittenTable) -> None:
    other = write_table(tmp_path / "other" / "users", rows=1500, dim=5, seed=9)
    [member] = crew.bring_up(1, TWO, users)
    everything = [SlotRange(0, SLOTS)]
    with pytest.raises(CorruptData, match=r"other content now than when it was opened.*; export under a new number"):
        member.prepare(placement([other.folder], everything))
    answers(member, users)
    member.restart()
    member.prepare(placement([other.folder], everything))
    assert_holds(member.base(), other, mask_of(everything))


def test_without_anybody_to_ask_the_slots_are_named(crew: Crew, users: WrittenTable) -> None:
    member = crew.add(0)
    with pytest.raises(Unavailable, match=r"table users: slots 0 to 32768 cannot be copied: nobody to ask"):
        member.prepare(placement([NOWHERE / "users"], [SlotRange(0, 32_768)]))
    renamed = users.folder
    with pytest.raises(CorruptData, match="table houses is users at its source"):
        member.prepare(
            type(placement([], []))(MODEL, VERSION, {"houses": placement([renamed], [SlotRange(0, 5)]).tables["users"]})
        )


def test_one_job_at_a_time(crew: Crew, users: WrittenTable) -> None:
    """Several threads prepare at once: one copies, the others find it done."""
    made = crew.bring_up(3, TWO, users)
    threads = [threading.Thread(target=made[2].prepare_streamed, args=(THREE, TWO)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[2].peers.rows == copied_rows(users, THREE.owned_mask(2, 1))
    assert_holds(made[2].base(), users, THREE.owned_mask(2, 1))
    assert Job().copied_bytes == 0

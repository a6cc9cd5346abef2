"""The coordinator as a pure state machine: no threads, no files, no Ray."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.errors import CorruptData, InvalidInput
from router.coordinator import (
    Assign,
    Assigned,
    BringUp,
    Command,
    Coordinator,
    Event,
    Failed,
    HeadServes,
    Open,
    Opened,
    Phase,
    PlacedTable,
    PlacedVersion,
    StartHead,
    most_replicas,
    state_from_dict,
    state_to_dict,
)
from router.shard_map import ShardAddress


def addresses(shards: int) -> tuple[ShardAddress, ...]:
    return tuple(ShardAddress(shard, "10.0.0.1", 7000 + shard) for shard in range(shards))


def version(model: str = "ranker", number: int = 3, **replicas: int | str) -> PlacedVersion:
    tables = {name: PlacedTable(f"/models/{model}/{number}/{name}", wanted) for name, wanted in replicas.items()}
    return PlacedVersion(model, number, f"/models/{model}/{number}", tables)


def answer(command: Command) -> Event:
    """What a healthy shard or head reports."""
    match command:
        case Open(shard, placed):
            return Opened(shard, placed.model, placed.version)
        case Assign(shard, shard_map):
            return Assigned(shard, shard_map.epoch)
        case StartHead(shard_map, _):
            return HeadServes(shard_map.epoch)


def test_a_bring_up_opens_then_assigns_then_starts_the_head() -> None:
    """Every shard opens every version before it takes ranges, and the head comes last."""
    coordinator = Coordinator()
    opens = coordinator.handle(BringUp(addresses(2), (version(user=1), version("retriever", 1, item=2))))
    assert [(command.shard, command.version.model) for command in opens] == [
        (0, "ranker"),
        (1, "ranker"),
        (0, "retriever"),
        (1, "retriever"),
    ]
    assert coordinator.state.phase is Phase.OPENING

    assert coordinator.handle(answer(opens[0])) == []
    [first] = coordinator.handle(answer(opens[2]))
    assert isinstance(first, Assign)
    assert first.shard == 0
    assert coordinator.handle(answer(first)) == [], "shard 1 has not opened yet"

    coordinator.handle(answer(opens[1]))
    [second] = coordinator.handle(answer(opens[3]))
    [start] = coordinator.handle(answer(second))
    assert isinstance(start, StartHead)
    assert start.shard_map == first.shard_map == coordinator.shard_map()
    assert coordinator.state.phase is Phase.STARTING

    assert coordinator.handle(answer(start)) == []
    assert coordinator.state.phase is Phase.LIVE


@given(shards=st.integers(1, 6), order=st.randoms(use_true_random=False))
def test_any_order_of_answers_ends_live(shards: int, order: object) -> None:
    """Shards answer when they like: the head is started once, after all of them."""
    coordinator = Coordinator()
    pending = coordinator.handle(BringUp(addresses(shards), (version(a=1), version("other", 1, b="all"))))
    carried_out: list[Command] = []
    while pending:
        command = pending.pop(order.randrange(len(pending)))  # type: ignore[attr-defined]
        carried_out.append(command)
        pending += coordinator.handle(answer(command))
    assert coordinator.state.phase is Phase.LIVE
    assert isinstance(carried_out[-1], StartHead)
    assert sum(isinstance(command, Open) for command in carried_out) == 2 * shards
    assert sum(isinstance(command, Assign) for command in carried_out) == shards
    assert len(carried_out) == 3 * shards + 1


def test_the_map_has_as_many_owners_as_the_most_copied_table() -> None:
    """Tables on all shards ask for no owners; more copies than shards are cut to the shards."""
    assert most_replicas([version(a=1, b=3), version("other", 1, c="all")]) == 3
    assert most_replicas([version(a="all")]) == 1
    coordinator = Coordinator()
    coordinator.handle(BringUp(addresses(2), (version(a=3),)))
    shard_map = coordinator.shard_map()
    assert shard_map.ring.ranks == 2
    assert shard_map.replicas == {("ranker", "a"): 3}


def test_a_failure_ends_the_bring_up() -> None:
    """After one shard failed, what the others answer changes nothing."""
    coordinator = Coordinator()
    opens = coordinator.handle(BringUp(addresses(2), (version(a=1),)))
    assert coordinator.handle(Failed(opens[0], CorruptData("rows: damaged"))) == []
    assert (coordinator.state.phase, coordinator.state.error) == (Phase.FAILED, "rows: damaged")
    assert coordinator.handle(answer(opens[1])) == []
    assert coordinator.state.phase is Phase.FAILED


def test_answers_to_an_older_epoch_are_ignored() -> None:
    coordinator = Coordinator()
    [old] = coordinator.handle(BringUp(addresses(1), ()))
    [new] = coordinator.handle(BringUp(addresses(1), ()))
    assert coordinator.handle(answer(old)) == []
    assert coordinator.handle(HeadServes(new.shard_map.epoch)) == []
    assert coordinator.state.phase is Phase.OPENING
    assert [type(command) for command in coordinator.handle(answer(new))] == [StartHead]


def test_epochs_are_not_used_again_after_a_restart() -> None:
    """A state that was saved and read back continues with the next epoch."""
    before = Coordinator()
    before.handle(BringUp(addresses(3), (version(a=2, b="all"),)))
    saved = json.loads(json.dumps(state_to_dict(before.state)))
    after = Coordinator(state_from_dict(saved))
    assert after.state == before.state
    after.handle(BringUp(addresses(3), (version(a=2, b="all"),)))
    assert after.shard_map().epoch == before.shard_map().epoch + 1


@pytest.mark.parametrize(
    "event",
    [
        BringUp((), (version(),)),
        BringUp((*addresses(1), *addresses(1)), (version(),)),
        BringUp(addresses(1), (version(), version())),
    ],
    ids=["no shard", "one shard twice", "one version twice"],
)
def test_a_senseless_bring_up_is_refused(event: BringUp) -> None:
    coordinator = Coordinator()
    with pytest.raises(InvalidInput):
        coordinator.handle(event)
    assert coordinator.state.phase is Phase.IDLE


def test_there_is_no_map_before_the_first_bring_up() -> None:
    with pytest.raises(InvalidInput, match="before the first bring-up"):
        Coordinator().shard_map()


@pytest.mark.parametrize("damage", [{"format": 99}, {"phase": "asleep"}, {"shards": [[0, "h"]]}, {"versions": [{}]}])
def test_a_damaged_state_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(CorruptData, match="coordinator state"):
        state_from_dict({**state_to_dict(Coordinator().state), **damage})

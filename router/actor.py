"""The coordinator's shell: saves its state, carries its commands out side by side, feeds answers back as events.

Plain: it talks to shards and the head through two small protocols, which `deploy` fills with Ray handles and tests with
fakes. Order of every step: event in, state saved, commands out. So what anybody was told is always on disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from ps.errors import CorruptData, RingpullError, StartupError
from router.coordinator import (
    Assign,
    Assigned,
    BringUp,
    Command,
    Coordinator,
    CoordinatorState,
    Event,
    Failed,
    HeadServes,
    Open,
    Opened,
    Phase,
    PlacedVersion,
    StartHead,
    state_from_dict,
    state_to_dict,
)
from router.shard_map import ShardAddress, ShardMap

STATE_FILE = "coordinator.json"


class ShardControl(Protocol):
    """The control verbs of one shard. Each blocks until done, and raises a `RingpullError` when it cannot be."""

    def open(self, version: PlacedVersion) -> None: ...

    def assign(self, shard_map: ShardMap) -> None: ...


class HeadControl(Protocol):
    """The control verbs of the head, as for `ShardControl`."""

    def start(self, shard_map: ShardMap, version_dirs: Sequence[str]) -> None: ...


class CoordinatorActor:
    """Runs one `Coordinator` over the shards and the head it was given.

    Args:
        state_dir: Folder of the saved state, made when absent. A state found there is continued: its epochs are not
            used again.
        shards: Control of every shard, by id.
        head: Control of the head.

    Raises:
        CorruptData: `state_dir` holds a state that cannot be read.
    """

    def __init__(self, state_dir: str, shards: Mapping[int, ShardControl], head: HeadControl) -> None:
        self._state_file = Path(state_dir) / STATE_FILE
        self._state_file.parent.mkdir(parents=True, exist_ok=True)
        self._shards = shards
        self._head = head
        self._coordinator = Coordinator(load_state(self._state_file))

    def __repr__(self) -> str:
        return f"<CoordinatorActor {self._coordinator!r} {self._state_file}>"

    def bring_up(self, addresses: Sequence[ShardAddress], versions: Sequence[PlacedVersion]) -> ShardMap:
        """Bring the versions live on the shards and the head, or raise; return the map they serve by.

        Raises:
            RingpullError: The first command that failed, with its reason. Commands under way are waited for; those
                not begun never are.
        """
        waiting: set[Future[Event]] = set()
        # One thread per shard: commands to different shards run side by side, and each only waits for an answer.
        with ThreadPoolExecutor(max_workers=len(self._shards) + 1, thread_name_prefix="command") as threads:
            events: list[Event] = [BringUp(tuple(addresses), tuple(versions))]
            while events or waiting:
                for event in events:
                    commands = self._coordinator.handle(event)
                    save_state(self._state_file, self._coordinator.state)
                    if isinstance(event, Failed):
                        threads.shutdown(wait=False, cancel_futures=True)
                        raise event.error
                    waiting |= {threads.submit(self._carry_out, command) for command in commands}
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                events = [future.result() for future in done]
        if self._coordinator.state.phase is not Phase.LIVE:
            raise StartupError(f"bring-up ended in phase {self._coordinator.state.phase.value}")
        return self._coordinator.shard_map()

    def state(self) -> dict[str, Any]:
        """Return the state in its saved form."""
        return state_to_dict(self._coordinator.state)

    def _carry_out(self, command: Command) -> Event:
        try:
            match command:
                case Open(shard, version):
                    self._shards[shard].open(version)
                    return Opened(shard, version.model, version.version)
                case Assign(shard, shard_map):
                    self._shards[shard].assign(shard_map)
                    return Assigned(shard, shard_map.epoch)
                case StartHead(shard_map, versions):
                    self._head.start(shard_map, [version.folder for version in versions])
                    return HeadServes(shard_map.epoch)
        except RingpullError as exc:
            return Failed(command, exc)


def save_state(path: Path, state: CoordinatorState) -> None:
    """Write the state so that a crash at any moment leaves the old or the new one, whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        json.dump(state_to_dict(state), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_state(path: Path) -> CoordinatorState | None:
    """Return the saved state, or None where there is none.

    Raises:
        CorruptData: The file is damaged.
    """
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as exc:
        raise CorruptData(f"{path} is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise CorruptData(f"{path} holds a {type(fields).__name__}; it must hold an object")
    try:
        return state_from_dict(fields)
    except CorruptData as exc:
        raise CorruptData(f"{path}: {exc}") from exc

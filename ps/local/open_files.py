"""Files of one version that are read here: the same ones that shards of this machine serve, mapped once more.

A map of a file that another process has mapped takes no memory more: both read the kernel's pages of it. What is told
of a file is believed only as far as it can be looked at: here, its header has the same stamp, so it is the same file of
the same file system, and the identity of the table that is meant.

A table whose whole file is here has one *layer*. Shards' own copies of some ranges are files of some slots each, which
are laid over each other until each slot that is in any of them has a layer.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ringpull.ps.errors import OtherContent, RingpullError
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, mask_of, minus
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.store.file_stamp import FileStamp
from ringpull.ps.store.table import Table
from ringpull.ps.wire.files_messages import TableFiles

_Place = tuple[str, bytes, FileStamp]
"""Table, folder and stamp of its header: what makes two told files one."""


@dataclass(frozen=True, slots=True)
class LayerTable:
    """Table as one layer has it."""

    table: Table
    mask: SlotMask | None
    """Slots that are this layer's to answer; None: all."""


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """Files of a version that are open here."""

    identity: int
    """Identity of the version."""
    layers: tuple[Mapping[str, LayerTable], ...]
    whole: Mapping[str, int]
    """Table -> layer that has all of its slots."""
    masks: Mapping[str, SlotMask]
    """Table -> layer of each slot, from 1 on, 0 where there is none; of tables that no layer has whole."""
    refused: tuple[str, ...] = ()
    """Files that were told and could not be opened, each with the reason."""

    def bases(self) -> list[Base]:
        """Return all open bases."""
        return [each.table.base for layer in self.layers for each in layer.values()]


def open_files(
    identity: int, told: Sequence[Sequence[TableFiles]], before: OpenFiles | None, max_layers: int
) -> OpenFiles:
    """Open the files that shards have told of a version; those that are open already are not read again.

    Args:
        identity: Identity of the version.
        told: Files of each shard that shares this machine.
        before: What is open of the version.
        max_layers: Layers at most; slots of further files are left out.
    """
    known = {} if before is None else {base.folder: base for base in before.bases()}
    files: dict[_Place, tuple[TableFiles, SlotMask]] = {}
    for of_shard in told:
        for each in of_shard:
            unanswered = mask_of(SlotRange(*slots) for slots in each.unanswered)
            place = (each.table, each.folder, each.header)
            # Each shard finds the damage of its own ranges only.
            files[place] = each, unanswered | files[place][1] if place in files else unanswered
    tables: dict[str, list[Table]] = {}
    refused = []
    for each, unanswered in files.values():
        try:
            table = _opened(each, unanswered, known)
        except Exception as exc:  # Whatever it is, shards have the table.
            why = str(exc) if isinstance(exc, RingpullError | OSError) else f"{type(exc).__name__}: {exc}"
            refused.append(f"table {each.table}: {why}")
            continue
        tables.setdefault(each.table, []).append(table)
    return _layered(identity, tables, max_layers, refused)


def _opened(told: TableFiles, unanswered: SlotMask, known: Mapping[Path, Base]) -> Table:
    """Return a table's view of a file that was told; see `_base`."""
    folder = Path(os.fsdecode(told.folder))
    same = known.get(folder)
    if same is not None and same.stamps[fmt.HEADER] != told.header:
        same = None
    try:
        base = _base(told, folder, same)
    except (RingpullError, OSError):
        if same is None:
            raise
        base = same  # Its folder is gone, or out of reach: what is mapped is as good as it was.
    return Table(base, quarantined=np.flatnonzero(unanswered & base.held_mask()).tolist())


def _base(told: TableFiles, folder: Path, same: Base | None) -> Base:
    """Open a file that was told, anew if one of its files was put in the place of another since it was mapped.

    Raises:
        OtherContent: What is found there is another file.
        CorruptData: It is damaged.
        Unavailable: It cannot be read now, or by this process.
        OSError: It is not there.
    """
    if (found := FileStamp.of((folder / fmt.HEADER).stat())) != told.header:
        raise OtherContent(f"{folder}: this is not the file that a shard serves: {found}, and not {told.header}")
    within = Path(os.fsdecode(told.within)) if told.within else None
    base = Base.open(folder, within=within, identity=told.identity, like=[] if same is None else [same])
    if base.spec.name != told.table or base.stamps[fmt.HEADER] != told.header:
        raise OtherContent(f"{folder}: this holds the table {base.spec.name}, where {told.table} should be")
    return base


def _layered(
    identity: int, tables: Mapping[str, Sequence[Table]], max_layers: int, refused: Collection[str]
) -> OpenFiles:
    layers: list[dict[str, LayerTable]] = []
    whole, masks = {}, {}
    for name, views in tables.items():
        answered = [_answered(view) for view in views]
        order = sorted(range(len(views)), key=lambda i: (-int(answered[i].sum(dtype=np.int64)), views[i].base.folder))
        left, of_slot = np.ones_like(answered[0]), np.zeros_like(answered[0])
        layer = 0
        for i in order:
            mask = answered[i] & left
            if not mask.any() or layer == max_layers:
                continue
            if layer == len(layers):
                layers.append({})
            layers[layer][name] = LayerTable(views[i], None if mask.all() else mask)
            layer += 1
            of_slot[mask > 0] = layer
            left = minus(left, mask)
        if layer == 1 and not left.any():
            whole[name] = 0
        elif layer:
            masks[name] = of_slot
    return OpenFiles(identity, tuple(layers), whole, _shared(masks), tuple(refused))


def _answered(table: Table) -> SlotMask:
    """Return the slots that a table answers for, new."""
    mask = table.base.held_mask()
    mask[list(table.quarantined)] = 0
    return mask


def _shared(masks: Mapping[str, SlotMask]) -> dict[str, SlotMask]:
    """Return the same masks, equal ones as one array: tables mostly have the same ranges."""
    one: dict[bytes, SlotMask] = {}
    return {name: one.setdefault(mask.tobytes(), mask) for name, mask in masks.items()}

"""Placing a version that follows others: its tables are made of the base of the full version at the begin of its chain,
and of what each delta since then brought.

Every version of the chain is named by number and identity in the manifest of the next one, so none can be missing, be
there twice, out of order or of another model. Those that are open here are taken from the deployment: their folders may
be gone by now. The others lie beside the version, in the model's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ringpull.inference.model.manifest import Manifest, TableEntry, TableKind
from ringpull.inference.model.manifest_chain import MAX_CHAIN, Chain, check_length
from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, OtherContent, RingpullError
from ringpull.ps.identity import differ, number_of
from ringpull.ps.store.format import HEADER, MAX_HEADER_BYTES, Header
from ringpull.ps.store.links import check_links
from ringpull.ps.transfer.remote import RemoteFolder
from ringpull.router.control.chains import chain_length
from ringpull.router.control.deployment_spec import ChainLink, PlacedPart, PlacedTable, PlacedVersion

MAX_ANCESTORS: Final = 256
"""Most versions before a compaction that are remembered: each is saved with every version that follows, for ever."""


def header_of(folder: Path) -> Header:
    """Return the header of a table of a version: nothing is placed without knowing what it is.

    Raises:
        CorruptData: It is missing or damaged.
        Unavailable: It cannot be read now.
    """
    files = RemoteFolder(str(folder))
    try:
        return Header.from_bytes(files.read(HEADER, max_bytes=MAX_HEADER_BYTES), files.where(HEADER))
    except NotFound as exc:
        raise CorruptData(f"{exc}; the manifest names its table") from exc


def as_known(manifest: Manifest, known: Iterable[PlacedVersion]) -> PlacedVersion | None:
    """Return a version that follows another one as it is open, if it is: what it is made of may be gone."""
    if manifest.chain.follows is None:
        return None
    return _known(known, manifest.model, manifest.version, manifest.identity)


def _known(known: Iterable[PlacedVersion], model: str, version: int, identity: str) -> PlacedVersion | None:
    """Return the version that has this content, of those that are open."""
    wanted = model, version, number_of(identity)
    return next((each for each in known if (each.model, each.version, number_of(each.identity)) == wanted), None)


def predecessor(
    manifest: Manifest, where: str, known: Iterable[PlacedVersion], find: Callable[[int], PlacedVersion]
) -> PlacedVersion | None:
    """Return the version that one follows and needs rows of; None: it has all of its own.

    Args:
        where: Folder or URL of the one that follows, for messages.
        known: Versions that are open.
        find: Places the version of a number in the model's folder; raises `NotFound` where there is none.

    Raises:
        InvalidInput: It is not there.
        OtherContent: It is another one than is meant.
        CorruptData: It is of another lineage.
    """
    follows = manifest.chain.follows
    if follows is None or all(entry.kind is TableKind.FULL for entry in manifest.tables):
        return None
    name, before = f"{manifest.model}/{manifest.version}", f"{manifest.model}/{follows.version}"
    wanted = number_of(follows.identity)
    found = _known(known, manifest.model, follows.version, follows.identity)
    try:
        found = found or find(follows.version)
    except NotFound as exc:
        raise InvalidInput(
            f"{name} in {where} is a delta of {before} ({follows.identity}), which is not there: {exc}. Put it beside"
            f" {name}, or publish a full version"
        ) from exc
    if differ(number_of(found.identity), wanted):
        raise OtherContent(
            f"{name} in {where} is a delta of {before} with the identity {follows.identity}, and {before} in"
            f" {found.folder} has {found.identity}: it is another one. Export {name} again, following that"
        )
    if found.model != manifest.model:
        raise InvalidInput(f"{name} in {where} is a delta of {before}; {found.folder} holds a version of {found.model}")
    if found.lineage != manifest.chain.lineage:
        raise CorruptData(
            f"{where}: lineage is {manifest.chain.lineage}; that of {before}, which it follows, is {found.lineage}"
        )
    return found


def chained_table(
    manifest: Manifest, entry: TableEntry, version_dir: Path, folder: str, before: PlacedVersion
) -> PlacedTable:
    """Return a table that is a delta, or as it was in the version before.

    Args:
        version_dir: The version's folder, or the local copy of its URL.
        folder: The version's folder or URL.

    Raises:
        CorruptData: The version before has no such table, or one of other rows; or a file is damaged.
        Unavailable: A header cannot be read now.
    """
    name = entry.spec.name
    there = before.tables.get(name)
    if there is None:
        raise CorruptData(
            f"{folder}: table {name} is a {entry.kind.value} one, and {before.name} has none of that name"
        )
    table = replace(
        there,
        replicas=entry.spec.replicas,
        on_unavailable=entry.spec.on_unavailable,
        origin=there.origin or before.version,
        within=there.within or before.folder,
    )
    if not entry.spec.is_bytes and entry.spec.row_bytes != there.row_bytes:
        raise CorruptData(
            f"{folder}: rows of table {name} have {entry.spec.row_bytes} bytes; those of {before.name}, which it"
            f" follows, have {there.row_bytes}"
        )
    if entry.kind is TableKind.SAME:
        return table
    parts = []
    for path, gone in ((entry.path, False), (entry.gone, True)):
        if path is None:
            continue
        check_links(version_dir / path, version_dir)
        header = header_of(version_dir / path)
        if not (header.spec.is_bytes and header.spec.name == name if gone else header.spec == entry.spec):
            raise CorruptData(f"{folder}/{path}: it is no part of table {name} of {manifest.model}/{manifest.version}")
        row_bytes = 0 if gone else entry.row_bytes
        parts.append(
            PlacedPart(manifest.version, f"{folder}/{path}", folder, header.rows, row_bytes, header.identity, gone)
        )
    return replace(table, parts=(*there.parts, *parts))


def chain_of(manifest: Manifest, before: PlacedVersion | None) -> tuple[ChainLink, ...]:
    """Return the versions that a version follows, the first one first.

    Raises:
        InvalidInput: They are too many to be placed again by their folders, however many of them are open now.
    """
    follows = manifest.chain.follows
    if follows is None:
        return ()
    if before is None:
        return (ChainLink(follows.version, follows.identity),)
    check_length(chain_length(before) + 1, f"{manifest.model}/{manifest.version} would be one more")
    return (*before.chain, ChainLink(follows.version, follows.identity))


def ancestors_of(
    manifest: Manifest,
    before: PlacedVersion | None,
    known: Iterable[PlacedVersion],
    read: Callable[[int], tuple[Chain, str]],
) -> tuple[ChainLink, ...]:
    """Return the versions that are in a version and before the first of its chain, as far as that can be told.

    A compacted version names only the one that it was made of; what that followed is told by what is open, or else by
    manifests that are still there. Not knowing them refuses a version later, at worst, so nothing is refused here.

    Args:
        before: What `predecessor` returned.
        known: Versions that are open.
        read: Reads a version's chain and identity in the model's folder.
    """
    if before is not None:
        return before.ancestors
    follows, found = manifest.chain.follows, list[ChainLink]()
    while follows is not None and len(found) < MAX_CHAIN:
        opened = _known(known, manifest.model, follows.version, follows.identity)
        if opened is not None:
            found += [*opened.ancestors, *opened.chain][::-1]
            break
        try:
            chain, identity = read(follows.version)
        except RingpullError:
            break
        if differ(number_of(identity), number_of(follows.identity)) or chain.follows is None:
            break
        follows = chain.follows
        found.append(ChainLink(follows.version, follows.identity))
    return tuple(found[:MAX_ANCESTORS][::-1])


def includes_of(manifest: Manifest, before: PlacedVersion | None) -> dict[int, Mapping[int, int]]:
    """Return the stamps that the deltas of a chain include, by their versions; of one that says none there is none."""
    found = {} if before is None else dict(before.includes)
    if manifest.chain.includes is not None:
        found[manifest.version] = manifest.chain.includes
    return found

"""Model folders: finds the versions to serve in the folders and URLs given on the command line.

A model's folder is `NAME/`, with `NAME/VERSION/` in it, VERSION an integer. The highest complete version is served; a
folder without a manifest is not complete, and is ignored. URLs are those that fsspec knows; `file://` means a path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.deploy.placed_chains import (
    ancestors_of,
    as_known,
    chain_of,
    chained_table,
    header_of,
    includes_of,
    predecessor,
)
from ringpull.inference.model.manifest import (
    FILE_NAME,
    MAX_BYTES,
    Manifest,
    TableKind,
    identity_of,
    parse_manifest,
    versions,
)
from ringpull.inference.model.manifest_chain import Chain, check_length
from ringpull.inference.model.mirror import local_files, local_tables
from ringpull.inference.model.model_dir import complete_versions, newest_complete, numbered, parent_of, version_at
from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, OtherContent, Unavailable
from ringpull.ps.identity import differ, number_of, text_of
from ringpull.ps.spec import ALL, Replicas
from ringpull.ps.store import slot_rows
from ringpull.ps.store.format import HEADER, MAX_HEADER_BYTES, Header
from ringpull.ps.store.links import check_links
from ringpull.ps.transfer.remote import RemoteFolder, as_path, is_url
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedPart, PlacedTable, PlacedVersion
from ringpull.router.control.full_names import check_full_names
from ringpull.router.control.moves import evenly
from ringpull.router.control.operations import ModelSource, Publish

ALL_OF: Final = "--all-of"

FLIPS: Final = 5
"""Times a version is looked at anew, when a link on the way to it was flipped meanwhile."""


def choose_versions(
    folders: Iterable[str | Path],
    replicas: Sequence[str] = (),
    live: Sequence[str] = (),
    choose: Callable[[str | Path], PlacedVersion] | None = None,
) -> tuple[PlacedVersion, ...]:
    """Return the version to serve below each model folder.

    Args:
        folders: Model folders or their URLs, in the order given by the user.
        replicas: `TABLE=R` or `MODEL/TABLE=R`, R a number or `all`: overrides the number that was exported.
        live: `TABLE` or `MODEL/TABLE` each, which takes pushes as well as those that were exported so.
        choose: Returns the version for a folder; None: `newest_version`.

    Raises:
        InvalidInput: A folder is not a model's, two models or two tables have one name, or `replicas` or `live` names
            no table here.
        CorruptData: A manifest is damaged.
        Unavailable: A URL cannot be read now.
    """
    chosen = tuple(map(choose or newest_version, folders))
    names = [version.model for version in chosen]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"two of the folders hold a model named {name}; model names must differ")
    check_full_names(chosen)
    return with_live_tables(with_replicas(chosen, [parse_replicas(text) for text in replicas]), live)


def models_below(roots: Iterable[str]) -> list[str]:
    """Return the folders directly below these folders, or their URLs, that have a complete version in them.

    Raises:
        InvalidInput: One has none, or is no folder.
        Unavailable: One cannot be read now.
    """
    found: list[str] = []
    for root in roots:
        names = [name for name in RemoteFolder(root).names() if not name.startswith(".")]
        own = [folder for folder in (f"{root}/{name}" for name in names) if newest_complete(folder)[0]]
        if not own:
            raise InvalidInput(f"{ALL_OF} {root}: there is no model in it, NAME/VERSION/ with {FILE_NAME}")
        found += own
    return found


def newest_version(model_dir: str | Path, known: Sequence[PlacedVersion] = ()) -> PlacedVersion:
    """Return the highest complete version of one model, given its folder or URL.

    Args:
        known: Versions that are open, which others may follow.

    Raises:
        InvalidInput: `model_dir` does not exist or holds no complete version; the message says what was found.
        CorruptData: Its manifest is damaged.
        Unavailable: The URL cannot be read now.
    """
    where = absolute(model_dir)
    if is_url(where):
        return _newest_at(where, known)
    folder = Path(where)
    with _translated(folder):
        if not folder.is_dir():
            raise InvalidInput(f"{folder} is not a folder; give a model's folder NAME/, with NAME/VERSION/ in it")
        if (folder / FILE_NAME).is_file():
            raise InvalidInput(f"{folder} is one version of a model; give the model's folder, {folder.parent}")
        complete = versions(folder)
    if not complete:
        raise InvalidInput(_none_complete(where, numbered(RemoteFolder(where))))
    return _place_at(version_at(where, complete[-1]), known)


def version_below(model_dir: str, number: int) -> PlacedVersion:
    """Return one complete version of a model, given its folder or URL.

    Raises:
        NotFound: It is not there, or not complete.
        InvalidInput: The folder has that number twice, or it follows a version that is not there.
        CorruptData: Its manifest is damaged.
        OtherContent: It follows a version that is another one by now.
        Unavailable: It cannot be read now.
    """
    return _place_at(version_at(model_dir, number))


def absolute(folder: str | Path) -> str:
    """Return a folder in a form that other processes understand: a URL as it is, a path made absolute.

    Links in it stay what they are: new versions are looked for where they lead to then, as they may be flipped to a new
    release. What is opened is where they led to when it was found. `~` is a home, as in other folders of options.

    Raises:
        InvalidInput: It is empty, which would be the working folder, or of a home that nobody has.
    """
    where = as_path(str(folder))
    if is_url(where):
        return where
    if not where.strip():
        raise InvalidInput("a model's folder is empty text; write its path, or `.` for the working folder")
    try:
        return str(Path(where).expanduser().absolute())
    except RuntimeError as exc:
        raise InvalidInput(f"{where}: {exc}; write the whole path") from exc


def as_roots(option: str, given: Iterable[str]) -> tuple[str, ...] | None:
    """Return the roots of models that an option names, made absolute; None: it names none.

    Raises:
        InvalidInput: One is empty, or of a home that nobody has; the message names the option.
    """
    try:
        return tuple(map(absolute, given)) or None
    except InvalidInput as exc:
        raise InvalidInput(f"{option}: {exc}") from exc


def find_version(request: Publish, spec: DeploymentSpec) -> PlacedVersion:
    """Return the version that is to be published: `ringpull.router.control.changes.Place`.

    Raises:
        NotFound: Its model is not served here.
        InvalidInput: Its folder does not exist, holds no complete version of that number, or is of another model.
        CorruptData: Its manifest is damaged.
        Unavailable: Its URL cannot be read now.
    """
    model = request.model
    if model not in spec.live:
        raise NotFound(f"model {model!r} is not served here; these are: {', '.join(sorted(spec.live))}")
    live = spec.version(model, spec.live[model])
    assert live is not None
    where = as_path(request.folder) if request.folder else live.found_in or parent_of(live.folder)
    if not request.version:
        found = newest_version(where, spec.versions)
    else:
        try:
            found = _place_at(version_at(where, request.version), spec.versions)
        except NotFound as exc:
            raise InvalidInput(str(exc)) from exc
    if found.model != model:
        raise InvalidInput(f"{found.folder} holds a version of model {found.model}, not of {model}")
    return found


def find_versions(source: ModelSource, known: Sequence[PlacedVersion] = ()) -> tuple[PlacedVersion, ...]:
    """Return the versions that a source asks for, ascending: `ringpull.router.control.model_changes.FindVersions`.

    Args:
        known: Versions that are open, which others may follow.

    Raises:
        InvalidInput: Its folder does not exist, lacks a version that it asks for, or holds another model.
        CorruptData: A manifest is damaged.
        Unavailable: Its folder or URL cannot be read now.
    """
    where = as_path(source.folder)
    numbers, newest = source.versions, None
    if not numbers:
        newest = newest_version(where, known)
        numbers = tuple(islice(complete_versions(where), source.latest or None))
    found = []
    for number in numbers:
        if newest is not None and number == newest.version:
            found.append(newest)
            continue
        try:
            found.append(_place_at(version_at(where, number), known))
        except NotFound as exc:
            newest_version(where, known)  # for what it says of a folder that is none
            raise InvalidInput(str(exc)) from exc
    model = source.name or found[0].model
    for each in found:
        if each.model != model:
            raise InvalidInput(f"{each.folder} holds a version of model {each.model}, not of {model}")
    return tuple(sorted(found, key=lambda each: each.version))


def loss_of(version: PlacedVersion) -> str:
    """Return why a version cannot be opened again, however often that is tried; empty where it can be.

    It cannot when its folder, or one of its tables', has been removed from the model's folder, or has other content.
    That the model's folder is there is told by a complete version in it: what is at a mount point while nothing is
    mounted there has none.

    Raises:
        Unavailable: It cannot be told now: the model's folder itself is not there, or cannot be read, or the manifest
            is half written.
    """
    where = version.folder
    try:
        manifest = RemoteFolder(where).read(FILE_NAME, max_bytes=MAX_BYTES)
        _check_finished(manifest, where)
        found = identity_of(manifest)
        if differ(number_of(version.identity), number_of(found)):
            return str(OtherContent.found(f"{version.name} in {where}", found, version.identity))
        for name, part in _parts(version):
            there = part.identity if is_url(where) else _table_identity(part.folder)
            if differ(there, part.identity):
                what = f"table {name} of {version.name} in {part.folder}"
                return str(OtherContent.found(what, text_of(there), text_of(part.identity)))
    except NotFound as exc:
        _check_mounted(where, exc)
        return f"its files have been removed: {exc}"
    except InvalidInput as exc:
        raise Unavailable(str(exc)) from exc
    except CorruptData as exc:
        return str(exc)
    return ""


def _parts(version: PlacedVersion) -> Iterator[tuple[str, PlacedTable | PlacedPart]]:
    """Yield all that lies somewhere of a version's tables, by table."""
    for name, table in version.tables.items():
        yield name, table
        for part in table.parts:
            yield name, part


def _check_finished(manifest: bytes, where: str) -> None:
    """Raise if a manifest is no whole one: whoever writes it goes on, or will have to write it anew."""
    try:
        parse_manifest(manifest, Path(where) / FILE_NAME)
    except CorruptData as exc:
        raise Unavailable(f"{exc} (half written?)") from exc


def _check_mounted(version: str, missing: NotFound) -> None:
    """Raise if a version may be missing because its storage is away."""
    if not is_url(version) and os.path.islink(version) and not os.path.exists(version):
        raise Unavailable(f"{version}: leads to what is not there now") from missing
    folder = parent_of(version)
    if not RemoteFolder(version).exists(FILE_NAME) and next(complete_versions(folder), None) is None:
        raise Unavailable(f"{folder}: it is not there now, or has no complete version (not mounted?)") from missing


def _table_identity(folder: str | Path) -> int:
    """Return the identity of a table by its header.

    Raises:
        NotFound: It has none.
        CorruptData: It is damaged.
        Unavailable: It cannot be read now.
    """
    files = RemoteFolder(str(folder))
    return Header.from_bytes(files.read(HEADER, max_bytes=MAX_HEADER_BYTES), files.where(HEADER)).identity


def rows_below(table: PlacedTable | PlacedPart, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of a table's rows below each slot: by its files, or, if they cannot be read or are other ones,
    assuming an even spread."""
    try:
        return slot_rows.rows_below(Path(table.folder), table.identity, slots)
    except (CorruptData, Unavailable, OtherContent):
        return evenly(table, slots)


def place(
    manifest: Manifest,
    version_dir: Path,
    *,
    url: str = "",
    found_in: str = "",
    known: Sequence[PlacedVersion] = (),
    after: int = 0,
) -> PlacedVersion:
    """Return a version with its identities, the folders of its tables, and the copies it was exported with.

    Args:
        version_dir: The version's folder, or the local copy of its URL made by `local_files`.
        url: That URL, if there is one.
        found_in: See `PlacedVersion`.
        known: Versions that are open, which it may follow.
        after: Number of versions that follow it, of the one that is asked for.

    Raises:
        CorruptData: The header of a table is damaged or missing, or a file is a link that leads out of the version.
        InvalidInput, OtherContent: It follows a version that is not there, or is another one.
        Unavailable: The header of a table cannot be read now.
    """
    folder = url or str(version_dir)
    beside = found_in or parent_of(folder)
    check_length(after, f"more follow {manifest.model}/{manifest.version}")
    if (opened := as_known(manifest, known)) is not None:
        return replace(opened, found_in=found_in)
    before = predecessor(
        manifest, folder, known, lambda number: _place_at(version_at(beside, number), known, after + 1)
    )
    tables = {}
    for entry in manifest.tables:
        name = entry.spec.name
        if before is not None and entry.kind is not TableKind.FULL:
            tables[name] = chained_table(manifest, entry, version_dir, folder, before)
            continue
        files = manifest.table_folder(version_dir, name)
        check_links(files, version_dir)
        tables[name] = PlacedTable(
            folder=f"{folder}/{entry.path}",
            replicas=entry.spec.replicas,
            rows=entry.rows,
            row_bytes=entry.row_bytes,
            on_unavailable=entry.spec.on_unavailable,
            identity=header_of(files).identity,
        )
    return PlacedVersion(
        model=manifest.model,
        version=manifest.version,
        folder=folder,
        tables=tables,
        identity=manifest.identity,
        found_in=found_in,
        tables_alone=manifest.tables_alone,
        chain=chain_of(manifest, before),
        ancestors=ancestors_of(manifest, before, known, lambda number: _chain_at(version_at(beside, number))),
        lineage_of=manifest.chain.lineage or "",
        live_tables=tuple(sorted(entry.spec.name for entry in manifest.tables if entry.live)),
        includes=includes_of(manifest, before),
    )


def _chain_at(version: str) -> tuple[Chain, str]:
    """Return the chain and the identity of a version that another one follows, by its manifest alone."""
    with _translated(version):
        content = RemoteFolder(version).read(FILE_NAME, max_bytes=MAX_BYTES)
    return parse_manifest(content, Path(version) / FILE_NAME).chain, identity_of(content)


def _newest_at(url: str, known: Sequence[PlacedVersion]) -> PlacedVersion:
    files = RemoteFolder(url)
    if files.exists(FILE_NAME):
        raise InvalidInput(f"{url} is one version of a model; give the model's folder, {parent_of(url)}")
    newest = next(complete_versions(url), None)
    if newest is None:
        raise InvalidInput(_none_complete(url, numbered(files)))
    return _place_at(version_at(url, newest), known)


def _place_at(version: str, known: Sequence[PlacedVersion] = (), after: int = 0) -> PlacedVersion:
    """Place a version, given its folder or URL, and whatever it follows but what is `known`.

    Of what it follows only tables are looked at: nothing else of these is served.

    Args:
        after: Number of versions that follow it, of the one that is asked for.
    """
    if is_url(version):
        with local_tables(version) if after else local_files(version) as files:
            manifest = Manifest.load(files, tables_only=after > 0)
            return place(manifest, files, url=version, known=known, after=after)
    named = Path(version)
    with _translated(version):
        for _ in range(FLIPS):
            folder = named.resolve()
            manifest = Manifest.load(named, tables_only=after > 0)
            if named.resolve() == folder:
                named_in = "" if folder == named else str(named.parent)
                return place(manifest, folder, found_in=named_in, known=known, after=after)
    raise Unavailable(f"{version}: links on the way to it are flipped again and again; try again")


@contextmanager
def _translated(folder: str | Path) -> Iterator[None]:
    """Raise `Unavailable` for what the system says of a folder that it does not read."""
    try:
        yield
    except (OSError, RuntimeError) as exc:
        raise Unavailable(f"{folder}: cannot be read now: {exc}") from exc


def _none_complete(where: str, found: Sequence[str]) -> str:
    unfinished = f"; {', '.join(found)} without {FILE_NAME} (half written?)" if found else ""
    name = where.rpartition("/")[2]
    return f"{where} holds no complete version, {name}/VERSION/ with an integer VERSION{unfinished}"


def parse_replicas(text: str) -> tuple[str, Replicas]:
    """Parse `TABLE=R`.

    Raises:
        InvalidInput: It has another form.
    """
    table, equals, wanted = text.rpartition("=")
    if not table or not equals:
        raise InvalidInput(f"--replicas {text!r}: write TABLE=R, R a number or 'all'")
    if wanted == ALL:
        return table, ALL
    if not wanted.isascii() or not wanted.isdecimal() or int(wanted) < 1:
        raise InvalidInput(f"--replicas {text!r}: R is {wanted!r}; it must be 1 or more, or 'all'")
    return table, int(wanted)


def with_replicas(placed: Sequence[PlacedVersion], wanted: Iterable[tuple[str, Replicas]]) -> tuple[PlacedVersion, ...]:
    """Return the versions with other numbers of copies.

    Raises:
        InvalidInput: A name in `wanted` is no table of any model, or of more than one.
    """
    tables: list[dict[str, PlacedTable]] = [dict(version.tables) for version in placed]
    for name, count in wanted:
        i, table = _one_table(placed, name, f"--replicas {name}={count}", "MODEL/TABLE=R")
        tables[i][table] = replace(tables[i][table], replicas=count)
    return tuple(replace(version, tables=changed) for version, changed in zip(placed, tables, strict=True))


def with_live_tables(placed: Sequence[PlacedVersion], live: Iterable[str]) -> tuple[PlacedVersion, ...]:
    """Return the versions with more tables that take pushes.

    Args:
        live: `TABLE` or `MODEL/TABLE` each.

    Raises:
        InvalidInput: One is no table of any model, or of more than one.
    """
    tables = [set(version.live_tables) for version in placed]
    for name in live:
        i, table = _one_table(placed, name, f"--live {name}", "MODEL/TABLE")
        tables[i].add(table)
    return tuple(
        replace(version, live_tables=tuple(sorted(names))) for version, names in zip(placed, tables, strict=True)
    )


def _one_table(placed: Sequence[PlacedVersion], name: str, option: str, form: str) -> tuple[int, str]:
    """Return which version has the table that an option names, and its own name.

    Raises:
        InvalidInput: None has, or several have.
    """
    tables = [(i, table) for i, version in enumerate(placed) for table in sorted(version.tables)]
    places = [(i, table) for i, table in tables if name in (table, f"{placed[i].model}/{table}")]
    if not places:
        known = ", ".join(f"{placed[i].model}/{table}" for i, table in tables) or "none at all"
        raise InvalidInput(f"{option}: there is no table {name}; there is {known}")
    if len(places) > 1:
        models = " and ".join(f"{placed[i].model}/{table}" for i, table in places)
        raise InvalidInput(f"{option}: {name} could be {models}; write {form}")
    return places[0]

"""Chains of a model's versions: whether one can go live after another, and when a chain is long enough to be compacted.

A version that begins a lineage can always go live. One that follows others can where the live version is among those it
follows, or follows it: else rows that the live version brought would silently be gone.

A compacted version stands by itself and names only the version that it was made of, which was live then. What that
followed is known where it was open, or lay on disk, when the compacted one was placed (`PlacedVersion.ancestors`). To
go back nobody has to know: a version of the lineage that is older than all of the live one's chain is taken for one of
those that are in it. To go forward it has to be known, as the live one may be a branch from before a compaction.
"""

from __future__ import annotations

from typing import Final

from ringpull.ps.errors import InvalidInput, OtherContent
from ringpull.ps.identity import differ, number_of
from ringpull.router.control.deployment_spec import ChainLink, DeploymentSpec, PlacedVersion

LONG_CHAIN: Final = 8
"""Deltas of a chain from which on it should be compacted."""

LARGE_SHARE: Final = 0.3
"""Rows that deltas brought to a table, as a share of its base's, above which it should be compacted."""


def check_chain(spec: DeploymentSpec, version: PlacedVersion) -> None:
    """Check that a version and those that it follows agree with what is open of its model, and can follow it.

    Raises:
        OtherContent: A number of its chain is open, or in the chain of what is open, with another content.
        InvalidInput: It would leave out what the live version brought.
    """
    links = _links(version)
    for opened in spec.versions:
        if opened.model != version.model or opened.version == version.version:
            continue
        there = _links(opened)
        if not (version.chain or opened.chain):
            continue
        for number in links.keys() & there.keys():
            if differ(number_of(links[number]), number_of(there[number])):
                raise OtherContent(
                    f"{version.name} is made of {version.model}/{number} with the identity {links[number]}, and"
                    f" {opened.name}, which is open, of one with {there[number]}: these are two versions of one number."
                    f" Export {version.name} again, following what is served, or give it another number"
                )
    live = spec.version(version.model, spec.live.get(version.model, 0))
    if live is None or not version.chain or not version.lineage or not live.lineage:
        return
    last = version.chain[-1]
    if version.lineage != live.lineage:
        if version.version < live.version:
            return  # back to what was
        raise InvalidInput(
            f"{version.name} follows {version.model}/{last.version}, of the lineage {version.lineage}; {live.name},"
            f" which is live, is of {live.lineage}. Export {version.name} with follows={live.version}; or publish"
            f" {version.model}/{last.version} first"
        )
    live_links, older = _links(live), {link.version: link.identity for link in version.ancestors}
    if live.version in links or version.version in live_links or version.version < min(live_links):
        return
    if live.version in older and not differ(number_of(older[live.version]), number_of(live.identity)):
        return
    again = version.name if version.version > live.version else f"it again, under a number above {live.version},"
    common = max((links | older).keys() & live_links.keys(), default=0)
    first = f"make {version.model}/{common or last.version} live first"
    known = "" if common else "known to be "
    if not common:
        oldest = min(links | older)
        first = f"put what {version.model}/{oldest} follows beside it, which would tell; or {first}"
    raise InvalidInput(
        f"{version.name} follows {version.model}/{last.version}, and {live.name}, which is live, is not among what it"
        f" is {known}made of: what that brought would be gone. Export {again} with follows={live.version}; or"
        f" {first}"
    )


def due(spec: DeploymentSpec) -> tuple[str, ...]:
    """Return a sentence for each live version that should be compacted, for people."""
    found = []
    for model, number in sorted(spec.live.items()):
        version = spec.version(model, number)
        if version is not None and (why := compaction_due(version)):
            found.append(f"{version.name}: {why}; `ringpull compact {model}`, or publish a full version")
    return tuple(found)


def compaction_due(version: PlacedVersion) -> str:
    """Return why a version should be compacted; empty where it need not be."""
    if (deltas := chain_length(version)) > LONG_CHAIN:
        return f"its chain has {deltas} deltas"
    for name, table in version.tables.items():
        if table.newer_rows > LARGE_SHARE * max(1, table.rows):
            return f"deltas brought {table.newer_rows:,} rows of table {name}, whose base has {table.rows:,}"
    return ""


def chain_length(version: PlacedVersion) -> int:
    """Return how many deltas a version is made of, those that brought no rows too; 0: all is in its own folder.

    All are read to bring it up, so a chain of new programs grows as long as one of rows.
    """
    full = min((table.origin for table in version.tables.values() if table.origin), default=0)
    return sum(link.version >= full for link in version.chain) if full else 0


def _links(version: PlacedVersion) -> dict[int, str]:
    return {link.version: link.identity for link in (*version.chain, ChainLink(version.version, version.identity))}

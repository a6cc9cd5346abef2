"""Links among a table's files. One that leads out of the version would make it two things under one name: what lies
elsewhere is exchanged, or removed, and the version changes without anybody touching it."""

from __future__ import annotations

from pathlib import Path

from ringpull.ps.errors import CorruptData
from ringpull.ps.store import format as fmt
from ringpull.ps.store.file_errors import unreadable


def check_links(folder: Path, within: Path | None = None) -> None:
    """Check that the files of a table, links followed, lie inside a folder, which itself may be reached through links.

    Args:
        within: That folder; None: the table's own.

    Raises:
        CorruptData: A file is a link that leads out; the message says where to.
        Unavailable: It cannot be told now.
    """
    root = resolved(folder if within is None else within)
    for name in (fmt.HEADER, *fmt.SECTIONS):
        file = folder / name
        target = resolved(file)
        if root not in target.parents:
            raise CorruptData(
                f"{file}: leads out of {root}, to {target}; a version holds its own files: copy it, with links followed"
            )


def resolved(path: Path) -> Path:
    """Return a path with all links followed.

    Raises:
        CorruptData: A link leads to itself.
        Unavailable: It cannot be told now.
    """
    try:
        return path.resolve()
    except RuntimeError as exc:  # a link to itself
        raise CorruptData(f"{path}: cannot be followed: {exc}") from exc
    except OSError as exc:
        raise unreadable(path, exc) from exc

"""The deployment under test among folders that can go away, on a small disk that can be filled."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ringpull.loadtest.chaos.checked_model import MODEL, export_version
from ringpull.loadtest.chaos.kinds.scene import Folders, swapped
from ringpull.loadtest.chaos.serving import RunCommand, ringpull, served_below
from ringpull.loadtest.deployment import Deployment

DISK_BYTES: Final = 8 << 20
"""Size of the small disk: many times that of the coordinator's state, and filled in a moment."""
NAMESPACES: Final = (("--mount",), ("--mount", "--map-root-user"))
"""Options of `unshare` that give a program mounts of its own: where this user may mount, and where it may not."""


@contextmanager
def served_among(
    versions: Mapping[str, int], rows: Mapping[str, int], shards: int, options: Sequence[str], *, opened: bool = False
) -> Iterator[tuple[Deployment, RunCommand, Folders]]:
    """Serve as `served_models` does, with a small disk for the coordinator's state, and with other content beside.

    Arguments are those of `served_below`.
    """
    with tempfile.TemporaryDirectory(prefix="ringpull-chaos-") as made:
        folder = Path(made)
        disk, others = folder / "disk", folder / "others" / MODEL
        disk.mkdir()
        for version in range(1, versions[MODEL] + 1):
            export_version(others, version, rows, content=swapped(version, version))
        prefix, reason = small_disk(disk)
        options = (*options, "--state-dir", str(disk / "state"), "--log-dir", str(folder / "logs"))
        with served_below(folder, versions, rows, shards, options, prefix=prefix, opened=opened) as ours:
            # What is mounted for that process alone is seen through its root folder.
            reached = disk if reason else Path(f"/proc/{ours.process.pid}/root{disk}")
            folders = Folders(
                folder / MODEL,
                others,
                reached / "state",
                folder / "logs",
                None if opened else folder / "data",
                ours.records,
                reason,
            )
            yield ours, ringpull(ours.target, folder), folders


def small_disk(folder: Path) -> tuple[tuple[str, ...], str]:
    """Return the words before a command that mount a small disk at a folder, for that command alone.

    Returns:
        The words, none where that may not be, and the reason why it may not.
    """
    script = f'mount -t tmpfs -o size={DISK_BYTES} ringpull-chaos "$0" && exec "$@"'
    reason = ""
    for options in NAMESPACES:
        words = ("unshare", *options, "sh", "-c", script, str(folder))
        try:
            tried = subprocess.run(
                [*words, "true"], capture_output=True, encoding="utf-8", errors="replace", check=False
            )
        except OSError as exc:
            return (), f"there is no program `unshare`: {exc.strerror}"
        if tried.returncode == 0:
            return words, ""
        reason = " ".join(tried.stderr.split())
    return (), f"no mount namespace of its own may be made: {reason}"

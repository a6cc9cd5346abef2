"""A small disk in a namespace of its own, filled; and what a run says where it may not make one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ringpull.loadtest.chaos.kinds.registry import impossible
from ringpull.loadtest.chaos.kinds.scene import Folders
from ringpull.loadtest.chaos.kinds.surroundings import small_disk
from ringpull.loadtest.chaos.run import Options, reasons
from ringpull.loadtest.chaos.schedule import LONG, Kind


@pytest.mark.medium
def test_a_small_disk_is_full_after_it_was_filled(tmp_path: Path) -> None:
    """In a namespace of its own: nothing else sees it."""
    words, reason = small_disk(tmp_path)
    if reason:
        assert impossible(Folders(*[tmp_path] * 6, reason)) == {Kind.FILL_DISK: reason}
        pytest.skip(reason)
    code = """
import errno, sys
from pathlib import Path
from ringpull.loadtest.chaos.kinds.undoing import filled
folder = Path(sys.argv[1])
with filled(folder):
    try:
        (folder / "one").write_text("1")
    except OSError as exc:
        print(errno.errorcode[exc.errno])
(folder / "one").write_text("1")
print(*[path.name for path in folder.iterdir()])
"""
    ran = subprocess.run(
        [*words, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["ENOSPC", "one"]
    assert list(tmp_path.iterdir()) == []


def test_who_may_not_mount_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 1, "", "unshare: unshare failed: Operation not permitted\n")

    monkeypatch.setattr(subprocess, "run", refuses)
    reason = "no mount namespace of its own may be made: unshare: unshare failed: Operation not permitted"
    assert small_disk(tmp_path) == ((), reason)
    options = Options(180.0, 1, 60.0, 2, 10.0, 0.0, without=[Kind.KILL_HEAD], only=[])
    cannot = impossible(Folders(*[tmp_path] * 6, reason))
    found = reasons(options, cannot)
    assert found[Kind.FILL_DISK] == reason
    assert Kind.KILL_HEAD not in found
    assert found[Kind.KILL_ALL] == "the run was over before its turn"
    short = reasons(Options(60.0, 1, 60.0, 2, 10.0, 0.0, without=[], only=[]), {})
    assert {kind for kind, said in short.items() if "takes long" in said} == LONG

"""One process at a time has a log open."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringpull.ps.errors import Unavailable
from ringpull.ps.live.folder_lock import FolderLock


def test_a_second_one_waits_and_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first = FolderLock(tmp_path / "shard-0.live")
    with pytest.raises(Unavailable, match="another process has this log open; two deployments need a --data-dir each"):
        FolderLock(tmp_path / "shard-0.live", wait_s=0.01)
    first.release()
    second = FolderLock(tmp_path / "shard-0.live", wait_s=0.0)
    second.release()
    second.release()

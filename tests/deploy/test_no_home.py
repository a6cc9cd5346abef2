"""A user that has a number and nothing else, as containers of Kubernetes and OpenShift give it: no entry, no home, and
a package that it cannot write."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ringpull.deploy.cluster.ray_session import CODE_ROOT
from tests.deploy.folders import write_version

USER = 2_147_000_123
SETPRIV = [
    *(shutil.which("setpriv") or "setpriv", "--reuid", str(USER), "--regid", "0", "--clear-groups"),
    # The interpreter may lie in a folder that only root may enter: this user may read everything, and write nothing.
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
]


def can_become_another() -> bool:
    try:
        return subprocess.run([*SETPRIV, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.medium
@pytest.mark.skipif(not can_become_another(), reason="needs root and setpriv, to become a user that has no entry")
@pytest.mark.parametrize("home", [{}, {"HOME": "/"}, {"HOME": "/root"}], ids=["unset", "/", "another's"])
def test_commands_work_for_a_number_without_a_name(tmp_path: Path, home: dict[str, str]) -> None:
    version = write_version(tmp_path / "ranker", 3)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    for folder in tmp_path.parents:  # those of pytest are for their owner alone
        if folder.stat().st_uid == os.geteuid() and folder.name.startswith("pytest-"):
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    environment = {
        "PATH": os.environ["PATH"],
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(CODE_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        **home,
    }

    def ringpull(*arguments: object) -> tuple[int, str]:
        ran = subprocess.run(
            [*SETPRIV, sys.executable, "-m", "ringpull", *map(str, arguments)],
            cwd=temporary,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        return ran.returncode, ran.stdout + ran.stderr

    assert ringpull("status") == (
        1,
        "error: nothing is served from here; start `ringpull serve`, or give --target HOST:PORT\n",
    )
    status, said = ringpull("inspect", version)
    assert status == 0, said
    assert "ranker version 3" in said
    assert [each.name for each in temporary.iterdir()] == [f"ringpull-{USER}"], "nothing lies where it was run"
    own = temporary / f"ringpull-{USER}"
    for folder in (own, own / "numba", own / "state"):
        found = folder.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (USER, 0o700)

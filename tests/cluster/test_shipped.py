"""What `serve --ship-code` sends to other nodes: the whole package, from a checkout too, whose folders are links."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import _zip_files

from ringpull.deploy.cluster.ray_session import CODE_ROOT, _runtime_env

SUB_PACKAGES = ("ps", "router", "inference", "deploy", "loadtest")

WHERE = """
import ringpull
from ringpull.deploy.cluster.ray_session import CODE_ROOT
print(ringpull.__file__)
print(CODE_ROOT)
print(ringpull.__version__)
"""


def test_ray_packs_what_the_links_lead_to(tmp_path: Path) -> None:
    """Package it by Ray's own function, unpack it as on a node: in a folder of the path, without the repository."""
    (shipped,) = _runtime_env(ship_code=True)["py_modules"]
    assert shipped == str(CODE_ROOT / "ringpull")
    package, target = tmp_path / "package.zip", tmp_path / "node"
    _zip_files(shipped, [], str(package), include_gitignore=True, include_parent_dir=True)
    with zipfile.ZipFile(package) as files:
        files.extractall(target)
    assert not [path for path in target.rglob("*") if path.is_symlink()]
    program = "".join(f"import ringpull.{each}\n" for each in SUB_PACKAGES) + WHERE
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[:2] == [str(target / "ringpull/__init__.py"), str(target)]

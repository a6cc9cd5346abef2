"""Trial of a booster's file in a process of its own, which a library in C++ may end where the file is damaged.

A damaged one may also keep it busy for ever (a tree whose children are its parents), or have it ask for all memory
there is: seconds of CPU and bytes are bounded by the file's size.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from ringpull.ps.errors import CorruptData

_LIMITED: Final = (
    "import resource, sys;"
    "resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), int(sys.argv[2])));"
    "resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[3]), int(sys.argv[3])));"
)
_READ: Final = {
    "LightGBM": (
        "import lightgbm; b = lightgbm.Booster(model_file=sys.argv[1]);"
        "b.dump_model(); b.predict([[0.0] * b.num_feature()], num_threads=1)"
    ),
    "XGBoost": (
        "import xgboost; b = xgboost.Booster(params={'nthread': 1}); b.load_model(sys.argv[1]); b.save_raw('json');"
        "b.feature_names = b.feature_types = None;"
        "b.predict(xgboost.DMatrix([[0.0] * b.num_features()], nthread=1))"
    ),
}
"""Program, by library, that reads a file and asks what was read for everything."""

_CPU_S: Final = 60
_BYTES_A_CPU_S: Final = 1 << 18
"""Bytes of a file that add a second to what it may take."""
_MEMORY_BYTES: Final = 8 << 30
_BYTES_A_BYTE: Final = 64
"""Bytes of memory that each of a file adds to what it may take: a model as Python's objects."""


def check_readable(path: Path, library: str) -> None:
    """Check that a library reads a file, and lives.

    Raises:
        CorruptData: It does not; the message has its own words, or says that it ended.
    """
    size = path.stat().st_size
    cpu_s, memory = _CPU_S + size // _BYTES_A_CPU_S, _MEMORY_BYTES + size * _BYTES_A_BYTE
    ran = subprocess.run(
        [sys.executable, "-c", _LIMITED + _READ[library], str(path), str(cpu_s), str(memory)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if ran.returncode == 0:
        return
    if -ran.returncode in (signal.SIGXCPU, signal.SIGKILL):
        raise CorruptData(
            f"{path}: {library} does not read it: it is at it for over {cpu_s} s of CPU, or out of memory: the file is"
            " damaged. Save the model again"
        )
    if ran.returncode < 0:
        raise CorruptData(f"{path}: {library} does not read it: it ends by signal {-ran.returncode} on this file")
    said = [line for line in ran.stderr.splitlines() if line.strip() and not line.lstrip().startswith("[bt]")]
    told = next((line for line in reversed(said) if "Error" in line), said[-1] if said else "it says nothing")
    raise CorruptData(f"{path}: {library} does not read it: {told:.300}")

"""Trial of a booster's file in a process of its own, which a library in C++ may end where the file is damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from ringpull.ps.errors import CorruptData

_READ: Final = {
    "LightGBM": (
        "import sys, lightgbm; b = lightgbm.Booster(model_file=sys.argv[1]);"
        "b.dump_model(); b.predict([[0.0] * b.num_feature()])"
    ),
    "XGBoost": (
        "import sys, xgboost; b = xgboost.Booster(); b.load_model(sys.argv[1]); b.save_raw('json');"
        "b.feature_names = b.feature_types = None;"
        "b.predict(xgboost.DMatrix([[0.0] * b.num_features()]))"
    ),
}
"""Program, by library, that reads a file and asks what was read for everything."""


def check_readable(path: Path, library: str) -> None:
    """Check that a library reads a file, and lives.

    Raises:
        CorruptData: It does not; the message has its own words, or says that it ended.
    """
    ran = subprocess.run(
        [sys.executable, "-c", _READ[library], str(path)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if ran.returncode == 0:
        return
    if ran.returncode < 0:
        raise CorruptData(f"{path}: {library} does not read it: it ends by signal {-ran.returncode} on this file")
    said = [line for line in ran.stderr.splitlines() if line.strip() and not line.lstrip().startswith("[bt]")]
    told = next((line for line in reversed(said) if "Error" in line), said[-1] if said else "it says nothing")
    raise CorruptData(f"{path}: {library} does not read it: {told:.300}")

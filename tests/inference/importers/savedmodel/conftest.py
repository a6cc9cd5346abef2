"""An interpreter that has TensorFlow, where there is one, and the SavedModels that it makes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

VARIABLE = "RINGPULL_TENSORFLOW"


@pytest.fixture(scope="session")
def tensorflow() -> Path:
    """The interpreter that `RINGPULL_TENSORFLOW` names, or this one."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    if importlib.util.find_spec("tensorflow") and importlib.util.find_spec("tf2onnx"):
        return Path(sys.executable)
    pytest.skip(f"no TensorFlow here: {VARIABLE}=PYTHON names an interpreter with tensorflow-cpu, tf-keras and tf2onnx")


@pytest.fixture(scope="session")
def saved_models(tensorflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved_models")
    script = Path(__file__).with_name("saved_models.py")
    made = subprocess.run([tensorflow, script, folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    return folder

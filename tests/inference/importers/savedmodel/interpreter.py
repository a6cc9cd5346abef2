"""An interpreter that has TensorFlow, where there is one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

VARIABLE = "RINGPULL_TENSORFLOW"


def tensorflow_or_skip() -> Path:
    """Return the interpreter that `RINGPULL_TENSORFLOW` names, or this one; without TensorFlow the test is skipped."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    if importlib.util.find_spec("tensorflow") and importlib.util.find_spec("tf2onnx"):
        return Path(sys.executable)
    pytest.skip(f"no TensorFlow here: {VARIABLE}=PYTHON names an interpreter with it, as `make tensorflow-tests` does")

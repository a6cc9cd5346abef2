"""SavedModels that an interpreter with TensorFlow makes, where there is one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.inference.importers.savedmodel.interpreter import tensorflow_or_skip


@pytest.fixture(scope="session")
def tensorflow() -> Path:
    return tensorflow_or_skip()


@pytest.fixture(scope="session")
def saved_models(tensorflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved_models")
    script = Path(__file__).with_name("saved_models.py")
    made = subprocess.run([tensorflow, script, folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    return folder

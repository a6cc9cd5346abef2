"""The first example of TensorFlow Serving's documentation against a deployment: a model without tables, and `curl`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ringpull.deploy.cluster.ray_session import CODE_ROOT
from tests.cluster.conftest import Serving

pytestmark = pytest.mark.ray


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_a_model_without_tables_is_exported_served_and_asked_with_curl(
    serve: Callable[..., Serving], tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "examples.half_plus_two", tmp_path], cwd=CODE_ROOT, check=True)
    serving = serve(tmp_path / "half_plus_two", "--shards", "1")
    http = serving.ready["http"]
    curl = ["curl", "-sS", "-d", '{"instances": [1.0, 2.0, 5.0]}', "-X", "POST"]
    url = f"http://{http}/v1/models/half_plus_two"
    out = subprocess.run([*curl, f"{url}:predict"], capture_output=True, check=True, text=True).stdout
    assert out == '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'
    assert json.loads(out) == {"predictions": [2.5, 3.0, 4.5]}
    told = subprocess.run(["curl", "-sS", url], capture_output=True, check=True, text=True).stdout
    assert json.loads(told)["model_version_status"][0]["state"] == "AVAILABLE"
    assert serving.end() == 0

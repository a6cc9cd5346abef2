"""The unchanged client of TensorFlow Serving against a head: tensorflow-serving-api, with tensorflow-cpu, in an
environment of its own, for they are 1.6 GB. It is made once for all tests of this file, in a minute or two."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.schema.columns import Ragged
from tests.inference.served import ROWS
from tests.inference.small_model import columns_of
from tests.inference.tfs.tfs_served import TfsServed

SESSION = Path(__file__).with_name("tensorflow_session.py")
README = Path(__file__).parents[3] / "inference/head/frontends/tfs/README.md"
COLUMNS = columns_of(ROWS)

pytestmark = [pytest.mark.slow, pytest.mark.net]


@pytest.fixture(scope="module")
def python_of_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has the client."""
    folder = tmp_path_factory.mktemp("tensorflow")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
    # The client asks for a tensorflow with CUDA, and takes any.
    for packages in (["tensorflow-cpu", "grpcio"], ["--no-deps", "tensorflow-serving-api"]):
        done = subprocess.run([*pip, "--retries", "0", *packages], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{packages[-1]} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    return python


async def test_an_unchanged_client_is_at_home(
    python_of_tensorflow: str, tfs: TfsServed, own_client: AsyncClient, tmp_path: Path
) -> None:
    tensors = {}
    for name, column in COLUMNS.items():
        if isinstance(column, Ragged):
            tensors[name], tensors[f"{name}_offsets"] = column.values, column.offsets
            if column.weights is not None:
                tensors[f"{name}_weights"] = column.weights
        else:
            tensors[name] = column
    np.savez(tmp_path / "tensors.npz", **tensors)
    process = await asyncio.create_subprocess_exec(
        python_of_tensorflow,
        "-P",  # What lies beside the script is not for tensorflow to import.
        SESSION,
        tfs.target,
        tmp_path / "tensors.npz",
        tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    told = json.loads(out)

    own = (await own_client.predict("ranker", COLUMNS)).outputs
    for way in ("whole", "lists", "other types", "bfloat16", "constant", "context"):
        with np.load(tmp_path / f"{way}.npz") as got:
            assert {*got} == {*own}
            for name, values in own.items():
                np.testing.assert_array_equal(got[name], values, err_msg=f"{way}: {name}")
    with np.load(tmp_path / "chosen.npz") as got:
        assert {*got} == {"score"}
        np.testing.assert_array_equal(got["score"], own["score"])
    assert told["spec"] == ["ranker", 3, "serving_default"]
    assert told["values"] == own["score"].tolist()
    assert told["classes"] == own["classes"].tolist()
    assert told["unpacked"]
    assert told["method"] == "tensorflow/serving/predict"
    assert told["inputs"]["age"] == ["float32", [None, 2]]
    assert told["inputs"]["genres_offsets"] == ["int64", [None]]
    assert told["states"] == [[3, 30, 0]]
    assert told["refused"]["status"] == ["NOT_FOUND", "Could not find any versions of model other"]
    assert told["refused"]["model"] == ["NOT_FOUND", "Servable not found for request: Latest(other)"]
    assert told["refused"]["label"] == ["INVALID_ARGUMENT", "Unrecognized servable version label: canary"]
    assert told["refused"]["signature"][0] == "FAILED_PRECONDITION"
    assert told["refused"]["strings"] == ["INVALID_ARGUMENT", "feature user: takes int64 values, not strings"]
    assert told["refused"]["reload"][0] == "PERMISSION_DENIED"


async def test_the_program_of_the_readme(
    python_of_tensorflow: str, tfs: TfsServed, own_client: AsyncClient, tmp_path: Path
) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert "127.0.0.1:8500" in program
    (tmp_path / "program.py").write_text(program.replace("127.0.0.1:8500", tfs.target), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        python_of_tensorflow, tmp_path / "program.py", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    features = {"item": [50, 181, 7], "genres": Ragged.from_lists([[1, 2], [5], []])}
    own = await own_client.predict("ranker", features, {"user": [196]})
    assert np.array(out.decode().strip(" []\n").split(), float) == pytest.approx(own.outputs["score"].tolist())

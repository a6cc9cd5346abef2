"""The unchanged tritonclient against a head, over gRPC and HTTP. Its protobuf is another one than ours, so it is
installed into an environment of its own: once for all tests of this file, in some ten seconds."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.frontends.oip.messages import message
from tests.inference.http_served import HttpServed
from tests.inference.oip.oip_served import OipServed
from tests.inference.oip.requests import ROWS, TENSORS
from tests.inference.oip.triton_fields import fields_of
from tests.inference.small_model import columns_of

SESSION = Path(__file__).with_name("triton_session.py")

pytestmark = [pytest.mark.medium, pytest.mark.net]


@pytest.fixture(scope="module")
def folder_of_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that is gone afterwards: pytest keeps those of the last runs, and this one is large."""
    folder = tmp_path_factory.mktemp("tritonclient")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def python_of_triton(folder_of_triton: Path) -> str:
    """A Python that has tritonclient."""
    folder = folder_of_triton
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
    pip.append("--no-compile")  # Few of its modules are used, once.
    done = subprocess.run(
        [*pip, "--retries", "0", "tritonclient[grpc,http]"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"tritonclient cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    return python


async def session(python: str, oip: OipServed, http: HttpServed, folder: Path) -> Any:
    np.savez(folder / "tensors.npz", **TENSORS)
    process = await asyncio.create_subprocess_exec(
        python,
        str(SESSION),
        oip.target,
        f"127.0.0.1:{http.port}",
        str(folder / "tensors.npz"),
        str(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_an_unchanged_tritonclient_is_at_home(
    python_of_triton: str, oip: OipServed, http: HttpServed, tmp_path: Path
) -> None:
    async with AsyncClient(oip.target, timeout_s=60, retries=0) as client:
        expected = await client.predict("ranker", columns_of(ROWS))
    told = await session(python_of_triton, oip, http, tmp_path)
    check_messages(told["fields"], told["data types"])
    for way in ("grpc", "grpc gzip", "http binary", "http json", "http gzip", "http deflate", "http async"):
        with np.load(tmp_path / f"{way}.npz") as got:
            assert {*got} == {*expected.outputs}
            for name, values in expected.outputs.items():
                np.testing.assert_array_equal(got[name], values, err_msg=f"{way}: {name}")
    for way in ("grpc", "http", "json"):
        with np.load(tmp_path / f"cities {way}.npz") as got:
            assert got["input0"].tolist() == [0, 0, 1, 2]
    assert told["id"] == "seven"
    for way in ("grpc", "http"):
        seen = told[way]
        assert seen["live"]
        assert seen["ready"]
        assert seen["model ready"] == [True, True]
        assert seen["model not ready"] == [False, False]
        assert seen["metadata"] == "ranker"
        assert seen["unknown model"] == {"grpc": "StatusCode.NOT_FOUND", "http": "404"}[way]
        assert seen["share memory"] == {"grpc": "StatusCode.UNIMPLEMENTED", "http": "501"}[way]
        for what in ("load with files", "load", "unload"):
            assert seen[what] == {"grpc": "StatusCode.PERMISSION_DENIED", "http": "403"}[way]
    assert told["config"] == ["ranker", 0]
    assert told["server"] == ["ringpull", "ringpull"]
    assert told["index"][0][1] == {"name": "ranker", "version": "3", "state": "READY"}
    assert told["index"][1][1] == {"name": "ranker", "version": "3", "state": "READY", "reason": ""}
    assert told["statistics"] == ["ranker", "ranker", 2]
    assert told["memory"] == [{}, []]
    assert told["log settings"] == ["StatusCode.UNIMPLEMENTED", "501"]


def check_messages(fields: dict[str, dict[str, list[int]]], data_types: dict[str, int]) -> None:
    """Check that our messages are those of the client, but for what is left out."""
    own_types = message("ModelInput").DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    assert {name: value.number for name, value in own_types.items()} == data_types
    own = fields_of(message("ModelInput").DESCRIPTOR.file)
    # One message stands for those of both kinds of shared memory, and of all settings: none is looked at.
    own = {
        name: given for name, given in own.items() if not name.startswith(("inference.Shared", "inference.Settings"))
    }
    assert len(own) > 40
    for name, given in own.items():
        assert given.items() <= fields[name].items(), name
    for kind in ("System", "Cuda"):
        for what in ("Status", "Register", "Unregister"):
            assert fields[f"inference.{kind}SharedMemory{what}Request"]["name"] == [1, 9]

"""Triton's load generator, perf_analyzer, unchanged: it takes a head for a Triton server, over gRPC and HTTP.

Its binary came with tritonclient until 2.51. It needs libb64, which distributions have, and libcudart, also where there
is no GPU.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference.http_served import HttpServed
from tests.inference.oip.oip_served import OipServed

pytestmark = [pytest.mark.slow, pytest.mark.net]

PACKAGES = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12")
FILES = ("perf_analyzer", "libcudart.so.12")
SHAPES = ("--shape", "city:16", "--shape", "guests:16", "--shape", "size:16,2", "--string-length", "5")
MEASUREMENT = ("--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "500")


@pytest.fixture(scope="module")
def folder_of_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that is gone afterwards: pytest keeps those of the last runs, and this one is large."""
    folder = tmp_path_factory.mktemp("perf_analyzer")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def perf_analyzer(folder_of_program: Path) -> Path:
    """The program, with what it needs beside it."""
    try:
        ctypes.CDLL("libb64.so.0d")
    except OSError as exc:
        pytest.skip(f"perf_analyzer needs libb64 (Debian: libb64-0d): {exc}")
    folder = folder_of_program
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*pip, "--retries", "0", "--dest", folder, *PACKAGES], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"perf_analyzer cannot be had here: {done.stderr.strip().splitlines()[-1:]}")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            for name in packed.namelist():
                if Path(name).name in FILES:
                    (folder / Path(name).name).write_bytes(packed.read(name))
    program = folder / "perf_analyzer"
    program.chmod(0o700)
    return program


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_perf_analyzer_measures_a_head(
    perf_analyzer: Path, oip: OipServed, http: HttpServed, protocol: str
) -> None:
    target = oip.target if protocol == "grpc" else f"127.0.0.1:{http.port}"
    process = await asyncio.create_subprocess_exec(
        perf_analyzer,
        *("-m", "cities", "-u", target, "-i", protocol, *SHAPES, *MEASUREMENT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"LD_LIBRARY_PATH": str(perf_analyzer.parent)},
    )
    out, _ = await process.communicate()
    shown = out.decode()
    assert process.returncode == 0, shown
    measured = re.search(r"Request count: (\d+)", shown)
    counted = re.search(r"Inference count: (\d+)", shown)
    assert measured is not None, shown
    assert counted is not None, shown
    assert int(counted[1]) >= int(measured[1]) > 0
    assert oip.counts.failed == 0

"""Baseline (e): the whole model in Triton's python backend, instances of one thread, all tables in each.

    RINGPULL_TRITON=VENV python -m ringpull.loadtest.bench.baselines.triton --rows N        prints `ready PORT`

VENV has Triton and torch, of no matter which versions beside ours:

    pip install nvidia-pytriton==0.7.0 'numpy<2' torch

Its tritonserver and python backend are used, and nothing else of pytriton. Asked by the Open Inference Protocol.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import typer

from ringpull.loadtest import dlrm
from ringpull.loadtest.process import free_port, unwound_by_sigterm, wait_until_ended

VARIABLE: Final = "RINGPULL_TRITON"
INSTANCES: Final = 2
"""Instances, if nothing else is said."""
START_TIMEOUT_S: Final = 120.0
END_TIMEOUT_S: Final = 40.0
"""Time after which a server that does not end is killed; Triton gives its models 30 s."""
POLL_S: Final = 0.2
SHOWN_BYTES: Final = 2_000

ASK: Final = """
import json, sys, sysconfig
major, minor = sys.version_info[:2]
print(json.dumps({"site": sysconfig.get_path("purelib"), "prefix": sys.base_prefix, "version": f"{major}.{minor}"}))
"""


def missing() -> str | None:
    """Return what keeps Triton from being measured; None: nothing."""
    if os.environ.get(VARIABLE):
        return None
    return f"{VARIABLE}=VENV names no environment with nvidia-pytriton 0.7.0, numpy<2 and torch"


@dataclass(frozen=True, slots=True)
class Installation:
    """Triton in an environment of its own."""

    venv: Path
    site: Path
    """Folder of the environment's packages."""
    prefix: Path
    """Folder of the Python that the environment was made of: the backend's stub is linked with its library."""
    version: str
    """Version of that Python, `3.11`: there is a stub for each."""

    @classmethod
    def find(cls, venv: Path) -> Installation:
        """Ask the environment's Python where it lies.

        Raises:
            RuntimeError: There is none, or it has no Triton for it.
        """
        python = venv / "bin/python"
        if not python.exists():
            raise RuntimeError(f"{VARIABLE}={venv} is no environment: it has no bin/python")
        said = json.loads(subprocess.run([python, "-c", ASK], capture_output=True, check=True).stdout)
        found = cls(venv, Path(said["site"]), Path(said["prefix"]), said["version"])
        for path in (found.program, found.stub):
            if not path.exists():
                raise RuntimeError(f"{VARIABLE}={venv} has no {path}: pip install nvidia-pytriton==0.7.0 into it")
        return found

    @property
    def server(self) -> Path:
        return self.site / "pytriton/tritonserver"

    @property
    def program(self) -> Path:
        return self.server / "bin/tritonserver"

    @property
    def stub(self) -> Path:
        return self.server / "python_backend_stubs" / self.version / "triton_python_backend_stub"

    def environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that Triton is started with, from ours."""
        libraries = f"{self.prefix / 'lib'}:{self.site / 'nvidia_pytriton.libs'}"
        left = {name: value for name, value in ours.items() if not name.startswith("PYTHON")}
        # The stub starts the first python on the path.
        return {**left, "LD_LIBRARY_PATH": libraries, "PATH": f"{self.venv / 'bin'}:{ours.get('PATH', os.defpath)}"}


def lay_out(folder: Path, installation: Installation, rows: int, instances: int) -> None:
    """Write `models`, a repository of the one model, and `backends`, with the stub beside its backend, to a folder."""
    version = folder / "models" / dlrm.MODEL / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(config(rows, instances), "utf-8")
    shutil.copy(Path(__file__).with_name("triton_model.py"), version / "model.py")
    shutil.copy(dlrm.__file__, version / "dlrm.py")
    shutil.copytree(installation.server / "backends", folder / "backends")
    shutil.copy(installation.stub, folder / "backends/python")


def config(rows: int, instances: int = INSTANCES) -> str:
    """Return the model's configuration: no batches, as each request is one of 128 candidates."""
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    tensors = {"dense": ("FP32", (-1, dlrm.DENSE)), "context": ("INT64", (dlrm.CONTEXT_TABLES, -1))}
    tensors["candidates"] = ("INT64", (dlrm.CANDIDATE_TABLES, -1, -1))
    inputs = ", ".join(
        f'{{ name: "{name}" data_type: TYPE_{kind} dims: {list(shape)} }}' for name, (kind, shape) in tensors.items()
    )
    return f"""name: "{dlrm.MODEL}"
backend: "python"
max_batch_size: 0
input [ {inputs} ]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [-1] }} ]
instance_group [ {{ count: {instances} kind: KIND_CPU }} ]
parameters {{ key: "rows" value {{ string_value: "{rows}" }} }}
"""


@contextmanager
def served(installation: Installation, rows: int, instances: int = INSTANCES) -> Iterator[int]:
    """Run Triton on a free port of loopback, yield the port when it answers, and end it.

    Raises:
        RuntimeError: It ended before it was ready, or was not in time.
    """
    port = free_port()
    with unwound_by_sigterm(), tempfile.TemporaryDirectory(prefix="ringpull-bench-") as name:
        folder = Path(name)
        lay_out(folder, installation, rows, instances)
        command = [str(installation.program), f"--model-repository={folder}/models"]
        command += [f"--backend-directory={folder}/backends", "--disable-auto-complete-config"]
        command += ["--allow-http=false", "--allow-metrics=false", "--grpc-address=127.0.0.1", f"--grpc-port={port}"]
        shared = f"ringpull_bench_{os.getpid()}_"
        command += [f"--backend-config=python,shm-region-prefix-name={shared}"]
        log = folder / "log"
        with log.open("wb") as output:
            environment = installation.environment(os.environ)
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait_ready(process, port, log)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # What Triton and its instances talk by; there is some left only when they were killed.
            for left in Path("/dev/shm").glob(f"{shared}*"):
                left.unlink(missing_ok=True)


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until it listens, which it does when its instances have made their models."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        # A channel anew each time: an old one tries ever more rarely.
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, suppress(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(timeout=POLL_S)
            return
    last = log.read_bytes()[-SHOWN_BYTES:].decode(errors="replace")
    raise RuntimeError(f"Triton was not ready within {START_TIMEOUT_S:g} s, or ended: {last}")


def main(
    rows: int = typer.Option(..., help="Rows per table."),
    instances: int = typer.Option(INSTANCES, help="Instances, each with all tables."),
) -> None:
    if (why := missing()) is not None:
        raise RuntimeError(why)
    with served(Installation.find(Path(os.environ[VARIABLE]).absolute()), rows, instances) as port:
        print(f"ready {port}", flush=True)
        wait_until_ended()


if __name__ == "__main__":
    typer.run(main)

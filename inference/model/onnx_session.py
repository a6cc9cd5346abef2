"""Sessions of onnxruntime with bounds: on threads, on memory, on what is read from disk.

- A session computes in the thread that runs it, with as many helpers as the head's dense program may have; none spins
  while it waits, since shards, the event loop and the program share the cores.
- Memory of runs comes of one arena of the process, shared by all sessions, which grows by what is asked for and never
  beyond `MAX_ARENA_BYTES`: a graph that asks for more fails for that run alone. Weights are not in it, so those of a
  version that goes, go.
- Patterns of memory are off: onnxruntime keeps one for each number of rows that it ever saw.
- It opens no file: weights outside of the graph are mapped here, and handed over.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ringpull.inference.model.onnx_check import ExternalTensor
from ringpull.inference.model.version_files import resolve
from ringpull.ps.errors import InvalidInput

MAX_ARENA_BYTES: Final = 8 << 30
"""Largest size of the arena of this process. Most programs take a few MiB; a batch is bounded by the head."""

_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_SAME_AS_REQUESTED: Final = 1
_FATAL: Final = 4
"""Severity from which on onnxruntime logs: what fails is raised, and would be logged for every poisoned request."""

_ARENA: Final = threading.Lock()
_arenas: list[ort.OrtMemoryInfo] = []


class _Session(ort.InferenceSession):  # type: ignore[misc]
    """A session whose inputs are looked over by onnxruntime's core alone.

    Its Python looks for each input in a list of those given, which are as many: of 1,000 inputs that is 8 of 9 ms. The
    core says of a missing one the same. Where a release has no such method, this is never called.
    """

    def _validate_input(self, feed_input_names: list[str]) -> None:
        """Look for nothing."""


def open_session(
    content: bytes,
    version_dir: Path,
    external: Sequence[ExternalTensor],
    device: str | None,
    threads: int | None,
    *,
    optimized: bool = True,
) -> ort.InferenceSession:
    """Open a session of a graph that was checked.

    Args:
        content: The graph.
        version_dir: Folder of the files with its weights.
        external: Weights in those files.
        device: Device: cpu, cuda, cuda:1. None: CUDA where this onnxruntime has it and it works, else the CPU.
        threads: CPU threads; None: as many as onnxruntime takes by itself.
        optimized: Whether onnxruntime may rearrange the graph.

    Raises:
        InvalidInput: There is no such device.
        Exception: Of any root: whatever onnxruntime raises for a graph that it does not run.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False
    options.log_severity_level = _FATAL
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    _register_arena()
    for name, value in {
        "session.use_env_allocators": "1",
        "session.use_device_allocator_for_initializers": "1",
        "session.intra_op.allow_spinning": "0",
        "session.inter_op.allow_spinning": "0",
    }.items():
        options.add_session_config_entry(name, value)
    if external:
        values = [ort.OrtValue.ortvalue_from_numpy(_mapped(version_dir, each)) for each in external]
        options.add_external_initializers([each.name for each in external], values)
    session = _Session(content, options, providers=_providers(device))
    if device is not None and device.startswith("cuda") and _CUDA not in session.get_providers():
        raise InvalidInput(f"device is {device!r}, but onnxruntime could not use CUDA here; use 'cpu'")
    return session


def device_of(session: ort.InferenceSession) -> tuple[str, str]:
    """Return the device that a session computes on, as torch names it, and the name of its execution provider."""
    if _CUDA not in session.get_providers():
        return "cpu", _CPU
    number = session.get_provider_options()[_CUDA].get("device_id", "0")
    return ("cuda" if number == "0" else f"cuda:{number}"), _CUDA


def _providers(device: str | None) -> list[Any]:
    if device == "cpu":
        return [_CPU]
    if device is not None and not device.startswith("cuda"):
        raise InvalidInput(f"device is {device!r}; onnxruntime computes on 'cpu', 'cuda', or 'cuda:1'")
    if _CUDA not in ort.get_available_providers():
        if device is None:
            return [_CPU]
        raise InvalidInput(
            f"device is {device!r}, but the onnxruntime that is installed has no CUDA: install onnxruntime-gpu in its"
            " place, or use 'cpu'"
        )
    number = (device or "cuda").removeprefix("cuda").removeprefix(":") or "0"
    if not number.isdecimal():
        raise InvalidInput(f"device is {device!r}; it must be 'cuda', or 'cuda:' and a number")
    return [(_CUDA, {"device_id": int(number), "arena_extend_strategy": "kSameAsRequested", "use_tf32": 0}), _CPU]


def _register_arena() -> None:
    """Make the arena of this process, if it is not there."""
    with _ARENA:
        if _arenas:
            return
        info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        settings = {"max_mem": MAX_ARENA_BYTES, "arena_extend_strategy": _SAME_AS_REQUESTED}
        ort.create_and_register_allocator(info, ort.OrtArenaCfg(settings))
        _arenas.append(info)


def _mapped(version_dir: Path, tensor: ExternalTensor) -> NDArray[Any]:
    """Return weights as they lie in their file; those that lie askew are copied."""
    file = resolve(version_dir, tensor.path)
    if not tensor.nbytes:
        return np.zeros(tensor.shape, tensor.dtype)
    mapped = np.memmap(file, tensor.dtype, "r", tensor.offset, tensor.shape)
    return np.require(mapped, requirements=["C", "A"])

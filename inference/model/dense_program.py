"""The dense program of a version, whatever runs it: what is left of a model when its look-ups are pulls.

The manifest says what runs it: torch, an exported program (`torch_program`), or onnxruntime, a graph of ONNX
(`onnx_program`). Neither is imported before a version needs it: a head of ONNX versions loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ringpull.extras import needing
from ringpull.inference.model.manifest import Manifest, ProgramInput, ProgramOutput
from ringpull.inference.model.part_threads import PartThreads
from ringpull.inference.model.script_maker import ScriptMaker

Precision = Literal["as-exported", "float32", "bfloat16"]
"""Precision that a dense program is loaded in: as its version was exported, which a device without instructions for
bfloat16 refuses; float32; or bfloat16 wherever it is, to measure it."""


@dataclass(frozen=True, slots=True, eq=False)
class ProgramTensor:
    """One input of the dense program for one batch of B rows."""

    values: NDArray[Any]
    """Values, float32 or int64: (B, ...), or with `row_index` (R, ...), one per distinct row, as for a context."""
    row_index: NDArray[np.int64] | None = None
    """Entry of `values` that each row takes (B,); they are spread out on the device, so R rows travel and not B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFacts:
    """The runtime of a dense program, as status and metadata tell it."""

    name: str
    """Name: "torch" or "onnxruntime"."""
    version: str
    """Its own version, as installed here."""
    provider: str
    """Part of it that computes: of onnxruntime its execution provider, of torch the device."""
    threads: int | None
    """CPU threads of the program; None: as many as the runtime takes by itself."""
    max_threads: int = 0
    """CPU threads of a batch that is all there is to do, on idle cores; 0: no more than any other has."""
    precision: str = ""
    """Type of floats between the program's products: "float32", "bfloat16"; empty: whatever types its graph has."""
    eager_because: str = ""
    """Why torch runs it operator by operator from Python; empty: it is a script, or a graph of onnxruntime."""


class DenseProgram(Protocol):
    """A loaded dense program. One thread at a time may call `run`."""

    @property
    def device(self) -> str:
        """Device that it computes on: cpu, cuda, cuda:1."""
        ...

    @property
    def writer(self) -> str:
        """Version of torch that exported it; empty: not known, or not written by torch."""
        ...

    @property
    def outputs(self) -> tuple[ProgramOutput, ...]:
        """Outputs, those of the manifest."""
        ...

    @property
    def runtime(self) -> RuntimeFacts:
        """What runs it."""
        ...

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        """Run the program on a batch.

        Args:
            inputs: One for each of the manifest's `inputs`, in their order.
            rows: B, at least 1.

        Returns:
            float32 (B, ...) by output name, owned by the caller.

        Raises:
            InvalidInput: The number of inputs or of their rows is wrong.
            Exception: Of any root: whatever the runtime raises for these values.
        """
        ...


def load_program(
    version_dir: Path,
    manifest: Manifest,
    device: str | None = None,
    *,
    threads: int | None = None,
    precision: Precision = "as-exported",
    maker: ScriptMaker | None = None,
    parts: PartThreads | None = None,
) -> DenseProgram:
    """Load the dense program of a version onto `device`, by what its manifest says runs it.

    Args:
        device: Device: cpu, cuda, cuda:1. None: CUDA where the runtime has it, else the CPU.
        threads: CPU threads of the program; None: as many as the runtime takes by itself.
        precision: Precision of a program of torch; one of onnxruntime has the types of its graph.
        maker: Makes the script of a wide program of torch elsewhere, as requests wait here; None: nobody does.
        parts: Threads that run parts of a batch on the CPU side by side; None: it has the thread that runs it.

    Raises:
        CorruptData: The file is damaged, is nothing that the runtime here runs, or its inputs or outputs are not those
            that the manifest names.
        InvalidInput: There is no such device, or it has no instructions for the bfloat16 that the version asks for.
        MissingExtra: The runtime is not installed.
    """
    what = f"the dense program of {manifest.model}/{manifest.version}"
    if manifest.runtime == "onnxruntime":
        with needing("server", what):
            from ringpull.inference.model.onnx_program import OnnxProgram

        return OnnxProgram.load(version_dir, manifest, device, threads=threads, parts=parts)
    with needing("server", what):
        from ringpull.inference.model.torch_program import TorchProgram

    return TorchProgram.load(
        version_dir, manifest, device, threads=threads, precision=precision, maker=maker, parts=parts
    )


def described(entry: ProgramInput) -> str:
    """Return what an input is called in errors."""
    return f"lookup {entry.lookup}" if entry.argument is None else f"argument {entry.argument!r}"

"""The dense program of torch: an exported program, on CUDA when there is one.

Loading trusts nothing: the file's checksum, what its archive holds (`program_check`), the number and widths of its
inputs against the manifest's tables, and its outputs are checked before the first request. torch.export specialises
programs that saw one row, so programs are exported with more, and a single row is run as two.

Rows are independent of each other: batches mix requests. So on the CPU a large batch is run in parts, each small enough
that what its layers hand on stays in the cache (a DLRM of 26 tables in one thread: 4,096 rows at 69,000 a second in one
run, at 97,000 in eight).
"""

from __future__ import annotations

import inspect
import io
import logging
import threading
import warnings
import weakref
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.export.passes import move_to_device_pass
from torch.utils._python_dispatch import _disable_current_modes

from ringpull.inference.model.bfloat16 import INSTRUCTIONS, in_bfloat16, instructions
from ringpull.inference.model.cheaper_operators import with_cheaper_operators
from ringpull.inference.model.dense_program import Precision, ProgramTensor, RuntimeFacts, described
from ringpull.inference.model.flat_inputs import FlatInputs
from ringpull.inference.model.manifest import FileEntry, Manifest, ProgramInput
from ringpull.inference.model.packed_inputs import check_shape, lookup_places, single_places
from ringpull.inference.model.part_threads import PartThreads, run_parts
from ringpull.inference.model.program_check import check_program, graph_bytes
from ringpull.inference.model.program_errors import exported_with, last_words, newer_torch
from ringpull.inference.model.script_maker import ScriptInput, ScriptMaker
from ringpull.inference.model.torch_packing import PackedModule, PackedRows, packed_module
from ringpull.inference.model.torch_script import load_script, prepare, save_script, scripted
from ringpull.ps.errors import CorruptData, InvalidInput, RingpullError
from ringpull.ps.spec import Pooling

logger: Final = logging.getLogger(__name__)

MIN_ROWS: Final = 2
"""Rows that torch.export generalises to; fewer are filled up with copies of the first."""

CPU_ROWS: Final = 512
"""Largest number of rows of one run on the CPU."""

_OF_THREAD: Final = threading.local()
"""Threads that torch computes in, told by each thread that runs programs: `count`."""


class TorchProgram:
    """A loaded exported program (`DenseProgram`). One thread at a time may call `run`."""

    def __init__(
        self,
        run: Callable[..., Any],
        manifest: Manifest,
        device: str,
        writer: str = "",
        threads: int | None = None,
        *,
        short: bool = False,
        eager_because: str = "",
        packed: Sequence[PackedRows] = (),
        parts: PartThreads | None = None,
    ) -> None:
        """Use `TorchProgram.load`."""
        self.device = device
        self.writer: Final = writer
        """Version of torch that exported it; empty: not known."""
        self.outputs = manifest.outputs
        self._inputs = manifest.inputs
        self._target = torch.device(device)
        self._run = run
        self._packed = packed
        """Inputs that `run` takes first, each in place of several."""
        self._single = single_places(len(manifest.inputs), packed)
        self.takes_flat: Final = bool(packed)
        """Whether `FlatInputs` cost it less than as many tensors."""
        # Operator by operator, two threads would wait for each other's Python.
        self._parts = None if device != "cpu" or eager_because else parts
        self.runtime: Final = RuntimeFacts(
            name="torch",
            version=str(torch.__version__),
            provider=device,
            threads=threads,
            max_threads=0 if self._parts is None else self._parts.max_threads,
            precision="bfloat16" if short else "float32",
            eager_because=eager_because,
        )
        if isinstance(run, torch.nn.Module):
            # It is part of a cycle, and frozen ones are never collected (`ringpull.ps.garbage`).
            weights = [*run.parameters(), *run.buffers()]
            weakref.finalize(self, _let_go_of, weights).atexit = False

    @classmethod
    def load(
        cls,
        version_dir: Path,
        manifest: Manifest,
        device: str | None = None,
        *,
        threads: int | None = None,
        precision: Precision = "as-exported",
        maker: ScriptMaker | None = None,
        parts: PartThreads | None = None,
    ) -> TorchProgram:
        """Load the program of a version onto `device` (default: CUDA when there is one, else the CPU).

        Args:
            threads: CPU threads that torch computes with; None: as many as it takes by itself.
            precision: Precision between its products.
            maker: Makes the script of a wide program for the CPU elsewhere, as requests wait here; None: nobody does.
            parts: Threads that run parts of a batch side by side, of a script on the CPU; None: there are none.

        Raises:
            CorruptData: The file is damaged, is no program that this torch reads, or its inputs or outputs are not
                those that the manifest names (as when its widths disagree with its tables). Where a newer torch wrote
                it, the message says so, and what to do.
            InvalidInput: There is no such device, or it has no instructions for the bfloat16 that the version asks for.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InvalidInput(f"device is {device!r}, but torch finds no CUDA here; use 'cpu'")
        if (number := device.removeprefix("cuda").removeprefix(":")).isdecimal() and (
            int(number) >= (there := torch.cuda.device_count())
        ):
            raise InvalidInput(f"device is {device!r}, but torch finds {there} CUDA devices here, numbered from 0")
        asked = manifest.bfloat16 is not None and precision == "as-exported"
        if asked and not instructions(device):
            raise InvalidInput(
                f"{manifest.model}/{manifest.version} is to run in bfloat16, for which {device} has no instructions"
                f" here ({', '.join(INSTRUCTIONS.values())}; CUDA from compute capability 8.0): serve it where there"
                " are, or all versions in float32: --dense-precision float32"
            )
        entry = manifest.program
        assert entry is not None, "a version of tables alone has no program to load"
        content, file = entry.read(version_dir), version_dir / entry.path
        writer = exported_with(content)
        short = asked or precision == "bfloat16"
        try:
            run, why = None, ""
            packed: tuple[PackedRows, ...] = ()
            if maker is not None and device == "cpu" and graph_bytes(content) >= maker.min_graph_bytes:
                run = _made_elsewhere(maker, version_dir, manifest, short=short)
            if run is None:
                module, values = _checked(content, file, manifest, device, short=short)
                if device == "cpu" and (made := _packed(file, module, manifest)) is not None:
                    module, packed = made.module, made.packed
                    rows = [torch.empty((0, each.width), dtype=each.dtype, device="meta") for each in packed]
                    values = [*rows, *[values[place] for place in single_places(len(values), packed)]]
                run, why = scripted(module, values, torch.device(device))
            return cls(
                run, manifest, device, writer, threads, short=short, eager_because=why, packed=packed, parts=parts
            )
        except (MemoryError, torch.OutOfMemoryError, InvalidInput):  # which say nothing of the file
            raise
        except Exception as exc:  # of any root, where a newer torch wrote what this one takes for something else
            if isinstance(exc, CorruptData) and not newer_torch(writer):
                raise
            why = newer_torch(writer) or f"not a program that torch {torch.__version__} runs"
            said = str(exc).removeprefix(f"{file}: ") if isinstance(exc, CorruptData) else last_words(exc)
            raise CorruptData(f"{file}: {why} ({said})") from exc

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        """Run the program on a batch; see `DenseProgram.run`."""
        if len(inputs) != len(self._inputs) or rows < 1:
            raise InvalidInput(
                f"{len(inputs)} inputs of {rows} rows; the dense program takes {len(self._inputs)} of 1 or more"
            )
        max_rows = CPU_ROWS if self.device == "cpu" else rows
        results = run_parts(lambda part: self._run_part(inputs, rows, part), rows, max_rows, self._parts)
        with torch.inference_mode():
            whole = results[0] if len(results) == 1 else [torch.cat(each) for each in zip(*results, strict=True)]
            return {
                output.name: np.ascontiguousarray(result[:rows].to("cpu", torch.float32).numpy())
                for output, result in zip(self.outputs, whole, strict=True)
            }

    def _run_part(self, inputs: Sequence[ProgramTensor], rows: int, part: slice) -> Sequence[Tensor]:
        """Run it on a part of the rows; several threads may, side by side."""
        threads = self.runtime.threads
        if threads is not None and getattr(_OF_THREAD, "count", None) != threads:
            torch.set_num_threads(threads)  # of this thread
            _OF_THREAD.count = threads
        with torch.inference_mode():
            outputs: Sequence[Tensor] = self._run(*self._tensors(inputs, rows, part))
            return outputs

    def _tensors(self, inputs: Sequence[ProgramTensor], rows: int, part: slice) -> list[Tensor]:
        """Return what the program is given for a part of the rows: no more is laid out than stays in the cache."""
        packed = [self._rows(inputs, each, rows, part) for each in self._packed]
        return packed + [self._tensor(inputs[place], self._inputs[place], rows, part) for place in self._single]

    def _rows(self, inputs: Sequence[ProgramTensor], packed: PackedRows, rows: int, part: slice) -> Tensor:
        """Return packed rows, which are new: the program writes to them."""
        laid = None
        if isinstance(inputs, FlatInputs) and inputs.rows == rows:
            flat = inputs.part(part)
            lay = flat.short_side_by_side if packed.short else flat.side_by_side
            laid = lay(packed.places, packed.dims, packed.columns, packed.width)
        if laid is not None:
            tensor = torch.from_numpy(laid).view(packed.dtype)
            return tensor if rows >= MIN_ROWS else torch.cat([tensor] * MIN_ROWS)
        tensor = torch.empty(max(part.stop - part.start, MIN_ROWS), packed.width, dtype=packed.dtype)
        columns = zip(packed.places.tolist(), packed.dims.tolist(), packed.columns.tolist(), strict=True)
        for place, dim, column in columns:
            entry = self._inputs[place]
            values = self._tensor(inputs[place], entry, rows, part)
            check_shape(entry, (rows, *values.shape[1:]), (rows, dim))
            if values.dtype != torch.float32:  # which would be cast silently here
                raise InvalidInput(f"input {described(entry)} of the dense program is {values.dtype}, not float32")
            tensor[:, column : column + dim] = values
        return tensor

    def _tensor(self, given: ProgramTensor, entry: ProgramInput, rows: int, part: slice) -> Tensor:
        index = given.row_index
        if (has := len(given.values if index is None else index)) != rows:
            raise InvalidInput(f"input {described(entry)} of the dense program has {has} rows; the batch has {rows}")
        tensor = self._there(given.values[part] if index is None else given.values)
        if index is not None:
            tensor = tensor.index_select(0, self._there(index[part]))
        return tensor if rows >= MIN_ROWS else torch.cat([tensor] * MIN_ROWS)

    def _there(self, values: NDArray[Any]) -> Tensor:
        # torch takes no read-only memory.
        return torch.from_numpy(values if values.flags.writeable else values.copy()).to(self._target)

    def __repr__(self) -> str:
        return f"<TorchProgram {len(self._inputs)} inputs, {len(self.outputs)} outputs, on {self.device}>"


def write_script(version_dir: Path, manifest: Manifest, short: bool, path: str) -> list[ScriptInput]:
    """Write the script of a version's program, as `TorchProgram.load` has it, to a file; return what it takes.

    Args:
        short: Whether it is to run in bfloat16.

    Raises:
        Exception: Of any root: there is none, or the version cannot be loaded.
    """
    entry = manifest.program
    assert entry is not None, "a version of tables alone has no program"
    module, inputs = _checked(entry.read(version_dir), version_dir / entry.path, manifest, "cpu", short=short)
    script, why = scripted(module, inputs, torch.device("cpu"))
    if why:
        raise ValueError(why)
    save_script(script, path, inputs)
    return [
        ScriptInput(str(value.dtype).removeprefix("torch."), tuple(int(size) for size in value.shape[1:]))
        for value in inputs
    ]


def _made_elsewhere(
    maker: ScriptMaker, version_dir: Path, manifest: Manifest, *, short: bool
) -> Callable[..., Any] | None:
    """Return the script that another process makes of a program; None: it did not, and the log says why."""
    try:
        with maker.make(version_dir, manifest, short=short) as made:
            script = load_script(made.path)
        like = [torch.empty((0, *sizes), dtype=getattr(torch, dtype), device="meta") for dtype, sizes in made.inputs]
        prepare(script, like)
        return script
    except Exception as exc:  # of any root: what is wrong with the program is told by who loads it here
        why = str(exc) if isinstance(exc, RingpullError) else last_words(exc)
        logger.warning(
            "%s/%s is loaded beside requests, which may wait for it: %s", manifest.model, manifest.version, why
        )
        return None


def _checked(
    content: bytes, file: Path, manifest: Manifest, device: str, *, short: bool
) -> tuple[fx.GraphModule, list[Any]]:
    """Return a program as a module on a device, and what torch knows of its inputs, checked against the manifest."""
    program = _program_of(content, file)
    _check_inputs(file, program, manifest)
    _check_outputs(file, program, manifest)
    target = torch.device(device)
    with warnings.catch_warnings(action="ignore"):  # torch warns of its own internals here
        module = _module_of(move_to_device_pass(program, target))
        if short:
            module = in_bfloat16(module)
        if target.type == "cpu":
            module = with_cheaper_operators(module)
    return module, _user_inputs(program)


def _module_of(program: ExportedProgram) -> fx.GraphModule:
    """Return a program as a module of its operators alone.

    What torch makes of a program also checks sizes: by guards, whose making takes the square of the inputs, or by a
    hook of Python's in each run, which no script can hold. Rows and widths are checked here, where they come in.
    """
    unguarded = "check_guards" in inspect.signature(program.module).parameters
    whole: Any = program.module(check_guards=False) if unguarded else program.module()
    graph = fx.Graph()
    graph.output(graph.graph_copy(whole.graph, {}))
    return fx.GraphModule(whole, graph)


def _packed(file: Path, module: fx.GraphModule, manifest: Manifest) -> PackedModule | None:
    """Return a program with its inputs packed; None: it takes them as it did, and the log says why if it tried."""
    try:
        return packed_module(module, lookup_places(manifest))
    except MemoryError:
        raise
    except Exception as exc:  # of any root; the program runs as it is
        logger.warning("%s: its inputs are not packed: %s", file, last_words(exc))
        return None


def _let_go_of(tensors: Sequence[Tensor]) -> None:
    """Free the memory of tensors that are never used again.

    It is called wherever a program is collected, in the midst of a trace for one, whose modes are not to see it: not
    the change of the grad mode either, which a trace records, so modes are off first.
    """
    with _disable_current_modes(), torch.no_grad():
        for tensor in tensors:
            tensor.set_(torch.UntypedStorage())  # type: ignore[no-untyped-call]


def read_program(version_dir: Path, entry: FileEntry) -> ExportedProgram:
    """Read an exported program after verifying its bytes, and that reading them runs nothing.

    Raises:
        CorruptData: The bytes are not those of the manifest, no program that this torch reads, or an archive of which
            torch might run something (`program_check`).
    """
    return _program_of(entry.read(version_dir), version_dir / entry.path)


def _program_of(content: bytes, file: Path) -> ExportedProgram:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise CorruptData(f"{file}: not a program that torch {torch.__version__} reads: no zip archive")
    check_program(content, str(file))  # of the same bytes that torch gets
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of its own internals here
            return torch.export.load(io.BytesIO(content))
    except MemoryError:
        raise
    except Exception as exc:  # torch raises errors of many roots for bytes it does not understand
        raise CorruptData(
            f"{file}: not a program that torch {torch.__version__} reads: {type(exc).__name__}: {exc}"
        ) from exc


def _user_inputs(program: ExportedProgram) -> list[Any]:
    """Return what torch knows of each input, in order: a tensor without memory, its number of rows a symbol."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    specs = program.graph_signature.input_specs
    return [values[spec.arg.name] for spec in specs if spec.kind is InputKind.USER_INPUT]


def _check_inputs(file: Path, program: ExportedProgram, manifest: Manifest) -> None:
    values = _user_inputs(program)
    if len(values) != len(manifest.inputs):
        raise CorruptData(f"{file}: takes {len(values)} inputs; the manifest names {len(manifest.inputs)}")
    tables = manifest.tables_by_name()
    for value, entry in zip(values, manifest.inputs, strict=True):
        if not isinstance(value, Tensor) or value.dim() == 0:
            raise CorruptData(f"{file}: its input for {described(entry)} is not a tensor with rows")
        if entry.lookup is None:
            continue
        lookup = manifest.lookups[entry.lookup]
        dim = tables[lookup.table].spec.dim
        ranks = (2, 3) if lookup.pooling is Pooling.NONE else (2,)
        if value.dtype != torch.float32 or value.dim() not in ranks or value.shape[-1] != dim:
            shape = ", ".join(str(size) if isinstance(size, int) else "rows" for size in value.shape)
            raise CorruptData(
                f"{file}: its input for {described(entry)} is {value.dtype} ({shape}), but table {lookup.table} has"
                f" float32 rows of {dim} numbers"
            )


def _check_outputs(file: Path, program: ExportedProgram, manifest: Manifest) -> None:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = [spec.arg.name for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    shapes = [tuple(values[name].shape[1:]) for name in names]
    expected = [output.shape for output in manifest.outputs]
    if shapes != expected:
        raise CorruptData(f"{file}: gives outputs of the shapes {shapes} per row; the manifest says {expected}")

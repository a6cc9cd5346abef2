"""The dense program of onnxruntime: a graph of ONNX, on CUDA where this onnxruntime has it.

Loading trusts nothing: the file's checksum, what it holds (`onnx_check`), the number, types and widths of its inputs
against the manifest's tables, and its outputs are checked before the first request. It runs for any number of rows; its
first dimension is the row, in inputs and outputs. Rows are independent of each other: batches mix requests. So on the
CPU a large batch is run in parts, each small enough that what its layers hand on stays in the cache (a DLRM of 26
tables in one thread: 4,096 rows at 85,500 a second in one run, at 108,100 in sixteen).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ringpull.inference.model.dense_program import ProgramTensor, RuntimeFacts, described
from ringpull.inference.model.flat_inputs import FlatInputs
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.onnx_check import CheckedGraph, check_graph
from ringpull.inference.model.onnx_inputs import GraphInput, as_float32, graph_inputs
from ringpull.inference.model.onnx_packing import PackedInput, packed_graph
from ringpull.inference.model.onnx_session import device_of, open_session
from ringpull.inference.model.packed_inputs import check_shape, lookup_places, single_places
from ringpull.inference.model.part_threads import PartThreads, run_parts
from ringpull.inference.model.program_errors import last_words
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import Pooling

FILE: Final = "dense.onnx"
DATA_FILE: Final = "dense.onnx.data"
"""File of weights that are too large for the graph."""

CPU_ROWS: Final = 256
"""Largest number of rows of one run on the CPU."""
_ROWS_TRIED: Final = 3
"""Rows of the run that compares a graph with packed inputs to the one in its file."""
_LENGTHS_TRIED: Final = (8, 1)
"""Sizes of what the graph leaves open there, one after the other until it runs: sequences, and what is one number."""

_LOG: Final = logging.getLogger(__name__)


class OnnxProgram:
    """A loaded graph of ONNX (`DenseProgram`). One thread at a time may call `run`."""

    writer: Final = ""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: tuple[GraphInput, ...],
        manifest: Manifest,
        threads: int | None,
        *,
        squeezes: bool,
        packed: Sequence[PackedInput] = (),
        parts: PartThreads | None = None,
    ) -> None:
        """Use `OnnxProgram.load`.

        Args:
            inputs: Inputs of the graph as it is in its file.
            packed: Inputs that the session has in place of some of these.
            parts: Threads that run parts of a batch side by side, on the CPU; None: there are none.
        """
        self.device, provider = device_of(session)
        self.outputs = manifest.outputs
        self._parts = parts if self.device == "cpu" else None
        self.runtime: Final = RuntimeFacts(
            name="onnxruntime",
            version=ort.__version__,
            provider=provider,
            threads=threads,
            max_threads=0 if self._parts is None else self._parts.max_threads,
        )
        self._session = session
        self._inputs = inputs
        self._entries = manifest.inputs
        self._least = 2 if squeezes else 1
        """Rows that the graph is given at least: one that drops dimensions of size 1 would drop a single row's."""
        self._names = [each.name for each in session.get_outputs()]
        self._packed = packed
        self._single = single_places(len(inputs), packed)
        self.takes_flat: Final = bool(packed)
        """Whether `FlatInputs` cost it less than as many tensors."""

    @classmethod
    def load(
        cls,
        version_dir: Path,
        manifest: Manifest,
        device: str | None = None,
        *,
        threads: int | None = None,
        parts: PartThreads | None = None,
    ) -> OnnxProgram:
        """Load the program of a version onto `device` (default: CUDA where onnxruntime has it, else the CPU).

        Args:
            threads: CPU threads that onnxruntime computes with; None: as many as it takes by itself.
            parts: Threads that run parts of a batch side by side, on the CPU; None: there are none.

        Raises:
            CorruptData: The file is damaged, is nothing that this onnxruntime runs, or its inputs or outputs are not
                those that the manifest names (as when its widths disagree with its tables).
            InvalidInput: There is no such device.
        """
        entry = manifest.program
        assert entry is not None, "a version of tables alone has no program to load"
        content, file = entry.read(version_dir), version_dir / entry.path
        graph = check_graph(content, str(file), {each.path: each.bytes for each in manifest.program_data})
        _check_outputs(file, graph, manifest)
        try:
            session = open_session(content, version_dir, graph.external, device, threads)
        except (MemoryError, InvalidInput):
            raise
        except Exception as exc:  # onnxruntime raises errors of many roots
            raise CorruptData(f"{file}: {_not_run(graph)} ({last_words(exc)})") from exc
        try:
            inputs = graph_inputs(session.get_inputs())
        except InvalidInput as exc:
            raise CorruptData(f"{file}: {exc}") from exc
        _check_inputs(file, session, inputs, manifest)
        whole = cls(session, inputs, manifest, threads, squeezes=graph.squeezes, parts=parts)
        if whole.device != "cpu":
            return whole
        try:
            packed = packed_graph(content, inputs, lookup_places(manifest), sum(each.nbytes for each in graph.external))
            if packed is None:
                return whole
            session = open_session(packed.content, version_dir, graph.external, device, threads)
            made = cls(session, inputs, manifest, threads, squeezes=graph.squeezes, packed=packed.inputs, parts=parts)
            return made if _agree(file, made, whole, manifest) else whole
        except Exception as exc:  # of any root; the graph runs as it is
            _LOG.warning("%s: its inputs are not packed: %s", file, last_words(exc))
            return whole

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        """Run the program on a batch; see `DenseProgram.run`."""
        given = self._given_packed(inputs, rows) if self._packed else self.given(inputs, rows)
        filled = max(rows, self._least)
        if filled > rows:
            given = {name: np.concatenate([values, values]) for name, values in given.items()}
        found = {}
        for output, whole in zip(self.outputs, self._run(given, filled), strict=True):
            result = whole[:rows] if whole.shape[:1] == (filled,) else whole
            if result.shape != (rows, *output.shape):
                raise InvalidInput(
                    f"output {output.name} of the dense program has the shape {result.shape} for {rows} rows; it must"
                    f" be {(rows, *output.shape)}"
                )
            found[output.name] = as_float32(output.name, result)
        return found

    def _run(self, given: Mapping[str, NDArray[Any]], rows: int) -> list[NDArray[Any]]:
        def run(part: slice) -> list[NDArray[Any]]:
            own = {name: values[part] for name, values in given.items()}
            return self._session.run(self._names, own)  # type: ignore[no-any-return]

        found = run_parts(run, rows, CPU_ROWS if self.device == "cpu" else rows, self._parts)
        if len(found) == 1:
            return found[0]
        return [np.concatenate(each) for each in zip(*found, strict=True)]

    def given(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[Any]]:
        """Return what the graph of the file is given for a batch, by the names of its inputs."""
        self._check(inputs, rows)
        return {
            entry.name: self._values(each, place, rows)
            for place, (each, entry) in enumerate(zip(inputs, self._inputs, strict=True))
        }

    def _given_packed(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[Any]]:
        """Return what the session is given for a batch, some of whose inputs are packed."""
        self._check(inputs, rows)
        given = {self._inputs[place].name: self._values(inputs[place], place, rows) for place in self._single}
        for each in self._packed:
            values = None
            if isinstance(inputs, FlatInputs) and inputs.rows == rows:
                values = inputs.side_by_side(each.places, each.dims)
            if values is None:
                values = self._side_by_side(inputs, each, rows)
            given[each.name] = values
        return given

    def _side_by_side(self, inputs: Sequence[ProgramTensor], packed: PackedInput, rows: int) -> NDArray[Any]:
        """Return the values of a packed input. Widths are checked here: the session sees only what they add up to."""
        columns = []
        for place, dim in zip(packed.places.tolist(), packed.dims.tolist(), strict=True):
            values = self._values(inputs[place], place, rows)
            check_shape(self._entries[place], values.shape, (rows, dim))
            columns.append(values)
        return np.concatenate(columns, axis=1)

    def _check(self, inputs: Sequence[ProgramTensor], rows: int) -> None:
        if len(inputs) != len(self._inputs) or rows < 1:
            raise InvalidInput(
                f"{len(inputs)} inputs of {rows} rows; the dense program takes {len(self._inputs)} of 1 or more"
            )

    def _values(self, given: ProgramTensor, place: int, rows: int) -> NDArray[Any]:
        values = self._inputs[place].fit(given.values)
        if given.row_index is not None:
            values = values[given.row_index]
        if len(values) != rows:
            raise InvalidInput(
                f"input {described(self._entries[place])} of the dense program has {len(values)} rows; the batch has"
                f" {rows}"
            )
        return values

    def __repr__(self) -> str:
        return f"<OnnxProgram {len(self._inputs)} inputs, {len(self.outputs)} outputs, on {self.device}>"


def _agree(file: Path, made: OnnxProgram, whole: OnnxProgram, manifest: Manifest) -> bool:
    """Whether two programs of the same inputs give the same bits for some rows; logs why not.

    The graph as it is in its file says which inputs it takes: where it runs, the other has to.
    """
    refusal = ""
    for length in _LENGTHS_TRIED:
        tensors = _made_up(whole, manifest, length)
        try:
            expected = whole.run(tensors, _ROWS_TRIED)
        except Exception as exc:  # of any root: a graph may want other sizes, or other ids
            refusal = last_words(exc)
            continue
        found = made.run(tensors, _ROWS_TRIED)
        if all(found[name].tobytes() == values.tobytes() for name, values in expected.items()):
            return True
        _LOG.warning("%s: its inputs are not packed: with packed inputs its scores differ", file)
        return False
    _LOG.info("%s: its inputs are not packed: scores with and without could not be compared: %s", file, refusal)
    return False


def _made_up(program: OnnxProgram, manifest: Manifest, length: int) -> list[ProgramTensor]:
    """Return inputs as a graph says that it takes them: random numbers, of ids and other integers zeros.

    Args:
        length: Size of dimensions, but for the rows, that the graph leaves open.
    """
    random, tables = np.random.default_rng(0), manifest.tables_by_name()
    tensors = []
    for each, value, entry in zip(program._inputs, program._session.get_inputs(), manifest.inputs, strict=True):
        shape = [_ROWS_TRIED, *(size if isinstance(size, int) else length for size in value.shape[1:])]
        if entry.lookup is not None:
            shape[-1] = tables[manifest.lookups[entry.lookup].table].spec.dim
        floats = entry.lookup is not None or each.dtype.kind == "f"
        tensors.append(
            ProgramTensor(random.standard_normal(shape).astype(np.float32) if floats else np.zeros(shape, np.int64))
        )
    return tensors


def _not_run(graph: CheckedGraph) -> str:
    sets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in graph.opsets.items())
    return (
        f"not a program that onnxruntime {ort.__version__} runs: it is of IR version {graph.ir_version} and the"
        f" operator sets {sets}, written by {graph.producer or 'nobody who says so'}; install a newer onnxruntime where"
        " it is served, or convert it with operators of an older set"
    )


def _check_inputs(file: Path, session: ort.InferenceSession, inputs: Sequence[GraphInput], manifest: Manifest) -> None:
    if len(inputs) != len(manifest.inputs):
        raise CorruptData(f"{file}: takes {len(inputs)} inputs; the manifest names {len(manifest.inputs)}")
    tables = manifest.tables_by_name()
    for each, value, entry in zip(inputs, session.get_inputs(), manifest.inputs, strict=True):
        what = f"{file}: its input {each.name!r} for {described(entry)}"
        if not value.shape or isinstance(value.shape[0], int):
            raise CorruptData(f"{what} has the shape {value.shape}; its first dimension must be any number of rows")
        if entry.lookup is None:
            continue
        lookup = manifest.lookups[entry.lookup]
        dim = tables[lookup.table].spec.dim
        ranks = (2, 3) if lookup.pooling is Pooling.NONE else (2,)
        if each.dtype.kind != "f" or each.rank not in ranks or each.last not in (dim, None):
            raise CorruptData(
                f"{what} is {value.type} {value.shape}, but table {lookup.table} has float32 rows of {dim} numbers"
            )


def _check_outputs(file: Path, graph: CheckedGraph, manifest: Manifest) -> None:
    if len(graph.outputs) != len(manifest.outputs):
        raise CorruptData(f"{file}: gives {len(graph.outputs)} outputs; the manifest names {len(manifest.outputs)}")
    for value, output in zip(graph.outputs, manifest.outputs, strict=True):
        if value.kind != "tensor" or value.elem_type == 8:
            kind = "a tensor of strings" if value.kind == "tensor" else f"a {value.kind}"
            raise CorruptData(
                f"{file}: its output {value.name!r} is {kind}; scores are tensors of numbers: leave it out, or"
                " convert the model without ZipMap (zipmap=False)"
            )
        said = None if value.shape is None else value.shape[1:]
        fits = said is None or (
            len(said) == len(output.shape)
            and all(size in (None, own) for size, own in zip(said, output.shape, strict=True))
        )
        if not fits or (value.shape is not None and (not value.shape or value.shape[0] is not None)):
            raise CorruptData(
                f"{file}: its output {value.name!r} has the shape {value.shape}; the manifest says (rows,"
                f" *{output.shape})"
            )

"""`export_model`: from a torch module to a version folder that serves.

    module -> graph (capture) -> tables + dense graph (cut) -> look-ups in keys (serving) -> files -> self-check ->
    renamed

The version is written beside its place under a hidden name and renamed when its self-check has passed: a failed
export leaves nothing behind, and no half version is ever seen.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from inference.arguments import Argument
from inference.export.capture import capture, trace
from inference.export.cut import Cut, cut
from inference.export.examples import TRACED_ROWS, bind, example
from inference.export.keys import Keys, RowKeys
from inference.export.probe import Probe
from inference.export.report import ExportReport, TableReport
from inference.export.rows import make_rows
from inference.export.selfcheck import SelfCheck
from inference.export.serving import Serving, plan_serving
from inference.export.tables import TableOptions, default_of, write_table
from inference.kinds import Sequence
from inference.manifest import FileEntry, Manifest, ProgramInput, ProgramOutput, TableEntry
from inference.schema import Schema
from ps.errors import ExportError, InvalidInput
from ps.spec import Pooling, check_name

SCHEMA_FILE = "schema.json"
PROGRAM_FILE = "dense.pt2"


def export_model(
    module: nn.Module,
    schema: Schema,
    out_dir: str | Path,
    version: int,
    keys: Mapping[str, Keys] | None = None,
    *,
    name: str | None = None,
    tables: Mapping[str, TableOptions] | None = None,
    check_rows: int = 64,
    quiet: bool = False,
) -> ExportReport:
    """Split a module into tables and a dense program, and write them as `out_dir/VERSION/`.

    An `nn.Embedding` or `nn.EmbeddingBag` becomes a table, called by its module path, when its index is an argument
    of the forward after reshape, cast or the addition of a constant. The others stay in the dense program up to 64
    MB.

    Args:
        module: Its forward's parameters are arguments of the schema (`Schema.argument_names`), by name. It is run in
            evaluation mode, and left in the mode it was in.
        schema: Of its features. out_dir: The model's folder. version: From 1; must not exist yet. keys: By table, the
        raw id of each row, or the features' Vocabulary: serving then looks up raw ids. Tables not named
            are keyed by row number.
        name: The model's name; default: the name of `out_dir`.
        tables: By table, how it is to be deployed.
        check_rows: Made-up rows for the self-check; 0 skips it.
        quiet: Print no report and no progress.

    Raises:
        InvalidInput: The name, the version or an option is not valid. ExportError: The module cannot be split, a key
        is wrong, or the self-check fails. The message names module or table
            and reason.
    """
    folder = Path(out_dir)
    name = folder.resolve().name if name is None else name
    check_name("model", name)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise InvalidInput(f"version is {version!r}; it must be a whole number from 1")
    target = folder / str(version)
    if target.exists():
        raise ExportError(f"{target} exists; a version is never written over: choose another, or delete it")
    options = dict(tables or {})
    arguments = bind(module, schema)
    device = _check_weights(module)
    parts, outputs = _split(module, schema, arguments, device)
    row_keys = _read_keys(parts, keys or {}, options)
    zero_defaults = {
        each: _is_zeros(default_of(options.get(each, TableOptions()), parts.tables[each], row_keys[each]))
        for each in row_keys
    }
    serving = plan_serving(parts, schema, arguments, row_keys, zero_defaults)
    program = program_of(parts, outputs, schema, arguments, device)

    console = None if quiet else Console()
    hidden = folder / f".{version}.{os.getpid()}"
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        hidden.mkdir(parents=True)
        entries = [
            write_table(hidden, weight, row_keys[table], options.get(table, TableOptions()), console)
            for table, weight in parts.tables.items()
        ]
        manifest = _write(hidden, name, version, serving, program, tuple(entries), parts, outputs)
        check = None
        if check_rows > 0:
            trained, served = make_rows(schema, parts, row_keys, check_rows)
            made = schema.arguments(trained, list(arguments))
            check = SelfCheck(hidden, manifest, serving.schema, parts).run(module, trained, served, made)
        hidden.rename(target)
    except OSError as exc:
        raise ExportError(f"{target}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    report = ExportReport(
        path=target,
        manifest=manifest,
        tables=tuple(_table_report(entry, parts, row_keys[entry.spec.name], options) for entry in entries),
        kept=parts.kept,
        check=check,
    )
    if console is not None:
        report.print(console)
    return report


def _check_weights(module: nn.Module) -> torch.device:
    """Return the device of the module's weights, after checking that they are on one and that no look-up changes them."""
    for path, part in module.named_modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None:
            raise ExportError(
                f"embedding {path or type(part).__name__}: max_norm changes rows while they are read, which a served table"
                " does not do; renormalise the weight once and set max_norm to None"
            )
    devices = {tensor.device for tensor in [*module.parameters(), *module.buffers()]}
    if len(devices) > 1 or any(device.type == "meta" for device in devices):
        raise ExportError(
            f"{type(module).__name__}: its weights are on {', '.join(sorted(map(str, devices)))}; they must be on one device"
            " that holds them"
        )
    return devices.pop() if devices else torch.device("cpu")


def _split(
    module: nn.Module, schema: Schema, arguments: Mapping[str, Argument], device: torch.device
) -> tuple[Cut, tuple[ProgramOutput, ...]]:
    examples = example(schema, arguments, TRACED_ROWS, lambda argument, column: 0, device)
    captured = capture(module, examples)
    return cut(captured, Probe(captured, schema, arguments, device)), captured.outputs


def _read_keys(parts: Cut, keys: Mapping[str, Keys], options: Mapping[str, TableOptions]) -> dict[str, RowKeys]:
    for table in [*keys, *options]:
        if table not in parts.tables:
            kept = next(
                (
                    f"; it stays in the dense program, because {each.reason}"
                    for each in parts.kept
                    if each.name == table
                ),
                "",
            )
            known = ", ".join(parts.tables) or "none"
            raise ExportError(
                f"keys or tables name {table!r}, which is no table of this model{kept}. Its tables: {known}"
            )
    return {
        table: RowKeys.read(
            table, len(weight), keys.get(table), unknown_is_row_0=options.get(table, TableOptions()).default is None
        )
        for table, weight in parts.tables.items()
    }


def _is_zeros(default: object) -> bool:
    return default == "zeros" if isinstance(default, str) else not np.any(default)  # type: ignore[call-overload]


def program_of(
    parts: Cut,
    outputs: tuple[ProgramOutput, ...],
    schema: Schema,
    arguments: Mapping[str, Argument],
    device: torch.device,
) -> ExportedProgram:
    """Trace the cut graph, for any number of rows from 2.

    Raises:
        ExportError: It only works for a certain number of rows.
    """
    examples = example(schema, arguments, TRACED_ROWS, lambda argument, column: 0, device)
    inputs = []
    for use in parts.uses:
        dim, feature = parts.tables[use.table].shape[1], schema[use.feature]
        unpooled = isinstance(feature, Sequence) and use.pooling is Pooling.NONE
        shape = (TRACED_ROWS, feature.length, dim) if unpooled else (TRACED_ROWS, dim)
        inputs.append(torch.zeros(shape, device=device))
    inputs += [examples[name] for name in parts.arguments]
    with torch.no_grad():
        program = trace(parts.program, tuple(inputs), {})
    names = [*(f"the look-up of {use.feature}" for use in parts.uses), *parts.arguments]
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"][-len(inputs) :]
    for name, value in zip(names, values, strict=True):
        if isinstance(value.shape[0], int):
            raise ExportError(
                f"the model only works for batches of {TRACED_ROWS} rows, as it was traced, because of {name}: it must not"
                " build on the number of rows as a constant"
            )
    return program if device.type == "cpu" else move_to_device_pass(program, "cpu")


def _write(
    hidden: Path,
    name: str,
    version: int,
    serving: Serving,
    program: ExportedProgram,
    entries: tuple[TableEntry, ...],
    parts: Cut,
    outputs: tuple[ProgramOutput, ...],
) -> Manifest:
    (hidden / SCHEMA_FILE).write_text(serving.schema.to_json(), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own internals here
        torch.export.save(program, hidden / PROGRAM_FILE)
    inputs = [
        *(ProgramInput(kind="lookup", lookup=number) for number in range(len(serving.lookups))),
        *(ProgramInput(kind="argument", argument=argument) for argument in parts.arguments),
    ]
    manifest = Manifest(
        model=name,
        version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        schema=FileEntry.of(hidden, SCHEMA_FILE),
        program=FileEntry.of(hidden, PROGRAM_FILE),
        tables=entries,
        lookups=serving.lookups,
        inputs=tuple(inputs),
        outputs=outputs,
    )
    manifest.save(hidden)
    return manifest


def _table_report(entry: TableEntry, parts: Cut, keys: RowKeys, options: Mapping[str, TableOptions]) -> TableReport:
    uses = [use for use in parts.uses if use.table == entry.spec.name]
    default = options.get(entry.spec.name, TableOptions()).default
    if default is None:
        described = "row 0" if keys.vocabulary else "zeros"
    else:
        described = default if isinstance(default, str) else "given"
    return TableReport(
        name=entry.spec.name,
        rows=entry.rows,
        dim=entry.spec.dim,
        bytes=entry.bytes,
        keyed_by=keys.described,
        features=tuple(dict.fromkeys(use.feature for use in uses)),
        poolings=tuple(dict.fromkeys(use.pooling.value for use in uses)),
        default=described,
    )

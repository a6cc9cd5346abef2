"""The dense program's file: the cut graph traced again, for any number of rows from 2."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from ringpull.inference.export.capture import trace
from ringpull.inference.export.cut import Cut
from ringpull.inference.export.diagnosis.quiet import quiet_torch
from ringpull.inference.export.examples import TRACED_ROWS, example
from ringpull.inference.schema.arguments import Argument
from ringpull.inference.schema.kinds import IdSequence
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import Pooling


def write_program(
    file: Path, cut: Cut, schema: Schema, arguments: Mapping[str, Argument], device: torch.device
) -> None:
    """Trace the graph that is left of a model and write it, for the CPU.

    Raises:
        ExportError: It only works for a certain number of rows.
        OSError: The file cannot be written.
    """
    inputs = [_vectors(cut, schema, place).to(device) for place in range(len(cut.uses))]
    examples = example(schema, arguments, TRACED_ROWS, lambda argument, column: 0, device)
    inputs += [examples[name] for name in cut.arguments]
    with torch.no_grad():
        program = trace(cut.program, tuple(inputs), "the dense program")
    names = [*(f"the look-up of {use.feature}" for use in cut.uses), *cut.arguments]
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"][-len(inputs) :]
    for name, value in zip(names, values, strict=True):
        if isinstance(value.shape[0], int):
            raise ExportError(
                f"the model only works for batches of {TRACED_ROWS} rows, as it was traced, because of {name}: it must"
                " not build on the number of rows as a constant"
            )
    _drop_addresses(program)
    # To memory first: torch's own writer ends the process where a disk is full.
    archive = io.BytesIO()
    with quiet_torch():
        torch.export.save(program if device.type == "cpu" else move_to_device_pass(program, "cpu"), archive)
    file.write_bytes(archive.getbuffer())


def _drop_addresses(program: torch.export.ExportedProgram) -> None:
    """Drop the notes of which graph in memory each node came from: the same program is to be the same bytes, so that
    heads know that they have it already."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("from_node", None)


def _vectors(cut: Cut, schema: Schema, place: int) -> Tensor:
    """Return made-up vectors for one look-up: (B, D), or (B, L, D) for an unpooled sequence."""
    use = cut.uses[place]
    dim, feature = cut.tables[use.table].shape[1], schema[use.feature]
    if isinstance(feature, IdSequence) and use.pooling is Pooling.NONE:
        return torch.zeros(TRACED_ROWS, feature.length, dim)
    return torch.zeros(TRACED_ROWS, dim)

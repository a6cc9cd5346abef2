"""Running the user's module: as it was trained, or with the rows that rounded tables will give it.

Tables of a short row type hold other numbers than the module. To tell that difference from a fault of the export, the
module is run with the rounded rows: `ServedRows` puts them in the place of its weights, row by row as they are asked
for, without touching the module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ringpull.inference.export.calls.call import Call
from ringpull.inference.export.capture import evaluating, quiet_torch
from ringpull.inference.export.operators import aten
from ringpull.inference.export.tables import TablePlan
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.ps.errors import ExportError, RingpullError
from ringpull.ps.spec import Float32Array

Outputs = dict[str, Float32Array]
"""Outputs by name; the first dimension is the row."""

_BAGS: Final = (aten._embedding_bag.default, aten._embedding_bag_forward_only.default)
_PADDING_IDX: Final = 8
"""Place of `padding_idx` among the arguments of a bag's operator, whose value is -1 when there is none."""


def ask_module(
    call: Call,
    arguments: Mapping[str, NDArray[Any]],
    outputs: Iterable[ProgramOutput],
    *,
    doing: str = "self-check",
    rows_described: str = "made-up rows",
) -> Outputs:
    """Return what the user's module gives, in evaluation mode, for the schema's arguments.

    Raises:
        ExportError: The module fails; `doing` and `rows_described` say at what, in the message.
    """
    device = next((each.device for each in call.owner.parameters()), torch.device("cpu"))
    tensors = {name: torch.from_numpy(np.array(values)).to(device) for name, values in arguments.items()}
    with evaluating(call.module), quiet_torch():
        try:
            leaves = tree_leaves(call.run(tensors))
        except RingpullError:  # ours, of rows that cannot be rounded
            raise
        except Exception as exc:  # the module's own error, on arguments that the schema says are right
            raise ExportError(
                f"{doing}: {call.described} fails on {rows_described}: {type(exc).__name__}: {exc}. If they"
                " are not valid for it, skip the check with check_rows=0"
            ) from exc
    pairs = zip(outputs, leaves, strict=True)
    return {output.name: leaf.to("cpu", torch.float32).numpy() for output, leaf in pairs}


class ServedRows(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which embeddings that became tables give the rows as those hold them."""

    def __init__(self, plans: Iterable[TablePlan]) -> None:
        """Prepare; only tables whose row type rounds take part."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._plans = {plan.weight.data_ptr(): plan for plan in plans if plan.rounds}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten.embedding.default or func in _BAGS:
            plan = self._plans.get(args[0].data_ptr())
            if plan is not None and args[0].shape == plan.weight.shape and args[1].numel():
                args = _with_served_rows(plan, args, bag=func in _BAGS)
        return func(*args, **(kwargs or {}))


def _with_served_rows(plan: TablePlan, args: tuple[Any, ...], *, bag: bool) -> tuple[Any, ...]:
    """Return an embedding operator's arguments with a weight of only the rows asked for, and ids that count those."""
    ids: Tensor = args[1]
    rows, places = torch.unique(ids, return_inverse=True)
    weight = torch.from_numpy(plan.served_rows(rows.cpu().numpy())).to(ids.device)
    rest = list(args[2:])
    if bag and len(args) > _PADDING_IDX:
        found = (rows == args[_PADDING_IDX]).nonzero()
        rest[_PADDING_IDX - 2] = int(found[0]) if len(found) else -1
    return (weight, places.to(ids.dtype), *rest)

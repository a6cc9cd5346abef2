"""The library's own module as the truth: what it answers, which of its weights it looks up by ids of the request, and
what it would answer if a row that it does not have were zeros, as a table's default vector is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.zoo_libraries.model import ZooModel

COMPUTED = "computed"
"""What stands before the shape of a tensor that is looked up, and is no weight of the module but made of such."""
aten = torch.ops.aten
BAGS = (aten._embedding_bag.default, aten._embedding_bag_forward_only.default)
BIG = 1000
"""Rows from which a tensor that is indexed counts as an embedding of ids: those of places in a sequence have few."""


def answers(model: ZooModel, module: nn.Module, arguments: Mapping[str, Tensor]) -> list[NDArray[np.float32]]:
    """Return the module's outputs, in their order."""
    with torch.no_grad():
        return [each.detach().float().numpy() for each in tree_leaves(model.ask(module, arguments))]


class LookUps(TorchDispatchMode):
    """A context that notes the indices with which weights are looked up."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        named = [*module.named_parameters(), *module.named_buffers()]
        self._names = {tensor.data_ptr(): name.removesuffix(".weight") for name, tensor in named if tensor.numel()}
        self.found: dict[str, list[Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        source, index = _read(func, args)
        if source is not None and index is not None and source.shape[0] >= BIG and source.is_floating_point():
            name = self._names.get(source.data_ptr(), f"{COMPUTED} {tuple(source.shape)}")
            self.found.setdefault(name, []).append(index.clone())
        return func(*args, **(kwargs or {}))


def _read(func: Any, args: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return the tensor that an operator looks rows up in, and their index."""
    if func is aten.embedding.default or func in BAGS:
        return args[0], args[1]
    if func is aten.index.Tensor and len(args[1]) >= 1 and args[1][0] is not None and args[0].dim() <= 2:
        return args[0], args[1][0]
    if func in (aten.index_select.default, aten.gather.default) and args[1] == 0:
        return args[0], args[2]
    return None, None


def looked_up_by_ids(
    model: ZooModel, module: nn.Module, some: Mapping[str, Tensor], others: Mapping[str, Tensor]
) -> list[str]:
    """Return the names of weights whose indices differ between two sets of rows."""
    seen = []
    for arguments in (some, others):
        with LookUps(module) as looked:
            answers(model, module, arguments)
        seen.append(looked.found)
    return [
        name
        for name, indices in seen[0].items()
        if any(
            a.shape != b.shape or not torch.equal(a, b) for a, b in zip(indices, seen[1].get(name, []), strict=False)
        )
    ]


class UnknownAsZeros(TorchDispatchMode):
    """A context in which a row that an embedding does not have is zeros; it notes which embeddings were so asked."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._names = {tensor.data_ptr(): name.removesuffix(".weight") for name, tensor in module.named_parameters()}
        self.asked: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.embedding.default or func in BAGS:
            weight, index = args[0], args[1]
            rows = weight.shape[0]
            outside = (index < 0) | (index >= rows)
            if bool(outside.any()):
                self.asked.add(self._names.get(weight.data_ptr(), f"{COMPUTED} {tuple(weight.shape)}"))
                longer = torch.cat([weight, torch.zeros_like(weight[:1])])
                args = (longer, torch.where(outside, rows, index), *args[2:])
        return func(*args, **(kwargs or {}))

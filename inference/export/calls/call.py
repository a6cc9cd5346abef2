"""Calls of the user's module: from the schema's flat arguments to what its method takes.

A `Call` (`ringpull.inference.export.calls.bind` makes it) runs the method, as it stands, with tensors, dicts and lists
that are built of flat tensors. It is what is traced, so that all structure vanishes in the graph; and what an export is
checked against.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ringpull.inference.export.calls.sources import Entries, FlatTensors, Source
from ringpull.inference.schema.arguments import Argument
from ringpull.ps.errors import ExportError


class CallModule(nn.Module):
    """One method of the user's module, as a module that takes flat tensors by name."""

    PREFIX = "owner."
    """What stands before the names of the user's weights in this module's."""

    def __init__(self, owner: nn.Module, method: str, signature: inspect.Signature, given: dict[str, Source]) -> None:
        """Prepare a call of `owner.method` with sources by parameter."""
        super().__init__()
        self.owner = owner
        self._method = method
        self._signature = signature
        self._given = given

    def forward(self, flat: FlatTensors) -> Any:
        """Build what the method takes, and call it."""
        bound = inspect.BoundArguments(
            self._signature,
            {name: source.build(flat) for name, source in self._given.items()},
        )
        bound.apply_defaults()
        method = self.owner if self._method == "forward" else getattr(self.owner, self._method)
        return method(*bound.args, **bound.kwargs)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """How the user's module is called."""

    described: str
    """Class of the module, and method if not forward, as in `DLRM` or `BPR.predict`."""
    arguments: Mapping[str, Argument]
    """The schema's arguments that the call is made of, by name."""
    module: CallModule
    """Module whose forward takes these as one dict."""

    renamed: Mapping[str, Entries]
    """Keys that the exporter added to a dict, by which one: those must be read."""

    @property
    def owner(self) -> nn.Module:
        """The user's module."""
        return self.module.owner

    def run(self, tensors: Mapping[str, Tensor]) -> Any:
        """Call the method with the schema's arguments by name."""
        return self.module(dict(tensors))

    def check_read(self) -> None:
        """Check that every key which the exporter named was read in some call.

        Raises:
            ExportError: One was not.
        """
        for key, entries in self.renamed.items():
            if key not in entries.noted:
                raise ExportError(
                    f"arguments names {key!r}, which {self.described} neither takes nor reads; it reads"
                    f" {', '.join(sorted(map(str, entries.noted))) or 'nothing'}"
                )

    def path_of(self, name: str) -> str:
        """Return how a weight is called in the user's module, of its name in the call's."""
        return name.removeprefix(CallModule.PREFIX)

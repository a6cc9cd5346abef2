"""Calls of the user's module: from the schema's flat arguments to what its method takes.

A `Call` (`ringpull.inference.export.calls.bind` makes it) runs the method, as it stands, with tensors, dicts and lists
that are built of flat tensors. It is what is traced, so that all structure vanishes in the graph; and what an export is
checked against.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from torch import Tensor, nn

from ringpull.inference.export.calls.by_row import RowCounts, by_row
from ringpull.inference.export.calls.once import Kept, SparseWatch, answering, frames_of, proposed
from ringpull.inference.export.calls.ready import Traceable, restored, unchanged
from ringpull.inference.export.calls.results import results
from ringpull.inference.export.calls.sources import Entries, FlatTensors, Source
from ringpull.inference.schema.arguments import Argument
from ringpull.ps.errors import ExportError

_OWNER: Final = "owner."
"""What stands before the names of the user's weights in a call's."""


class CallModule(nn.Module):
    """One method of the user's module, as a module that takes flat tensors by name."""

    def __init__(
        self,
        owner: nn.Module,
        method: str,
        signature: inspect.Signature,
        given: dict[str, Source],
        counts: RowCounts,
        kept: tuple[Kept, ...],
        wanted: tuple[str, ...] | None = None,
    ) -> None:
        """Prepare a call of `owner.method`.

        Args:
            owner: The user's module.
            method: Name of the method.
            signature: The method's.
            given: Sources by parameter.
            counts: How arguments tell the number of rows.
            kept: What methods returned that were run once.
            wanted: Names of the outputs that are served; None: all.
        """
        super().__init__()
        self.owner = owner
        self._method = method
        self._signature = signature
        self.given = given
        self._counts = counts
        self._kept = kept
        self._wanted = wanted
        self.other_types = False
        """Whether ids side by side come in the other type than they usually do (`Stack`, `Matrix`)."""
        self.written: tuple[Tensor, ...] = ()
        """Weights and buffers that the method writes into, once a trace has told."""
        self.paths: dict[str, str] = {}
        """Names of the kept tensors, by what they are called here."""
        for number, each in enumerate(kept):
            for place, leaf in enumerate(each.leaves):
                if isinstance(leaf, Tensor):
                    name = f"once_{number}_{place}"
                    self.register_buffer(name, leaf, persistent=False)
                    self.paths[name] = each.places[place]

    def forward(self, flat: Mapping[str, Tensor]) -> Any:
        """Build what the method takes, and call it."""
        tensors = FlatTensors(flat, self.other_types)
        bound = inspect.BoundArguments(
            self._signature, {name: source.build(tensors) for name, source in self.given.items()}
        )
        bound.apply_defaults()
        with unchanged(self.owner), answering(self._kept, self._leaves), Traceable():
            method = self.owner if self._method == "forward" else getattr(self.owner, self._method)
            returned = results(method(*bound.args, **bound.kwargs), self._wanted, type(self.owner).__name__)
            return by_row(returned, self._counts, flat)

    def _leaves(self, number: int) -> list[Any]:
        """Return the values of one method that was run once, whose tensors are this module's buffers."""
        return [getattr(self, f"once_{number}_{place}", leaf) for place, leaf in enumerate(self._kept[number].leaves)]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """How the user's module is called."""

    described: str
    """Class of the module, and method if not forward, as in `DLRM` or `BPR.predict`."""
    method: str
    arguments: Mapping[str, Argument]
    """The schema's arguments that the call is made of, by name."""
    module: CallModule
    """Module whose forward takes these as one dict."""
    renamed: Mapping[str, Entries]
    """Keys that the exporter added to a dict, by which one."""

    @property
    def owner(self) -> nn.Module:
        """The user's module."""
        return self.module.owner

    def run(self, tensors: Mapping[str, Tensor]) -> Any:
        """Call the method with the schema's arguments by name; to be done where the module is `ready`."""
        with restored(self.module.written):
            return self.module(dict(tensors))

    def turn_types(self) -> bool:
        """Give the module its ids side by side in the other type, floats or integers; return whether it takes such."""
        if not any(source.turns() for source in self.module.given.values()):
            return False
        self.module.other_types = not self.module.other_types
        return True

    def check_read(self) -> None:
        """Check that no key which the exporter named is misspelt: not read, while another is asked for in vain.

        Raises:
            ExportError: One is.
        """
        for key, entries in self.renamed.items():
            vain = [each for each in entries.noted - entries.entries.keys() if isinstance(each, str)]
            meant = [] if key in entries.noted else get_close_matches(key, vain, 1)
            if meant:
                raise ExportError(
                    f"arguments names {key!r}, which {self.described} neither takes nor reads; it asks for"
                    f" {meant[0]!r}, which nobody gives it"
                )

    def path_of(self, name: str) -> str:
        """Return how a weight is called in the user's module, of its name in the call's."""
        return self.module.paths.get(name, name.removeprefix(_OWNER))

    def advice(self, error: BaseException) -> str:
        """Return what to try after an error of the call, to stand behind its message; empty when nothing is known."""
        path = proposed(frames_of(error), self.owner, self.method)
        if path is None:
            return ""
        return f". It arises in {_propose(path)}"

    def refusal_of_sparse(self, name: str, tensors: Mapping[str, Tensor]) -> ExportError:
        """Return the error about a sparse weight that the call computes with; it is asked once more, for where."""
        watch = SparseWatch(self.owner, self.method)
        with watch, suppress(Exception):  # it may only run in a trace; then nothing is proposed
            self.run(tensors)
        where = (
            ". What is computed with it of weights alone can be run once, before the trace: write it as a method that"
            " takes nothing of the request, such as propagate(), and name that by once=['propagate']"
            if watch.found is None
            else f". It is used in {_propose(watch.found)}"
        )
        return ExportError(f"{self.described}: {name} is a sparse tensor, which a dense program cannot hold{where}")


def _propose(path: str) -> str:
    return f"{path}, which takes nothing of the request: run it once, before the trace, by once=[{path!r}]"

"""Plain graphs: the passes over a captured graph, in their order, so that cutting meets one way to write a look-up."""

from __future__ import annotations

from dataclasses import replace

from ringpull.inference.export.capture import Captured
from ringpull.inference.export.passes.bags import write_bags
from ringpull.inference.export.passes.columns import read_columns
from ringpull.inference.export.passes.constants import compute_constants
from ringpull.inference.export.passes.editor import Editor
from ringpull.inference.export.passes.lookups import write_lookups
from ringpull.inference.export.passes.mappings import leave_out_mappings
from ringpull.inference.export.passes.names import name_validly
from ringpull.inference.export.passes.round_trips import leave_out_round_trips
from ringpull.inference.export.passes.scores import score_the_chosen


def make_plain(captured: Captured) -> Captured:
    """Return a captured module whose graph, which is changed, computes the same with fewer operators."""
    editor = Editor(captured)
    name_validly(editor)
    read_columns(editor)
    write_lookups(editor)
    write_bags(editor)
    editor.drop_unused()
    if score_the_chosen(editor):
        write_lookups(editor)
        editor.drop_unused()
    read_columns(editor)  # of weights, too, that became embeddings
    leave_out_round_trips(editor)
    leave_out_mappings(editor)
    compute_constants(editor)
    editor.drop_unused()
    editor.graph.lint()
    captured.graph_module.recompile()
    computed = {name: what for name, what in editor.computed.items() if name in editor.weights.values()}
    return replace(captured, weights=editor.weights, computed=computed)

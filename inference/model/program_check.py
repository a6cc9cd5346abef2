"""The archive of an exported program, looked through before torch reads it: nothing in it may run when it is read.

torch's reader of programs unpickles whatever it finds in some members, and where its `weights_only` reader refuses, it
unpickles without. So the same bytes are read here first. Each member must be one that `torch.export.save` writes, in
the layout of today or in that before torch 2.8:

    archive_format archive_version byteorder version .data/* .format_version     a few bytes of text
    models/NAME.json  serialized_exported_program.json                           the graph (`program_graph`)
    data/weights/ and data/constants/:  weight_N  tensor_N                       numbers, or a pickled tensor
                                        *_config.json                            their names and shapes
    data/**/NAME.pt  serialized_*.pt  serialized_*.json                          pickles (`pickles`)
    extra/*  extra_files/*                                                       text of the exporter

Compiled code (`data/aotinductor/`), objects that are no tensors and whatever else lies there are refused. A program
still computes, and the operators of torch are not made against hostile graphs: publish only what you would run.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any, Final

from ringpull.inference.model.archive import members
from ringpull.inference.model.pickles import Budget, check_bytes, check_torch_file
from ringpull.inference.model.program_graph import check_graph
from ringpull.ps.errors import CorruptData

MAX_TEXT_BYTES: Final = 4096
"""Largest size of a member that is a few words, as a number of a format."""

MAX_GRAPH_BYTES: Final = 32 << 20
"""Largest size of a graph; one of a thousand operators has 2 MiB. It is parsed at once, while nothing else runs."""


def check_program(content: bytes, where: str) -> None:
    """Check the archive of an exported program.

    Args:
        content: The whole file, which is what torch must be given afterwards.
        where: Its name, for messages.

    Raises:
        CorruptData: It is no such archive, or reading it might run code; the message names the member.
    """
    try:
        _look_through(memoryview(content), where)
    except (CorruptData, MemoryError):
        raise
    except Exception as exc:  # whatever becomes of what no export writes
        raise CorruptData(f"{where}: refused: it cannot be looked through: {type(exc).__name__}: {exc}") from exc


def graph_bytes(content: bytes) -> int:
    """Return the size of the graphs in an archive, as far as it can be told without a look at anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return sum(each.file_size for each in archive.infolist() if _GRAPH.search(each.filename))
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # which whoever reads it says by name
        return 0


def _look_through(content: memoryview, where: str) -> None:
    found, budget = members(content, where), Budget()
    root = next(iter(found), "").partition("/")[0] + "/"
    whole = all(name.startswith(root) for name in found)
    named = {name.removeprefix(root) if whole else name: each for name, each in found.items()}
    for name, each in named.items():
        _check_of(name, _KINDS if whole else _OLD_KINDS, where)(each, f"{where}: {name}", budget)
    for name in named:
        if _CONFIG.fullmatch(name):
            _check_payloads(name, named, where, budget)


_Check = Callable[[memoryview, str, Budget], None]


def _check_text(content: memoryview, where: str, budget: Budget) -> None:
    if len(content) > MAX_TEXT_BYTES:
        raise CorruptData(f"{where}: {len(content)} bytes; it may have {MAX_TEXT_BYTES}")
    check_bytes(content, where, budget)


def _check_json(content: memoryview, where: str, budget: Budget) -> None:
    if len(content) > MAX_GRAPH_BYTES:
        raise CorruptData(f"{where}: {len(content)} bytes; a graph may have {MAX_GRAPH_BYTES}")
    check_graph(content, where)


_GRAPH: Final = re.compile(r"models/[^/]+\.json$|serialized_exported_program\.json$")
_CONFIG: Final = re.compile(r"data/(?:weights/[^/]+_weights|constants/[^/]+_constants)_config\.json")
_Kinds = tuple[tuple[re.Pattern[str], _Check], ...]

_KINDS: Final[_Kinds] = (
    (re.compile(r"archive_format|archive_version|byteorder|version|\.format_version|\.storage_alignment"), _check_text),
    (re.compile(r"\.data/(?:version|serialization_id)"), _check_text),
    (re.compile(r"models/[^/]+\.json"), _check_json),
    (_CONFIG, _check_json),
    (re.compile(r"data/(?:weights|constants|sample_inputs)/[^/]+\.pt"), check_torch_file),
    (re.compile(r"data/weights/weight_[0-9]+|data/constants/tensor_[0-9]+"), check_bytes),
    (re.compile(r"extra/.+"), check_bytes),
)
"""Members of a program that all lie in one folder, which torch takes for nothing but its name."""

_OLD_KINDS: Final[_Kinds] = (
    (re.compile(r"version"), _check_text),
    (re.compile(r"serialized_exported_program\.json"), _check_json),
    (re.compile(r"serialized_(?:state_dict|constants|example_inputs)\.(?:pt|json)"), check_torch_file),
    # In no folder below: torch tries the layout of today first, and would take the first member's folder for the root.
    (re.compile(r"extra_files/(?!archive_format)[^/]+"), check_bytes),
)
"""Members of a program of torch before 2.8, which lie in none."""


def _check_of(name: str, kinds: _Kinds, where: str) -> _Check:
    for form, check in kinds:
        if form.fullmatch(name):
            return check
    raise CorruptData(
        f"{where}: {name}: refused: a program has no such member, or one that holds code, as compiled programs and"
        " objects that are no tensors do"
    )


def _check_payloads(name: str, named: dict[str, memoryview], where: str, budget: Budget) -> None:
    """Check what the names and shapes of weights lead to: members in the same folder; pickles where they say so."""
    loaded: Any = json.loads(bytes(named[name]))
    config = loaded.get("config") if isinstance(loaded, dict) else None
    folder = name.rpartition("/")[0]
    if not isinstance(config, dict):
        raise CorruptData(f"{where}: {name}: names no weights")
    for weight, payload in config.items():
        path = payload.get("path_name") if isinstance(payload, dict) else None
        member = f"{folder}/{path}"
        if not isinstance(path, str) or member not in named or not re.fullmatch(r"(?:weight|tensor)_[0-9]+", path):
            raise CorruptData(f"{where}: {name}: refused: {weight!r} is {path!r}, which is no tensor of the archive")
        if payload.get("use_pickle") is not False:
            check_torch_file(named[member], f"{where}: {member}", budget)

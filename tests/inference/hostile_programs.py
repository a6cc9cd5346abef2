"""Archives of dense programs that would run something when torch reads them, each of another kind.

What they run makes a file, the marker: a test reads the archive and looks whether it is there.
"""

from __future__ import annotations

import builtins
import io
import json
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

Members = dict[str, bytes]
Hostile = Callable[[Members, Path], bytes]

ROOT: Final = "archive/"
GRAPH: Final = ROOT + "models/model.json"
WEIGHTS: Final = ROOT + "data/weights/"
CONSTANTS: Final = ROOT + "data/constants/"
SAMPLES: Final = ROOT + "data/sample_inputs/model.pt"


class Opens:
    """A value whose pickle makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.open, (str(self._marker), "w")


class Program(torch.nn.Module):
    """A program with a weight, a buffer and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        self.register_buffer("shift", torch.ones(2))
        self.scale = torch.tensor([1.0, 2.0])

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.sigmoid(self.layer(x) + self.shift * self.scale + y),)


def exported() -> bytes:
    """Return the archive of a small program."""
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(
        Program(), (torch.rand(4, 4), torch.rand(4, 2)), dynamic_shapes=({0: rows}, {0: rows})
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def members_of(content: bytes) -> Members:
    """Return an archive's members."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def _with(name: str, content: Callable[[Path], bytes]) -> Hostile:
    return lambda members, marker: packed({**members, name: content(marker)})


def _graph(change: Callable[[Any, Path], None]) -> Hostile:
    def make(members: Members, marker: Path) -> bytes:
        graph = json.loads(members[GRAPH])
        change(graph, marker)
        return packed({**members, GRAPH: json.dumps(graph).encode()})

    return make


def _config(file: str, path: str, content: Callable[[Path], bytes]) -> Hostile:
    """Have the first of the weights, or constants, be a pickle at a path."""

    def make(members: Members, marker: Path) -> bytes:
        config = json.loads(members[file])
        first = next(iter(config["config"].values()))
        first["use_pickle"], first["path_name"] = True, path
        return packed({**members, file: json.dumps(config).encode(), f"{Path(file).parent}/{path}": content(marker)})

    return make


def _protocol(protocol: int) -> Callable[[Path], bytes]:
    return lambda marker: pickle.dumps(Opens(marker), protocol)


def _torch_file(marker: Path) -> bytes:
    return _saved({"a": Opens(marker)})


def _tar(marker: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(Opens(marker), 2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _old_layout(pickled: str) -> Hostile:
    """The layout of torch before 2.8, with a pickle in one of its parts."""

    def make(members: Members, marker: Path) -> bytes:
        parts = {f"serialized_{part}.pt": _saved({}) for part in ("state_dict", "constants", "example_inputs")}
        graph = json.loads(members[GRAPH])
        version = "{major}.{minor}".format(**graph["schema_version"]).encode()
        parts |= {"version": version, "serialized_exported_program.json": members[GRAPH]}
        return packed({**parts, pickled: _torch_file(marker)})

    return make


def _expression(text: str) -> Callable[[Any, Path], None]:
    def change(graph: Any, marker: Path) -> None:
        sizes = graph["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = text.format(repr(str(marker)))

    return change


def _guard(text: str) -> Callable[[Any, Path], None]:
    return lambda graph, marker: graph.update(guards_code=[text.format(repr(str(marker)))])


def _call(target: str, *texts: str) -> Callable[[Any, Path], None]:
    """Have the last operator be a function of Python's, called with texts."""

    def change(graph: Any, marker: Path) -> None:
        node = graph["graph_module"]["graph"]["nodes"][-1]
        node["target"] = target
        node["inputs"] = [{"name": "", "arg": {"as_string": text.format(marker)}, "kind": 1} for text in texts]

    return change


def _input(graph: Any, marker: Path) -> None:
    name = f"x=open({str(marker)!r}, 'w')"
    graph["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"][0] = name


def _module(graph: Any, marker: Path) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    spec = json.loads(signature["out_spec"])
    made = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}
    spec[1] |= {"type": "collections.defaultdict", "context": json.dumps(made)}
    signature["out_spec"] = json.dumps(spec)


def _nested(depth: int) -> Hostile:
    def make(members: Members, marker: Path) -> bytes:
        content = _torch_file(marker)
        for level in range(depth):
            content = packed({f"level{level}": content})
        return packed({**members, ROOT + "extra/more": content})

    return make


def _two_layouts(folder: str) -> Hostile:
    """An old program that is harmless, with one of today's in a folder of it, which torch tries first."""

    def make(members: Members, marker: Path) -> bytes:
        old = members_of(_old_layout("extra_files/x")(members, marker))
        del old["extra_files/x"]
        hostile = members_of(HOSTILE["a guard that opens a file"](members, marker))
        return packed({**{name.replace(ROOT, folder): each for name, each in hostile.items()}, **old})

    return make


HOSTILE: Final[dict[str, Hostile]] = {
    "sample inputs": _with(SAMPLES, _torch_file),
    "sample inputs, of torch's old format": _with(
        SAMPLES, lambda marker: _saved({"a": Opens(marker)}, _use_new_zipfile_serialization=False)
    ),
    "sample inputs, a bare pickle": _with(SAMPLES, _protocol(2)),
    "sample inputs, a tar": _with(SAMPLES, _tar),
    "all weights, as torch 2.8 had them": _with(WEIGHTS + "model.pt", _torch_file),
    "all constants, as torch 2.8 had them": _with(CONSTANTS + "model.pt", _torch_file),
    "a pickled weight": _config(WEIGHTS + "model_weights_config.json", "weight_0", _torch_file),
    "a pickled constant": _config(CONSTANTS + "model_constants_config.json", "tensor_0", _torch_file),
    "an opaque object": _config(CONSTANTS + "model_constants_config.json", "opaque_obj_0", _protocol(4)),
    "a custom object": _config(CONSTANTS + "model_constants_config.json", "custom_obj_0", _protocol(2)),
    "weights before 2.8": _old_layout("serialized_state_dict.pt"),
    "weights before 2.5": _old_layout("serialized_state_dict.json"),
    "constants before 2.8": _old_layout("serialized_constants.pt"),
    "inputs before 2.8": _old_layout("serialized_example_inputs.pt"),
    **{f"a file more, protocol {number}": _with(ROOT + "extra/note.txt", _protocol(number)) for number in range(6)},
    "a weight that nothing names": _with(WEIGHTS + "weight_77", _torch_file),
    "two archives around a pickle": _nested(2),
    "archives without end": _nested(20),
    "a program in the extra files": _two_layouts("extra/"),
    "a program in the extra files of an old one": _two_layouts("extra_files/"),
    "an operator that is a method": _graph(_call("torch.ops.aten.__class__.__init__", "{}")),
    "a compiled library": _with(ROOT + "data/aotinductor/model/model.so", lambda marker: b"\x7fELF" + bytes(60)),
    "a compiled library that is called text": _with(ROOT + "extra/note.txt", lambda marker: b"\x7fELF" + bytes(60)),
    "a size that opens a file": _graph(_expression("open({}, 'w')")),
    "a size that finds its way": _graph(_expression("Integer(1).__class__.__init__.__globals__")),
    "a guard that opens a file": _graph(_guard("open({}, 'w')")),
    "a guard with a key that is code": _graph(_guard('L[\'" + open({}, "w") + "\'].size()[0] == 1')),
    "an operator that is a function": _graph(_call("torch.os.makedirs", "{}")),
    "an operator that loads a library": _graph(_call("torch.ops.load_library", "{}")),
    "an operator that makes a file": _graph(_call("torch.ops.aten.from_file.default", "{}")),
    "an argument whose name is code": _graph(_input),
    "a container that imports": _graph(_module),
}
"""Name of a kind -> what makes an archive of it from a good one's members, and the marker's place."""


def _prepended(good: bytes, evil: bytes) -> bytes:
    return evil + good


def _appended(good: bytes, evil: bytes) -> bytes:
    return good + evil


def _commented(good: bytes, evil: bytes) -> bytes:
    file = io.BytesIO(good)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"a comment"
    return file.getvalue()


def _twice(good: bytes, evil: bytes, name: str = SAMPLES) -> bytes:
    file = io.BytesIO(good)
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr(name, members_of(evil)[SAMPLES])
    return file.getvalue()


def _twice_by_case(good: bytes, evil: bytes) -> bytes:
    return _twice(good, evil, SAMPLES.replace("model.pt", "MODEL.PT"))


def _another_local_name(good: bytes, evil: bytes) -> bytes:
    at = evil.index(SAMPLES.encode())  # the first is the local one
    return evil[:at] + evil[at:].replace(b"model.pt", b"modal.pt", 1)


def _renamed(name: str) -> Callable[[bytes, bytes], bytes]:
    return lambda good, evil: packed({**members_of(good), name: b"text"})


def _link(good: bytes, evil: bytes) -> bytes:
    file = io.BytesIO(good)
    with zipfile.ZipFile(file, "a") as archive:
        info = zipfile.ZipInfo(ROOT + "extra/link")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return file.getvalue()


def _flagged(good: bytes, evil: bytes) -> bytes:
    content = bytearray(packed(members_of(good)))
    content[6] |= 1  # encrypted, says the first member; its entry in the directory, too
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def _gap(good: bytes, evil: bytes) -> bytes:
    content = packed(members_of(good))
    directory = content.index(b"PK\x01\x02")
    end = bytearray(content[directory:])
    place = end.rindex(b"PK\x05\x06") + 16
    end[place : place + 4] = (directory + 8).to_bytes(4, "little")
    return content[:directory] + b"\0" * 8 + bytes(end)


def _fewer(good: bytes, evil: bytes) -> bytes:
    content = bytearray(packed(members_of(good)))
    place = content.rindex(b"PK\x05\x06")
    content[place + 8] -= 1
    content[place + 10] -= 1
    return bytes(content)


AMBIGUOUS: Final[dict[str, Callable[[bytes, bytes], bytes]]] = {
    "bytes before": lambda good, evil: b"#!" + good,
    "an archive before": _prepended,
    "bytes behind": lambda good, evil: good + b"more",
    "an archive behind": _appended,
    "a comment": _commented,
    "one name twice": _twice,
    "one name twice, by case": _twice_by_case,
    "another name in front of the member": _another_local_name,
    "a member above": _renamed(ROOT + "../above"),
    "an absolute member": _renamed("/absolute"),
    "a member by backslashes": _renamed(ROOT + "extra\\..\\x"),
    "an empty folder's name": _renamed(ROOT + "extra//x"),
    "a second root": _renamed("other/extra/x"),
    "a member that is not of programs": _renamed(ROOT + "data/executorch/x"),
    "a link": _link,
    "encrypted": _flagged,
    "compressed": lambda good, evil: packed(members_of(good), zipfile.ZIP_DEFLATED),
    "a bomb": lambda good, evil: packed({**members_of(good), ROOT + "extra/zeros": bytes(1 << 22)}, zipfile.ZIP_BZIP2),
    "a gap before the directory": _gap,
    "a directory that counts fewer": _fewer,
    "cut short": lambda good, evil: good[:-1],
    "nothing": lambda good, evil: b"",
}
"""Name of a kind -> what makes an archive that two readers may take for different ones, of a good and a hostile one."""

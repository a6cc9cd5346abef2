"""Pickles found by what they are, whatever they are called, and whether torch's `weights_only` reader takes them.

A pickle is a program: it can name any function and call it. What the `weights_only` reader takes names tensors and
containers only. Numbers of a tensor can look like the start of a pickle, and no reader takes them for one; so what is
not called a pickle is held for one only where reading it would import something, or where it is one from its header to
its end.
"""

from __future__ import annotations

import copyreg
import io
import pickletools
import tarfile
import warnings
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import _weights_only_unpickler as weights_only

from ringpull.inference.model.archive import is_archive, members
from ringpull.ps.errors import CorruptData

MAX_DEPTH: Final = 4
"""Largest depth of archives in archives; an exported program has a second one."""

MAX_OPERATIONS: Final = 1_000_000
"""Largest number of operations read of what may be a pickle; torch writes one for some numbers a tensor."""

_LIBRARIES: Final = (b"\x7fELF", b"MZ\x90\x00", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xca\xfe\xba\xbe")
_PICKLED: Final = "data.pkl"


def check_bytes(content: memoryview, where: str, depth: int = 0) -> None:
    """Check bytes of any kind: that no pickle is in them, nor in archives in them, that `weights_only` does not take.

    Args:
        content: The bytes; of an archive, the whole of it.
        where: Where they were read, for messages: file and member.
        depth: How many archives they lie in.

    Raises:
        CorruptData: There is one, or code of a compiled library, or an archive that cannot be looked through.
    """
    if is_archive(content):
        found = _members(content, where, depth)
        if any(name.rpartition("/")[2] == _PICKLED for name in found):
            check_torch_file(content, where, depth)
            return
        for name, each in found.items():
            check_bytes(each, f"{where}: {name}", depth + 1)
    elif bytes(content[:4]) in _LIBRARIES:
        raise CorruptData(f"{where}: a compiled library; programs are run from their graph only")
    elif _is_tar(content):
        raise CorruptData(f"{where}: a tar archive; torch's weights_only reader takes none")
    elif _is_pickle(content, where):
        try:
            with warnings.catch_warnings(action="ignore"):
                weights_only.load(io.BytesIO(content), encoding="utf-8")
        except Exception as exc:  # of many roots, by what the pickle says
            raise _refused(where, exc) from exc


def check_torch_file(content: memoryview, where: str, depth: int = 0) -> None:
    """Check bytes that torch unpickles: that its `weights_only` reader takes all of them.

    Raises:
        CorruptData: It does not, or they are an archive that cannot be looked through.
    """
    if not len(content):
        return
    if is_archive(content):
        for name, each in _members(content, where, depth).items():
            if name.rpartition("/")[2] != _PICKLED:
                check_bytes(each, f"{where}: {name}", depth + 1)
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.load(io.BytesIO(content), weights_only=True)
    except Exception as exc:  # of many roots, by what the file is
        raise _refused(where, exc) from exc


def _members(content: memoryview, where: str, depth: int) -> dict[str, memoryview]:
    if depth >= MAX_DEPTH:
        raise CorruptData(f"{where}: an archive in {depth} others; {MAX_DEPTH} are looked through")
    return members(content, where)


def _refused(where: str, error: Exception) -> CorruptData:
    first = next(iter(str(error).strip().splitlines()), "")
    return CorruptData(
        f"{where}: refused, because torch's weights_only reader does not take its pickle, which may run code when it is"
        f" read: {type(error).__name__}: {first}"
    )


def _is_tar(content: memoryview) -> bool:
    if len(content) < tarfile.BLOCKSIZE:
        return False
    try:
        tarfile.TarInfo.frombuf(bytes(content[: tarfile.BLOCKSIZE]), "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _is_pickle(content: memoryview, where: str) -> bool:
    """Return whether a reader of pickles would import something, or reads the bytes from a header to an end."""
    file = io.BytesIO(content)
    operations = 0
    while file.tell() < len(content):  # files of old torch are several, one behind the other
        reading, header, ended = _Reading(), False, False
        try:
            for operation, argument, _ in _operations(file):
                if reading.imports(operation.name, argument):
                    return True
                if (operations := operations + 1) > MAX_OPERATIONS:
                    raise CorruptData(f"{where}: may be a pickle of more than {MAX_OPERATIONS} operations")
                header, ended = header or operation.name == "PROTO", operation.name == "STOP"
                reading.step(operation, argument)
        except (IndexError, KeyError, ValueError, OverflowError, MemoryError):  # no operation, or one that cannot be
            return False
        if header and ended:
            return True
    return False


def _operations(file: io.BytesIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    operations = pickletools.genops(file)
    while True:
        with warnings.catch_warnings(action="ignore"):  # of signs in texts, which numbers have
            each = next(operations, None)
        if each is None:
            return
        yield each


def _is_importable(name: str) -> bool:
    """Return whether a text could name a module or what is in one: numbers that look like an operation hold none."""
    return bool(name) and all(part.isidentifier() for part in name.split("."))


class _Reading:
    """What a reader of pickles has on its stack: the texts, marks, and whatever else without looking at it."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def imports(self, name: str, argument: Any) -> bool:
        """Return whether the next operation imports something: it names it, or texts on the stack do."""
        if name in ("EXT1", "EXT2", "EXT4"):
            if argument not in copyreg._inverted_registry:  # type: ignore[attr-defined]
                raise KeyError(argument)
            return True
        if name == "STACK_GLOBAL":
            return all(isinstance(each, str) and _is_importable(each) for each in (self._stack[-1], self._stack[-2]))
        if name in ("GLOBAL", "INST"):
            if not all(_is_importable(each) for each in argument.split(" ", 1)):
                raise KeyError(argument)
            return True
        return False

    def step(self, operation: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do the next operation to the stack.

        Raises:
            IndexError: The stack has too little for it.
            KeyError: It takes what was never put aside.
        """
        name, taken, given = operation.name, len(operation.stack_before), list(operation.stack_after)
        if "PUT" in name or name == "MEMOIZE":
            self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
            return
        if "GET" in name:
            self._stack.append(self._memo[argument])
            return
        if pickletools.markobject in operation.stack_before:
            while self._stack.pop() is not pickletools.markobject:
                pass
            taken = operation.stack_before.index(pickletools.markobject)
        elif name == "STOP":
            taken = 1
        for _ in range(taken):
            self._stack.pop()
        self._stack += [argument] if given and isinstance(argument, str) else given

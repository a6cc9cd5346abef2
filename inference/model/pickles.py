"""Pickles found by what they are, whatever they are called, and whether torch's `weights_only` reader takes them.

A pickle is a program: it can name any function and call it. What the `weights_only` reader takes names tensors and
containers only. What torch unpickles is given to that reader whole. The rest, numbers and texts, nobody unpickles; a
pickle in it is refused all the same where its beginning imports something. Numbers can look like operations of a
pickle for as long as one likes, so they are read for a limited number of operations, and are numbers after that.
"""

from __future__ import annotations

import copyreg
import io
import pickletools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import _weights_only_unpickler as weights_only

from ringpull.inference.model.archive import is_archive, members
from ringpull.ps.errors import CorruptData

MAX_DEPTH: Final = 4
"""Largest depth of archives in archives; an exported program has a second one."""

MAX_OPERATIONS: Final = 10_000
"""Largest number of operations read of a member that is not unpickled: one with more and no import is none."""

MAX_OPERATIONS_OF_ALL: Final = 200_000
"""Largest number of such operations of an archive, with all that lies in it: they take some seconds."""

MAX_PREFIX: Final = 256 << 10
"""Largest size of the beginning of a member, or of a pickle in it, that is read for them."""

_LIBRARIES: Final = (b"\x7fELF", b"MZ\x90\x00", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xca\xfe\xba\xbe")
_PICKLED: Final = "data.pkl"
_OLD_TORCH: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_IMPORTS: Final = re.compile(rb"[ci\x82-\x84\x93]")
_TAR: Final = slice(257, 262), b"ustar"


@dataclass(slots=True)
class Budget:
    """What may be read yet of an archive's members that are not unpickled."""

    operations: int = MAX_OPERATIONS_OF_ALL


def check_bytes(content: memoryview, where: str, budget: Budget | None = None, depth: int = 0) -> None:
    """Check bytes of any kind: that no pickle is in them, nor in archives in them, that `weights_only` does not take.

    Args:
        content: The bytes; of an archive, the whole of it.
        where: Where they were read, for messages: file and member.
        budget: What may be read of the archive that they lie in; None: they lie in none.
        depth: How many archives they lie in.

    Raises:
        CorruptData: There is one, or code of a compiled library, or an archive that cannot be looked through.
    """
    budget = budget or Budget()
    if is_archive(content):
        found = _members(content, where, depth)
        if any(name.rpartition("/")[2] == _PICKLED for name in found):
            check_torch_file(content, where, budget, depth)
            return
        for name, each in found.items():
            check_bytes(each, f"{where}: {name}", budget, depth + 1)
    elif bytes(content[: len(_OLD_TORCH)]) == _OLD_TORCH:
        check_torch_file(content, where, budget, depth)
    elif bytes(content[:4]) in _LIBRARIES:
        raise CorruptData(f"{where}: a compiled library; programs are run from their graph only")
    elif bytes(content[_TAR[0]]) == _TAR[1]:
        raise CorruptData(f"{where}: a tar archive; torch's weights_only reader takes none")
    else:
        _check_raw(content, where, budget)


def _check_raw(content: memoryview, where: str, budget: Budget) -> None:
    begin: int | None = 0
    while (begin := _importing(content, begin, budget)) is not None:
        file = io.BufferedReader(_View(content[begin:]))
        try:
            with warnings.catch_warnings(action="ignore"):
                weights_only.load(file, encoding="utf-8")
        except Exception as exc:  # of many roots, by what the pickle says
            raise _refused(where, exc) from exc
        begin += max(1, file.tell())


def check_torch_file(content: memoryview, where: str, budget: Budget | None = None, depth: int = 0) -> None:
    """Check bytes that torch unpickles: that its `weights_only` reader takes all of them.

    Raises:
        CorruptData: It does not, or they are an archive that cannot be looked through.
    """
    if not len(content):
        return
    budget = budget or Budget()
    if is_archive(content):
        for name, each in _members(content, where, depth).items():
            if name.rpartition("/")[2] != _PICKLED:
                check_bytes(each, f"{where}: {name}", budget, depth + 1)
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.load(io.BufferedReader(_View(content)), weights_only=True)
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


class _View(io.RawIOBase):
    """Bytes as a file, without a copy of them."""

    def __init__(self, content: memoryview) -> None:
        super().__init__()
        self._content = content
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(
            0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._content)}[whence]
        )
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        part = self._content[self._place : self._place + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


def _importing(content: memoryview, begin: int, budget: Budget) -> int | None:
    """Return where the first pickle begins that a reader of pickles would import something for; None: there is none.

    Several may lie one behind the other, from `begin` on, as in files of old torch.
    """
    prefix = bytes(content[begin : begin + MAX_PREFIX])
    left = min(MAX_OPERATIONS, budget.operations)
    file = io.BytesIO(prefix)
    while _IMPORTS.search(prefix, file.tell()):
        reading, first = _Reading(), file.tell()
        try:
            for operation, argument, _ in _operations(file):
                if not left:
                    return None
                left -= 1
                budget.operations -= 1
                if reading.imports(operation.name, argument):
                    return begin + first
                reading.step(operation, argument)
        except (IndexError, KeyError, ValueError, OverflowError, MemoryError):  # no operation, or one that cannot be
            return None
    return None


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

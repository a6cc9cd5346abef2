"""A pickle read as what it says, and not done: names stay names, calls stay calls, and nothing is imported or called.

torch's files describe their tensors in a pickle, which is a program. Here its operations build nodes: `Name` for what
it would import, `Made` for what it would call it with. Whoever reads the nodes knows the few that it takes. Names that
are not admitted are refused, as torch's own `weights_only` reader does; operations that torch does not write, too. It
needs no torch.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ringpull.ps.errors import CorruptData

MAX_BYTES: Final = 1 << 30
"""Largest pickle that is read; the names of a million tensors take a tenth of that."""


@dataclass(frozen=True, slots=True)
class Name:
    """Something that the pickle would import: `torch.float32`."""

    full: str


@dataclass(slots=True, eq=False)
class Made:
    """Something that a call would make: of a name with arguments, or of a storage elsewhere in the file."""

    by: str
    """Full name of what would be called; "dict" of a dictionary, "storage" of what the file keeps beside its pickle."""
    arguments: tuple[Any, ...] = ()
    state: Any = None
    """What it would be filled with after that."""
    items: list[tuple[Any, Any]] = field(default_factory=list)
    """Keys and values of a mapping, in the order written."""


def read_plain_pickle(content: bytes, where: str, admitted: Callable[[str], bool], cure: str) -> Any:
    """Return what a pickle says.

    Args:
        content: The whole of it.
        where: File and member, for messages.
        admitted: Whether a full name, such as `torch.Size`, may be in it.
        cure: What to do where it has others, for the message.

    Raises:
        CorruptData: It names something else, or is no such pickle.
    """
    if len(content) > MAX_BYTES:
        raise CorruptData(f"{where}: a pickle of {len(content)} bytes; at most {MAX_BYTES} are read")
    reading = _Reading(where, admitted, cure)
    try:
        for operation, argument in _operations(content):
            if operation == "STOP":
                return reading.stack.pop()
            reading.step(operation, argument)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError, AttributeError) as exc:
        raise CorruptData(f"{where}: no pickle that can be read: {type(exc).__name__}: {exc}") from exc
    raise CorruptData(f"{where}: no pickle that can be read: it ends too early")


def _operations(content: bytes) -> Iterator[tuple[str, Any]]:
    operations = pickletools.genops(io.BytesIO(content))
    while True:
        with warnings.catch_warnings(action="ignore"):  # of signs in texts
            each = next(operations, None)
        if each is None:
            return
        yield each[0].name, each[1]


_MARK: Final = object()
_VALUES: Final = {
    *("BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "UNICODE", "BININT", "BININT1", "BININT2", "INT", "LONG"),
    *("LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    "BINBYTES8",
}
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT: Final = {"PUT", "BINPUT", "LONG_BINPUT"}
_GET: Final = {"GET", "BINGET", "LONG_BINGET"}


class _Reading:
    """What a reader of pickles has on its stack, as nodes."""

    def __init__(self, where: str, admitted: Callable[[str], bool], cure: str) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._where = where
        self._admitted = admitted
        self._cure = cure

    def step(self, operation: str, argument: Any) -> None:
        """Do the next operation to the stack."""
        stack = self.stack
        if operation in _VALUES:
            stack.append(argument)
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
        elif operation in _PUT:
            self._memo[int(argument)] = stack[-1]
        elif operation == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif operation in _GET:
            stack.append(self._memo[int(argument)])
        elif operation in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[operation])))
        else:
            self._build(operation, argument)

    def _build(self, operation: str, argument: Any) -> None:
        stack = self.stack
        match operation:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "POP":
                stack.pop()
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append(Made("dict"))
            case "EMPTY_SET":
                stack.append(Made("set"))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "LIST":
                stack.append(self._since_mark())
            case "DICT":
                stack.append(Made("dict", items=_pairs(self._since_mark())))
            case "APPEND" | "APPENDS":
                values = self._since_mark() if operation == "APPENDS" else self._pop(1)
                _only(stack[-1], list).extend(values)
            case "SETITEM" | "SETITEMS":
                values = self._since_mark() if operation == "SETITEMS" else self._pop(2)
                _only(stack[-1], Made).items.extend(_pairs(values))
            case "ADDITEMS":
                values = self._since_mark()
                _only(stack[-1], Made).items.extend((each, None) for each in values)
            case "GLOBAL" | "STACK_GLOBAL":
                parts = argument.split(" ", 1) if operation == "GLOBAL" else self._pop(2)
                stack.append(self._name(*parts))
            case "BINPERSID":
                stack.append(Made("storage", tuple(_only(stack.pop(), tuple))))
            case "REDUCE" | "NEWOBJ":
                by, arguments = self._pop(2)
                stack.append(Made(_only(by, Name).full, _only(arguments, tuple)))
            case "BUILD":
                (state,) = self._pop(1)
                _only(stack[-1], Made).state = state
            case _:
                raise CorruptData(
                    f"{self._where}: its pickle has the operation {operation}, which torch does not write"
                )

    def _name(self, module: Any, name: Any) -> Name:
        full = f"{_only(module, str)}.{_only(name, str)}"
        if not self._admitted(full):
            raise CorruptData(
                f"{self._where}: its pickle names {full}, which may run code when it is read; nothing of it was run."
                f" {self._cure}"
            )
        return Name(full)

    def _pop(self, count: int) -> list[Any]:
        taken = self.stack[len(self.stack) - count :]
        if len(taken) < count or any(each is _MARK for each in taken):
            raise IndexError("the stack is empty")
        del self.stack[len(self.stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        taken: list[Any] = []
        while (each := self.stack.pop()) is not _MARK:
            taken.append(each)
        return taken[::-1]


def _only(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} in the place of {kind.__name__}")
    return value


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))

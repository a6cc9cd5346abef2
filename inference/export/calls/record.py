"""The dict that a method gets whose one parameter is all features: it notes which keys are read, and names what is not.

Libraries hand a batch to a model as a dict (`x["user_id"]`), or as an object of their own that is read like one, or by
attribute. A `Record` is all of them. Used as what it is not, a tensor for one, it says what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Final

from ringpull.ps.errors import ExportError

_OF_TENSORS: Final = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "mod", "pow", "matmul"),
    *("rmatmul", "neg", "gt", "ge", "lt", "le", "float", "int", "index"),
)
"""Operators that a tensor has, and a dict has not."""


Explain = Callable[[str, str | None], str]
"""Function that says what is wrong: what the module does with a dict, and the key that is not there, if it is one."""


class Record(dict[str, Any]):
    """A dict of tensors by name, read by key or by attribute."""

    def __init__(self, entries: dict[str, Any], noted: set[object], explain: Explain) -> None:
        """Take entries.

        Args:
            entries: Values by key.
            noted: Where keys that are read, or asked for in vain, are added.
            explain: Gives the message about a key that is not there, or a use that no dict has.
        """
        super().__init__(entries)
        self.__dict__.update(_noted=noted, _explain=explain)

    def __getitem__(self, key: str) -> Any:
        if isinstance(key, str) and dict.__contains__(self, key):
            self.__dict__["_noted"].add(key)
            return dict.__getitem__(self, key)
        if isinstance(key, str):
            raise ExportError(self.__dict__["_explain"](f"reads {key!r} of it", key))
        raise ExportError(self.__dict__["_explain"]("indexes it like a tensor", None))

    def __contains__(self, key: object) -> bool:
        self.__dict__["_noted"].add(key)
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        self._note_all()
        return dict.__iter__(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python and torch ask objects for protocols
            raise AttributeError(name)
        if dict.__contains__(self, name):
            return self[name]
        raise MissingAttribute(self.__dict__["_explain"](f"reads {name!r} of it", name))

    def get(self, key: str, default: Any = None) -> Any:
        """Return what is there, else the default."""
        found = key in self
        return self[key] if found else default

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return all keys."""
        self._note_all()
        return dict.keys(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return all values."""
        self._note_all()
        return dict.values(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Return all keys and values."""
        self._note_all()
        return dict.items(self)

    def copy(self) -> dict[str, Any]:
        """Return a dict of its own."""
        return dict(self.items())

    def pop(self, key: str, *default: Any) -> Any:
        """Take an entry out; it is there again in the next call."""
        found = self.get(key, *default) if default else self[key]
        dict.pop(self, key, None)
        return found

    def to(self, *args: Any, **kwargs: Any) -> Record:
        """Return itself: its tensors are on the module's device."""
        return self

    def _note_all(self) -> None:
        self.__dict__["_noted"].update(dict.keys(self))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [*args, *(kwargs or {}).values()]
        record = next(each for each in given if isinstance(each, Record))
        name = getattr(func, "__name__", str(func))
        raise ExportError(record.__dict__["_explain"](f"gives it to {name} like a tensor", None))


class MissingAttribute(ExportError, AttributeError):
    """An attribute that a record has not; `hasattr` and `getattr` with a default take it for an ordinary one."""


def _refuse(operator: str) -> Callable[..., Any]:
    def refuse(self: Record, *others: object) -> Any:
        raise ExportError(self.__dict__["_explain"]("computes with it like with a tensor", None))

    refuse.__name__ = operator
    return refuse


for _operator in _OF_TENSORS:
    setattr(Record, f"__{_operator}__", _refuse(f"__{_operator}__"))

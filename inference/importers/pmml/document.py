"""Documents of PMML, as elements that know their lines.

They are read by defusedxml: no entities, no document types, nothing from elsewhere. What an element of PMML means is
read by those who know it: they take what they know (`Element.only`), and what is left is refused by line and name.
"""

from __future__ import annotations

import math
import re
import xml.sax
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from xml.sax.handler import ContentHandler

import defusedxml.sax
from defusedxml import DefusedXmlException

from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.text.number_text import float_of

MAX_BYTES: Final = 1 << 30
MAX_DEPTH: Final = 320
"""Elements within each other: a tree has one for each level. Functions (`Apply`) are not counted."""
MAX_APPLIED: Final = 5_000
"""Functions (`Apply`) within each other."""

_INFINITIES: Final = {"INF": math.inf, "-INF": -math.inf, "Infinity": math.inf, "-Infinity": -math.inf}
_TOKEN: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_SILENT: Final = frozenset(("Extension", "ModelStats", "ModelExplanation", "ModelVerification"))
"""Elements that say nothing of a score."""


@dataclass(slots=True, eq=False)
class Element:
    """One element of a document."""

    tag: str
    """Name, without its namespace."""
    line: int
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def __str__(self) -> str:
        return f"line {self.line}: <{self.tag}>"

    def refusal(self, why: str) -> InvalidInput:
        """Return the error that this element is, or has, what is not known here."""
        return InvalidInput(f"{self} {why}")

    def only(self, *known: str) -> list[Element]:
        """Return the children, which must be of these names; extensions and statistics are passed over.

        Raises:
            InvalidInput: Another element is among them.
        """
        found = [each for each in self.children if each.tag not in _SILENT]
        for each in found:
            if each.tag not in known:
                raise each.refusal(f"within <{self.tag}> is not known here; known are {', '.join(known) or 'none'}")
        return found

    def all(self, tag: str) -> list[Element]:
        """Return the children of a name."""
        return [each for each in self.children if each.tag == tag]

    def first(self, *tags: str) -> Element | None:
        """Return the first child of these names, or None."""
        return next((each for each in self.children if each.tag in tags), None)

    def need(self, *tags: str) -> Element:
        """Return the first child of these names.

        Raises:
            InvalidInput: There is none.
        """
        found = self.first(*tags)
        if found is None:
            raise self.refusal(f"has no <{'> or <'.join(tags)}>")
        return found

    def get(self, name: str, default: str = "") -> str:
        """Return an attribute."""
        return self.attributes.get(name, default)

    def attribute(self, name: str) -> str:
        """Return an attribute that must be there.

        Raises:
            InvalidInput: It is not there.
        """
        if name not in self.attributes:
            raise self.refusal(f"has no attribute {name}")
        return self.attributes[name]

    def choice(self, name: str, known: Collection[str], default: str | None = None) -> str:
        """Return an attribute that must have one of these values.

        Raises:
            InvalidInput: It has another, or is not there and has no default.
        """
        value = self.attribute(name) if default is None else self.get(name, default)
        if value not in known:
            raise self.refusal(f"has {name}={value[:80]!r}, which is not known here; known are {', '.join(known)}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return an attribute that is a number.

        Raises:
            InvalidInput: It is none, or is not there and has no default.
        """
        if default is not None and name not in self.attributes:
            return default
        return self.as_number(self.attribute(name), name)

    def maybe(self, name: str) -> float | None:
        """Return an attribute that is a number, or None where it is not there."""
        return None if name not in self.attributes else self.number(name)

    def as_number(self, text: str, what: str) -> float:
        """Return a text of this element as a number.

        Raises:
            InvalidInput: It is none.
        """
        text = text.strip()
        if text in _INFINITIES:
            return _INFINITIES[text]
        try:
            found = float_of(text)
        except ValueError:
            found = math.nan
        if math.isnan(found):
            raise self.refusal(f"has {what}={text[:80]!r}, which is no number")
        return found

    def array(self) -> list[str]:
        """Return the values of an `Array`, as texts: words, or texts in quotes, between spaces.

        Raises:
            InvalidInput: There are others than its `n` says.
        """
        found = [
            each[1].replace('\\"', '"').replace("\\\\", "\\") if each[2] is None else each[2]
            for each in _TOKEN.finditer(self.text)
        ]
        if "n" in self.attributes and len(found) != self.number("n"):
            raise self.refusal(f"has {len(found)} values; n={self.get('n')[:20]}")
        return found

    def numbers(self) -> list[float]:
        """Return the values of an `Array` of numbers.

        Raises:
            InvalidInput: One is no number.
        """
        return [self.as_number(each, "value") for each in self.array()]

    def walk(self) -> Iterator[Element]:
        """Yield this element and all within it."""
        waiting = [self]
        while waiting:
            element = waiting.pop()
            yield element
            waiting += reversed(element.children)


class _Handler(ContentHandler):
    """Builder of elements from what a parser meets."""

    def __init__(self) -> None:
        super().__init__()
        self.root: Element | None = None
        self._open: list[Element] = []
        self._texts: list[list[str]] = []
        self._applied = 0

    def startElement(self, name: str, attrs: Any) -> None:
        line = int(self._locator.getLineNumber() or 0)  # type: ignore[attr-defined]
        if len(self._open) - self._applied >= MAX_DEPTH:
            raise InvalidInput(f"line {line}: <{name[:80]}> lies {MAX_DEPTH} elements deep; no deeper ones are read")
        element = Element(name.rpartition(":")[2], line, dict(attrs.items()))
        self._applied += element.tag == "Apply"
        if self._applied > MAX_APPLIED:
            raise InvalidInput(f"line {line}: <Apply> lies {MAX_APPLIED} functions deep; no deeper ones are read")
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)
        self._texts.append([])

    def endElement(self, name: str) -> None:
        element = self._open.pop()
        element.text = "".join(self._texts.pop()).strip()
        self._applied -= element.tag == "Apply"

    def characters(self, content: str) -> None:
        if self._texts:
            self._texts[-1].append(content)


def read_document(path: Path) -> Element:
    """Read a document of PMML.

    Raises:
        CorruptData: It is no XML, or ends too early.
        InvalidInput: It has entities or a document type, is too large or too deep, or no PMML.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{path}: has more than {MAX_BYTES >> 30} GiB")
        with path.open("rb") as file:
            handler = _Handler()
            defusedxml.sax.parse(file, handler, forbid_dtd=True)
    except InvalidInput as exc:
        raise InvalidInput(f"{path}: {exc}" if str(path) not in str(exc) else str(exc)) from exc
    except DefusedXmlException as exc:
        raise InvalidInput(f"{path}: has a document type or entities, which PMML does not need: {exc}") from exc
    except xml.sax.SAXParseException as exc:
        raise CorruptData(f"{path}: line {exc.getLineNumber()}: is no XML: {exc.getMessage()}") from exc
    except (OSError, UnicodeError, ValueError, LookupError) as exc:
        raise CorruptData(f"{path}: cannot be read as XML: {exc}") from exc
    if handler.root is None or handler.root.tag != "PMML":
        raise InvalidInput(f"{path}: is no PMML: its outermost element is {handler.root and handler.root.tag}")
    return handler.root

"""Text is UTF-8 wherever it is read or written: the language of a machine decides about nothing that ringpull does."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.test_architecture import SOURCES, parse

TEXT_BY_NAME = {"read_text": 0, "write_text": 1}
"""Methods of `Path` for text, and the position of their encoding."""
RUN = {"run", "Popen", "check_output", "check_call", "call", "getoutput", "getstatusoutput"}
TEMPORARY = {"NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "fdopen"}
MODES = set("rwxab+t")


def guesses(tree: ast.Module) -> Iterator[int]:
    """Yield the lines of calls that leave the encoding of a text to the language of the machine."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _guesses(node):
            yield node.lineno


def _guesses(call: ast.Call) -> bool:
    named = {each.arg: each.value for each in call.keywords}
    if "encoding" in named:
        return False
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in TEXT_BY_NAME:
        return len(call.args) <= TEXT_BY_NAME[name]
    if name in RUN:
        return bool({"text", "universal_newlines", "errors"} & named.keys())
    if name == "FileHandler":
        return True
    if name == "open" and isinstance(function, ast.Name):
        return "b" not in _mode(call, 1, "r")
    if name == "open":  # a path's or a file system's; other things that open have neither mode nor newlines
        mode = _mode(call, 0, "") or _mode(call, 1, "")
        return bool(mode or {"errors", "newline", "buffering"} & named.keys()) and "b" not in mode
    if name in TEMPORARY:
        return "b" not in _mode(call, 0 if name != "fdopen" else 1, "w+b" if name != "fdopen" else "r")
    return False


def _mode(call: ast.Call, position: int, default: str) -> str:
    given = next((each.value for each in call.keywords if each.arg == "mode"), None)
    if given is None and len(call.args) > position:
        given = call.args[position]
    if isinstance(given, ast.Name):  # whoever calls says it, and annotations whether it is one of bytes
        return "b"
    if isinstance(given, ast.Constant) and isinstance(given.value, str) and set(given.value) <= MODES:
        return given.value
    return default


@pytest.mark.parametrize(
    "code",
    [
        "path.read_text()",
        "path.read_text(errors='replace')",
        "path.write_text('x')",
        "open('x')",
        "open('x', 'w')",
        "path.open('a')",
        "path.open(errors='replace')",
        "path.open(mode='w')",
        "subprocess.run(['x'], text=True)",
        "subprocess.Popen(['x'], universal_newlines=True)",
        "tempfile.NamedTemporaryFile('w')",
        "os.fdopen(3, 'w')",
        "logging.FileHandler('x')",
    ],
)
def test_a_guess_is_seen(code: str) -> None:
    assert list(guesses(ast.parse(code))) == [1]


@pytest.mark.parametrize(
    "code",
    [
        "path.read_text(encoding='utf-8')",
        "path.read_text('utf-8')",
        "open('x', 'rb')",
        "open('x', mode)",
        "path.open('xb')",
        "Base.open(folder)",
        "handler.open()",
        "tempfile.NamedTemporaryFile()",
        "subprocess.run(['x'], capture_output=True)",
        "subprocess.run(['x'], encoding='utf-8')",
    ],
)
def test_what_is_no_guess_is_left_alone(code: str) -> None:
    assert list(guesses(ast.parse(code))) == []


@pytest.mark.medium
def test_no_text_is_left_to_the_language_of_the_machine() -> None:
    """`LANG` would decide how a request, a record or a report is read: wrongly, and without an error."""
    found = [f"{path}:{line}" for path in SOURCES if path.parts[0] != "tests" for line in guesses(parse(path))]
    assert not found, "\n".join(found)

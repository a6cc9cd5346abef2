"""Fields of messages, as both protobufs tell them: ours, and that of tritonclient's environment."""

from __future__ import annotations

from typing import Any


def fields_of(file: Any) -> dict[str, dict[str, list[int]]]:
    """Return number and type of every field of every message of a file."""

    def visit(message: Any) -> None:
        found[message.full_name] = {each.name: [each.number, each.type] for each in message.fields}
        for inner in message.nested_types:
            visit(inner)

    found: dict[str, dict[str, list[int]]] = {}
    for each in file.message_types_by_name.values():
        visit(each)
    return found

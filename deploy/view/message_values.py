"""Protobuf messages as plain values.

Unlike in protobuf's own JSON, 64-bit integers stay numbers: Python and jq read them whole.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message


def plain_values(message: Message) -> dict[str, Any]:
    """Return every field of a message without maps, by its name in the `.proto`; enums by their value's name."""
    return {field.name: _field(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _field(field: Any, value: Any) -> Any:
    return [_value(field, each) for each in value] if field.is_repeated else _value(field, value)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain_values(value)
    return field.enum_type.values_by_number[value].name if field.enum_type is not None else value

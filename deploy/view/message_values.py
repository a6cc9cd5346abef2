"""Conversion of protobuf messages to plain values.

Unlike in protobuf's own JSON, 64-bit integers stay numbers, which Python and jq read exactly.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message


def plain_values(message: Message) -> dict[str, Any]:
    """Return the fields of a message by their names in the `.proto`; enums as names of their values, maps as dicts."""
    return {field.name: _field(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _field(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of_value = field.message_type.fields_by_name["value"]
        return {key: _value(of_value, value[key]) for key in sorted(value)}
    return [_value(field, each) for each in value] if field.is_repeated else _value(field, value)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain_values(value)
    return field.enum_type.values_by_number[value].name if field.enum_type is not None else value

"""Pushes of rows as messages of the public contract: what clients send, what heads answer, and back.

Keys travel as a raw `Column`, rows as a raw `Tensor` or as rows of bytes; how a head reads them is in
`ringpull.inference.head.frontends.writer.messages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringpull.inference.proto import writer_pb2 as pb
from ringpull.inference.push_answer import PushAnswer, PushStamp
from ringpull.inference.wire.codec import check_texts, checked_version
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.inference.wire.lookup_codec import column_of_keys
from ringpull.inference.wire.messages import column_message
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput, ProtocolError

LINEAGE_DIGITS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PushTarget:
    """What a push is for: a table of a lineage of a model."""

    model: str
    table: str
    version: int | None = None
    """Version whose lineage is meant; None: the live one."""
    label: str | None = None
    """Label of that version."""
    lineage: str | None = None
    """Lineage that is meant, 16 hex digits; None: that of the version."""
    only_live: bool = False
    """Whether that lineage has to be the live one."""

    def __post_init__(self) -> None:
        check_texts(model=self.model, table=self.table, label=self.label or "", lineage=self.lineage or "")
        checked_version(self.version)
        if self.lineage is not None:
            check_lineage(self.lineage)
            if self.version is not None or self.label is not None:
                raise InvalidInput("lineage: is given, and so is version or label; give one of them")


def check_lineage(lineage: str) -> None:
    """Check the text of a lineage.

    Raises:
        InvalidInput: It is none.
    """
    if len(lineage) != LINEAGE_DIGITS or not set(lineage) <= set("0123456789abcdef"):
        raise InvalidInput(f"lineage: is {lineage!r:.40}; it must be {LINEAGE_DIGITS} digits of 0-9 and a-f")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SinglePush:
    """Rows that go out as one message, with its number, whichever way it takes."""

    target: PushTarget
    keyed: KeyedRows
    writer: str | int
    """Name of the writer, or number of a nameless one."""
    number: int
    request_id: str = ""

    def message(self) -> pb.PushRequest:
        """Return it as it goes to a head.

        Raises:
            InvalidInput: It cannot be sent; the message says what of it.
        """
        return encode_push(self.target, self.keyed, writer=self.writer, number=self.number, request_id=self.request_id)


def encode_push(
    target: PushTarget,
    keyed: KeyedRows,
    *,
    writer: str | int | None = None,
    number: int = 0,
    request_id: str = "",
) -> pb.PushRequest:
    """Return a push as a message.

    Args:
        writer: Name, or number of a nameless writer; None: it has no number.

    Raises:
        InvalidInput: An argument cannot be sent; the message names it.
    """
    check_texts(request_id=request_id)
    try:
        message = pb.PushRequest(
            model=target.model,
            table=target.table,
            version=target.version or 0,
            label=target.label or "",
            lineage=target.lineage or "",
            only_live=target.only_live,
            number=number,
            keys=column_message(column_of_keys(keyed.keys)),
            request_id=request_id,
        )
        if isinstance(writer, str):
            message.named = writer
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"request: {exc.object!r} is no text: it holds half a character") from exc
    if isinstance(writer, int):
        message.nameless = writer
    rows = keyed.rows
    if rows is None:
        message.remove = True
    elif isinstance(rows, BytesRows):
        message.bytes.data = rows.data.tobytes()
        message.bytes.offsets = rows.offsets.astype("<i8", copy=False).tobytes()
    else:
        message.vectors.shape.extend(rows.shape)
        message.vectors.data = rows.astype("<f4", copy=False).tobytes()
    return message


def decode_pushed(message: pb.PushResponse) -> PushAnswer:
    """Return a message's answer.

    Raises:
        ProtocolError: Its stamp is none.
    """
    try:
        stamp = PushStamp.parse(message.stamp)
    except InvalidInput as exc:
        raise ProtocolError(str(exc)) from exc
    return PushAnswer(
        stamp=stamp,
        rows=message.rows,
        new_keys=message.new_keys,
        repeated=message.repeated,
        copies=message.copies,
        model=message.model,
        version=message.version,
        lineage=message.lineage,
    )

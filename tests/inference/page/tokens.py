"""A head's access by two tokens: one may look and predict, the other may write rows alone."""

from __future__ import annotations

from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens

READER = "s3cret-reader-0123456789"
WRITER = "s3cret-writer-0123456789"

TEXT = f"""
[[token]]
name = "reader"
token = "{READER}"
roles = ["read", "predict"]

[[token]]
name = "writer"
token = "{WRITER}"
roles = ["write"]
"""


def tokens() -> Tokens:
    return Tokens(TokenSettings(entries=parse_tokens(TEXT, "the test")))

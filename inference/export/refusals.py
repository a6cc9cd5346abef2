"""Reasons for which an embedding cannot be expressed as a pull."""


class NotPlain(Exception):
    """Raised when an embedding cannot be expressed as a pull; the text is the reason, as in "its index is constant"."""

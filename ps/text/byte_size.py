"""Amounts of bytes as people read them, everywhere the same: in powers of 1024."""

from __future__ import annotations


def size(count: int) -> str:
    """Return bytes as text: `12.3 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"

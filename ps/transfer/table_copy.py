"""Table copy: one table's folder below a shard's data folder, with its base and the pieces for the next base.

    base-000007/    a base (`ringpull.ps.store`); the highest is in use, a second one is there only while it is replaced
    piece-12345     a piece (`ringpull.ps.transfer.piece`) that begins at slot 12345

A base is never changed: a complete new one appears under the next number, and the old one is deleted; readers of the
old one keep it mapped. After a kill at any moment, opening finds the last complete state.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from ringpull.ps.errors import CorruptData
from ringpull.ps.private_files import make_private_folder
from ringpull.ps.store.base import Base
from ringpull.ps.transfer.piece import Piece

_BASE: Final = re.compile(r"base-(\d{6,})")
_PIECE: Final = re.compile(r"piece-(\d{5})")


class TableCopy:
    """Copy of some ranges of one table. Used under the lock of the `LocalCopies` it belongs to."""

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        """Open the folder, which may be empty or absent, and delete what a killed process left incomplete.

        Args:
            verify: Check all rows against their checksums; a damaged base counts as none.
        """
        self.folder = folder
        self.base: Base | None = None
        self.pieces: list[Piece] = []
        for number in sorted(self._numbers(), reverse=True):
            if self.base is None:
                self.base = _opened(self._base_folder(number), verify=verify)
        self._sweep()
        for path in sorted(folder.glob("piece-*")):
            self._open_piece(path)

    def new_base_folder(self) -> Path:
        """Return the folder for the next base."""
        return self._base_folder(max(self._numbers(), default=0) + 1)

    def new_piece(self, begin: int, row_bytes: int, identity: int) -> Piece:
        """Create a piece that begins at this slot.

        Raises:
            ExportError: The file cannot be written.
        """
        make_private_folder(self.folder)
        piece = Piece.create(self.folder / f"piece-{begin:05d}", begin, row_bytes, identity)
        self.pieces.append(piece)
        return piece

    def piece_at(self, slot: int) -> Piece | None:
        """Return the piece that can be continued at this slot, if any: the last to begin, which may have a tail."""
        return max((piece for piece in self.pieces if piece.until == slot), key=lambda piece: piece.begin, default=None)

    def replace(self, base: Base) -> None:
        """Put `base`, made in `new_base_folder`, into use, and delete the old one."""
        self.base = base
        self._sweep()

    def drop_pieces(self) -> None:
        """Delete all pieces."""
        for piece in self.pieces:
            piece.path.unlink(missing_ok=True)
        self.pieces = []

    def drop(self) -> None:
        """Delete everything, from the disk too."""
        self.base = None
        self.pieces = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def drop_foreign(self, identity: int) -> None:
        """Delete base and pieces of another identity: those of an earlier export under the same name and version."""
        if self.base is not None and self.base.identity != identity:
            self.base = None
            self._sweep()
        for piece in [piece for piece in self.pieces if piece.identity != identity]:
            self.pieces.remove(piece)
            piece.path.unlink(missing_ok=True)

    @property
    def bytes(self) -> int:
        """Size of base and pieces on disk."""
        return (0 if self.base is None else self.base.bytes) + sum(piece.bytes for piece in self.pieces)

    def __repr__(self) -> str:
        return f"<TableCopy {self.folder} {self.base!r} {self.pieces}>"

    def _numbers(self) -> list[int]:
        return [int(found[1]) for path in self.folder.glob("base-*") if (found := _BASE.fullmatch(path.name))]

    def _base_folder(self, number: int) -> Path:
        return self.folder / f"base-{number:06d}"

    def _sweep(self) -> None:
        """Delete every base but the one in use, and unfinished folders."""
        for path in [*self.folder.glob("base-*"), *self.folder.glob(".*.tmp")]:
            if self.base is None or path != self.base.folder:
                shutil.rmtree(path, ignore_errors=True)

    def _open_piece(self, path: Path) -> None:
        try:
            if _PIECE.fullmatch(path.name) is None:
                raise CorruptData(f"{path}: not the name of a piece")
            self.pieces.append(Piece.open(path))
        except CorruptData:
            path.unlink()


def _opened(folder: Path, *, verify: bool) -> Base | None:
    try:
        return Base.open(folder, verify_rows=verify)
    except CorruptData:
        return None  # it is copied anew

"""Arrays of NumPy and of HPS: every type and pairing, and headers that claim what is not there."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ringpull.inference.importers.tables.formats import format_of, open_source
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import KeyType, RowType
from tests.inference.importers.tables.reading import read, read_source

ROWS = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
KEYS = np.array([3, -1, 2**62, 0, 5, 9])


def expected(keys: Any = KEYS, rows: Any = ROWS) -> dict[Any, Any]:
    return dict(zip(np.asarray(keys).tolist(), np.asarray(rows, np.float32).tolist(), strict=True))


@pytest.mark.parametrize(
    ("rows", "row_type"),
    [
        (ROWS, RowType.FLOAT32),
        (ROWS.astype(np.float64), RowType.FLOAT32),
        (ROWS.astype(">f4"), RowType.FLOAT32),
        (ROWS.astype(np.float16), RowType.FLOAT16),
        (ROWS.astype(ml_dtypes.bfloat16), RowType.BFLOAT16),
    ],
    ids=["float32", "float64", "big-endian", "float16", "bfloat16"],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives(tmp_path: Path, rows: Any, row_type: RowType, save: Any) -> None:
    save(tmp_path / "t.npz", keys=KEYS, rows=rows)
    source = open_source(tmp_path / "t.npz")
    assert source.row_type is row_type
    assert read_source(source) == expected(rows=rows)
    assert list(read_source(source, 4)) == KEYS[4:].tolist()


def test_pairs_of_files_and_a_matrix_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", ROWS)
    assert read(tmp_path / "vectors.npy") == expected(range(6))
    assert "keys row numbers" in open_source(tmp_path / "vectors.npy").described
    np.save(tmp_path / "ids.npy", KEYS.astype(np.uint64))
    source = open_source(tmp_path)
    assert source.key_type is KeyType.UINT64
    assert read_source(source) == expected(KEYS.astype(np.uint64))
    names = np.array(["a", "", "zürich", "d", "e", "f"])
    np.save(tmp_path / "names.npy", names)
    with pytest.raises(InvalidInput, match="say which array holds the keys, with id; its arrays are ids"):
        open_source(tmp_path)
    assert read(tmp_path, id="names") == expected(names)


@pytest.mark.parametrize(
    ("arrays", "options", "why"),
    [
        ({"k": KEYS[:5], "v": ROWS}, {}, "has 5 keys, and v 6 vectors"),
        ({"k": KEYS * 0.5, "v": ROWS}, {}, "no array holds keys"),
        ({"k": KEYS * 0.5, "v": ROWS}, {"id": "k"}, "keys must be integers or strings"),
        ({"v": ROWS.astype(np.int32)}, {}, "vectors must be floats"),
        ({"v": ROWS.astype(np.longdouble)}, {}, "save it as float32"),
        ({"v": ROWS.astype(np.complex64)}, {}, "vectors must be floats"),
        ({"v": ROWS[:, :0]}, {}, "vectors have 0 numbers"),
        ({"v": ROWS, "w": ROWS}, {}, "say which array holds the vectors"),
        ({"v": ROWS}, {"vector": ("w",)}, "there is no array 'w'; its arrays are v"),
        ({"v": ROWS}, {"vector": ("v", "w")}, "vectors are one array, not 2"),
        ({"v": ROWS}, {"value": "v"}, "hold no rows of bytes"),
        ({"v": np.asfortranarray(ROWS)}, {}, "lies column by column"),
        ({"v": np.zeros(3, [("a", "f4"), ("b", "f4")])}, {}, "holds records"),
        ({"v": np.where(ROWS[3, 1] == ROWS, np.nan, ROWS)}, {}, "row 3: number 1 of the vector of key 3 is nan"),
        ({"v": ROWS}, {"id_type": "string"}, "its keys are int64"),
    ],
)
def test_what_no_table_can_hold_is_named(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], why: str
) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InvalidInput, match=why):
        read(tmp_path / "t.npz", **options)


class Trap:
    """What would leave a trace if it were unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    trap = np.empty((1, 2), object)
    trap[:] = Trap(tmp_path / "trace")
    np.save(tmp_path / "t.npy", trap, allow_pickle=True)
    with pytest.raises(InvalidInput, match="holds Python objects, which are pickled"):
        read(tmp_path / "t.npy")
    (tmp_path / "t.npy").write_bytes(pickle.dumps(trap))
    with pytest.raises(CorruptData, match="is no array of NumPy"):
        read(tmp_path / "t.npy", format="npy")
    assert not (tmp_path / "trace").exists()


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 64), }\n"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807), }\n"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 64), }\n"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n") + bytes(15),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n") + bytes(17),
        header("__import__('os').system('true')\n"),
        header("(" * 9000),
        header("{'descr': '<f4'"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        b"\x93NUMPY",
    ],
    ids=range(10),
)
def test_headers_that_claim_what_is_not_there(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.npy").write_bytes(content)
    with pytest.raises(CorruptData, match=r"t\.npy: "):
        read(tmp_path / "t.npy")
    with zipfile.ZipFile(tmp_path / "t.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.npy", content)
    with pytest.raises(CorruptData, match=r"v\.npy: "):
        read(tmp_path / "t.npz")


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, keys=KEYS, rows=ROWS)
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[: len(whole) - 5], b"PK\x03\x04" + bytes(50)):
        path.write_bytes(damaged)
        with pytest.raises(CorruptData):
            read(path)
    # The directory says more bytes than there are: a bomb the other way round.
    saved = io.BytesIO()
    np.save(saved, np.zeros((1 << 20, 4), np.float32))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.npy", saved.getvalue()[: 1 << 16])
    size = (1 << 16).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, len(saved.getvalue()).to_bytes(4, "little")))
    with pytest.raises(CorruptData, match="truncated"):
        read(path)


def test_hps_folders(tmp_path: Path) -> None:
    KEYS.astype("<i8").tofile(tmp_path / "key")
    ROWS.tofile(tmp_path / "emb_vector")
    assert format_of(str(tmp_path)) == "hps"
    assert read(tmp_path) == expected()
    assert list(read_source(open_source(tmp_path), 5)) == [9]
    with pytest.raises(InvalidInput, match="have no columns"):
        read(tmp_path, id="key")
    (tmp_path / "emb_vector").write_bytes(ROWS.tobytes()[:-4])
    with pytest.raises(CorruptData, match="no vectors for 6 keys; one of the two is truncated"):
        read(tmp_path)
    (tmp_path / "key").write_bytes(bytes(13))
    with pytest.raises(CorruptData, match="no int64 keys"):
        read(tmp_path)
    (tmp_path / "key").unlink()
    with pytest.raises(InvalidInput, match="there is no file key"):
        read(tmp_path, format="hps")


def test_keys_with_half_a_character_are_refused_by_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", keys=np.array(["a", "b", "bad\ud83d"]), rows=np.ones((3, 2), np.float32))
    with pytest.raises(InvalidInput, match=r"row 2.*: the key 'bad.* half a character"):
        read(tmp_path / "t.npz")

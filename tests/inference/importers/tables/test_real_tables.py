"""Tables of real data, where `RINGPULL_DATA` names it: item2vec's and users' vectors as text, titles in Parquet."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ringpull.inference.importers.tables.import_tables import import_tables
from tests.inference.importers.tables.reading import read, written


def real_folder(name: str) -> Path:
    """Return a folder of `RINGPULL_DATA`, or skip the test and say why."""
    named = os.environ.get("RINGPULL_DATA")
    if not named:
        pytest.skip("RINGPULL_DATA is not set: it names the folder of real data")
    for folder in (Path(named) / name, Path(named).parent / name):
        if folder.is_dir():
            return folder
    pytest.skip(f"RINGPULL_DATA is {named!r}, and {name} is neither in it nor beside it")


@pytest.mark.medium
def test_vectors_of_items_and_users_as_text(tmp_path: Path) -> None:
    models = real_folder("sparrowrecsys") / "modeldata"
    files = {"item": models / "item2vecEmb.csv", "user": models / "userEmb.csv"}
    import_tables(files, tmp_path / "sparrow", 1, quiet=True)
    for table, file in files.items():
        lines = (line.split(":") for line in file.read_text().splitlines())
        expected = {int(key): [float(np.float32(number)) for number in row.split()] for key, row in lines}
        assert written(tmp_path / f"sparrow/1/tables/{table}") == expected


def test_titles_in_parquet() -> None:
    path = real_folder("ml1m_pairs") / "movies.parquet"
    columns = pq.read_table(path).to_pydict()
    key, title = list(columns)[:2]
    expected = {each: text.encode() for each, text in zip(columns[key], columns[title], strict=True)}
    assert read(path, id=key, value=title) == expected

"""Full names of tables: which table a name means, where names have dots themselves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ringpull.inference.head.request.full_names import table_of
from ringpull.ps.errors import InvalidInput, NotFound


@dataclass
class Version:
    key: tuple[str, int]
    tables: list[str]


class Catalog:
    def __init__(self, **models: list[list[str]]) -> None:
        """`models`: per model the tables of its versions; `_` in a name stands for a dot."""
        self.versions = [
            Version((model.replace("_", "."), number), tables)
            for model, versions in models.items()
            for number, tables in enumerate(versions, 1)
        ]

    def served(self) -> list[Version]:
        return self.versions


def test_a_table_is_found_in_any_version_of_a_model() -> None:
    catalog = Catalog(m=[["old"], ["new", "a.b"]], n_o=[["t"]])
    assert table_of(catalog, "m.old") == ("m", "old")
    assert table_of(catalog, "m.new") == ("m", "new")
    assert table_of(catalog, "m.a.b") == ("m", "a.b")
    assert table_of(catalog, "n.o.t") == ("n.o", "t")


@pytest.mark.parametrize("name", ["m", "m.", ".old", "m.older", "x.old", "", ".", "m.old.", "m..old"])
def test_what_is_no_table(name: str) -> None:
    with pytest.raises(NotFound, match=r"m\.old|is a model"):
        table_of(Catalog(m=[["old"]]), name)


def test_a_model_of_that_name_wins() -> None:
    with pytest.raises(NotFound, match=r"m\.t is a model, and no table"):
        table_of(Catalog(m=[["t"]], m_t=[["u"]]), "m.t")


def test_what_a_model_stands_before_is_not_offered() -> None:
    with pytest.raises(NotFound, match=r"tables: m\.s, m\.t\.u$"):
        table_of(Catalog(m=[["s", "t"]], m_t=[["u"]]), "m.x")


def test_two_readings_are_both_named() -> None:
    with pytest.raises(InvalidInput, match=r"table b\.t of model a and table t of model a\.b"):
        table_of(Catalog(a=[["b.t"]], a_b=[["t"]]), "a.b.t")

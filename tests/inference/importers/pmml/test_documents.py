"""Documents of PMML that are hostile, cut short, or none: each is refused, by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringpull.inference.importers.pmml.document import MAX_DEPTH, read_document
from ringpull.inference.importers.pmml.model import read_pmml
from ringpull.ps.errors import CorruptData, InvalidInput
from tests.inference.importers.pmml.documents import pmml, regression, schema, written

BOMB = """<?xml version="1.0"?>
<!DOCTYPE PMML [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>
<PMML version="4.4">&c;</PMML>"""
OUTSIDE = '<!DOCTYPE PMML [<!ENTITY x SYSTEM "file:///etc/passwd">]><PMML version="4.4">&x;</PMML>'
TYPE = '<!DOCTYPE PMML SYSTEM "http://127.0.0.1:1/pmml.dtd"><PMML version="4.4"/>'


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, TYPE])
def test_entities_and_document_types_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="document type or entities"):
        read_pmml(written(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00\x01",
        "no XML",
        regression("none")[:1500],
        "<PMML><a></b></PMML>",
        '<?xml version="1.0" encoding="x"?><a/>',
    ],
)
def test_what_is_no_xml_is_named_by_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match=r"model\.pmml"):
        read_pmml(written(tmp_path, text))
    with pytest.raises(CorruptData):
        read_pmml(tmp_path / "nowhere.pmml")


def test_other_documents_are_refused(tmp_path: Path) -> None:
    for text, why in {
        "<html/>": "is no PMML",
        '<PMML version="2.0"/>': "3.x and 4.x are known",
        '<PMML version="4.4"/>': "has no <DataDictionary>",
        pmml(""): "one of 0 models",
        pmml('<TreeModel functionName="regression"/>' * 2): "one of 2 models",
    }.items():
        with pytest.raises(InvalidInput, match=why):
            read_pmml(written(tmp_path, text))


def test_depth_is_bounded(tmp_path: Path) -> None:
    deep = "<Node><True/>" * 100_000 + "</Node>" * 100_000
    text = pmml(f'<TreeModel functionName="regression">{schema()}{deep}</TreeModel>')
    with pytest.raises(InvalidInput, match=f"lies {MAX_DEPTH} elements deep"):
        read_pmml(written(tmp_path, text))
    nodes = MAX_DEPTH - 3
    fits = "<Node><True/>" * nodes + "</Node>" * nodes
    read = read_pmml(written(tmp_path, pmml(f'<TreeModel functionName="regression">{schema()}{fits}</TreeModel>')))
    assert read.graph().graph.node


def test_long_attributes_are_read_and_told_in_short(tmp_path: Path) -> None:
    text = pmml(f'<TreeModel functionName="{"x" * 1_000_000}"/>')
    with pytest.raises(InvalidInput, match="functionName") as raised:
        read_pmml(written(tmp_path, text))
    assert len(str(raised.value)) < 1_000


def test_arrays_are_words_or_quoted_texts(tmp_path: Path) -> None:
    text = '<PMML version="4.4"><Array n="4">red "light blue" "a \\"b\\"" 3</Array><Array n="2">1 2 3</Array></PMML>'
    arrays = read_document(written(tmp_path, text)).all("Array")
    assert arrays[0].array() == ["red", "light blue", 'a "b"', "3"]
    with pytest.raises(InvalidInput, match="line 1: <Array> has 3 values"):
        arrays[1].numbers()


def test_extensions_and_prefixes_are_passed_over(tmp_path: Path) -> None:
    text = regression("none").replace("<Header", "<Extension name='a'><b c='d'/></Extension><Header")
    text = text.replace("<NumericPredictor", "<Extension/><NumericPredictor")
    expected = len(read_pmml(written(tmp_path, text)).graph().graph.node)
    prefixed = text.replace("</", "</p:").replace("<", "<p:").replace("<p:/p:", "</p:").replace("<p:?", "<?")
    prefixed = prefixed.replace('xmlns="', 'xmlns:p="')
    assert len(read_pmml(written(tmp_path, prefixed)).graph().graph.node) == expected

"""Functions that a document defines itself: graph and plain evaluator give what is told here by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ringpull.inference.importers.pmml.defined_functions import MAX_DEPTH
from ringpull.ps.errors import InvalidInput
from tests.inference.importers.pmml.test_standard import read, regression, scores

LINE = """<DefineFunction name="line" optype="continuous" dataType="double">
<ParameterField name="x" dataType="double"/><ParameterField name="slope"/>
<Apply function="+"><Apply function="*"><FieldRef field="x"/><FieldRef field="slope"/></Apply><Constant>1</Constant>
</Apply></DefineFunction>"""
"""A function whose parameter is called like a field of the model."""
BOTH = """<DefineFunction name="both" optype="continuous"><ParameterField name="a"/>
<Apply function="line"><Apply function="line"><FieldRef field="a"/><Constant>2</Constant></Apply>
<Constant>10</Constant></Apply></DefineFunction>"""


def calling(call: str, functions: str = LINE, local: str = "") -> tuple[str, str]:
    """Return a model that predicts 0.5 more than a call gives, and the shared functions."""
    derived = (
        f'<LocalTransformations>{local}<DerivedField name="d" optype="continuous" dataType="double">{call}'
        "</DerivedField></LocalTransformations>"
    )
    return regression(field="d", inner=derived), f"<TransformationDictionary>{functions}</TransformationDictionary>"


def call(name: str, *arguments: str, more: str = "") -> str:
    return f'<Apply function="{name}" {more}>{"".join(arguments)}</Apply>'


X = '<FieldRef field="x"/>'


def number(value: float | str) -> str:
    return f"<Constant>{value}</Constant>"


def test_functions_are_computed_of_their_parameters(tmp_path: Path) -> None:
    model, shared = calling(call("line", call("abs", X), number(3)))
    assert scores(read(tmp_path, model, shared=shared), 2.0, -4.0)["prediction"] == [7.5, 13.5]


def test_functions_call_functions_wherever_they_are_defined(tmp_path: Path) -> None:
    """`both` is local and defined before the shared one that it calls."""
    model, shared = calling(call("both", X), LINE, local=BOTH)
    assert scores(read(tmp_path, model, shared=shared), 1.0, -3.0)["prediction"] == [31.5, -48.5]


def test_what_is_missing_is_mapped_by_the_call(tmp_path: Path) -> None:
    root = (
        '<DefineFunction name="root"><ParameterField name="p"/><Apply function="sqrt"><FieldRef field="p"/></Apply>'
        "</DefineFunction>"
    )
    for more, expected in {
        "": [2.5, np.nan, np.nan],
        'mapMissingTo="7"': [2.5, np.nan, 7.5],
        'defaultValue="3"': [2.5, 3.5, np.nan],
        'mapMissingTo="7" defaultValue="3"': [2.5, 3.5, 7.5],
    }.items():
        model, shared = calling(call("root", X, more=more), root)
        found = scores(read(tmp_path, model, shared=shared), 4.0, -4.0, np.nan)["prediction"]
        np.testing.assert_array_equal(found, expected)


def test_constants_given_to_parameters_are_compared_as_they_are_written(tmp_path: Path) -> None:
    """A request's float32 of 0.7 equals the 0.7 that the call gives, below it too."""
    same = (
        '<DefineFunction name="same"><ParameterField name="one"/><ParameterField name="other"/>'
        '<Apply function="if"><Apply function="equal"><FieldRef field="one"/><FieldRef field="other"/></Apply>'
        "<Constant>1</Constant><Constant>0</Constant></Apply></DefineFunction>"
    )
    model, shared = calling(call("same", X, '<Constant dataType="double">0.7</Constant>'), same)
    assert scores(read(tmp_path, model, shared=shared), 0.7, 0.8)["prediction"] == [1.5, 0.5]


def test_parameters_declared_as_float_are_rounded(tmp_path: Path) -> None:
    twice = (
        '<DefineFunction name="tenth" dataType="float"><ParameterField name="p" dataType="float"/>'
        '<Apply function="/"><FieldRef field="p"/><Constant>3</Constant></Apply></DefineFunction>'
    )
    model, shared = calling(call("-", call("tenth", X), number(1 / 3)), twice)
    found = scores(read(tmp_path, model, shared=shared), 1.0)["prediction"]
    assert found == [float(np.float32(0.5 + (float(np.float32(1 / 3)) - 1 / 3)))]


@pytest.mark.parametrize("kind", ["string", ""])
def test_texts_go_through_functions(kind: str, tmp_path: Path) -> None:
    """The value that only the function's body mentions is known of the field that is given to it."""
    declared = f'dataType="{kind}"' if kind else ""
    known = (
        f'<DefineFunction name="known" {declared}><ParameterField name="p" {declared}/><Apply function="if">'
        '<Apply function="isIn"><FieldRef field="p"/><Constant>maybe</Constant><Constant>yes</Constant></Apply>'
        '<FieldRef field="p"/><Constant dataType="string">no</Constant></Apply></DefineFunction>'
    )
    model, shared = calling(
        '<NormDiscrete field="told" value="maybe"/>',
        known,
        local='<DerivedField name="told" optype="categorical" dataType="string"><Apply function="known">'
        '<FieldRef field="c"/></Apply></DerivedField>',
    )
    fields = '<DataField name="c" optype="categorical" dataType="string"/>'
    model = model.replace("</MiningSchema>", '<MiningField name="c"/></MiningSchema>')
    made = read(tmp_path, model, shared=shared, fields=fields)
    arguments = made.schema.arguments(
        made.schema.prepare({"x": np.zeros((4, 1)), "c": ["maybe", "yes", "other", ""]}, 4)
    )
    expected = made.evaluate(arguments)["prediction"][:, 0]
    assert expected[:3].tolist() == [1.5, 0.5, 0.5]
    assert np.isnan(expected[3])


def chain(length: int, times: int = 1) -> str:
    """Return functions of which each calls the one before."""
    made = '<DefineFunction name="f0"><ParameterField name="p"/><FieldRef field="p"/></DefineFunction>'
    for each in range(1, length):
        inner = f'<Apply function="f{each - 1}"><FieldRef field="p"/></Apply>' * times
        body = f'<Apply function="sum">{inner}</Apply>'
        made += f'<DefineFunction name="f{each}"><ParameterField name="p"/>{body}</DefineFunction>'
    return made


def test_functions_lie_within_each_other_up_to_a_limit(tmp_path: Path) -> None:
    model, shared = calling(call(f"f{MAX_DEPTH - 1}", X), chain(MAX_DEPTH))
    assert scores(read(tmp_path, model, shared=shared), 2.0)["prediction"] == [2.5]
    for functions, name in ((chain(MAX_DEPTH + 1), f"f{MAX_DEPTH}"), (chain(30, times=2), "f29")):
        model, shared = calling(call(name, X), functions)
        with pytest.raises(InvalidInput, match=r"line \d+: <DefineFunction> 'f\d+' (lies|is made of)"):
            read(tmp_path, model, shared=shared)


def defined(name: str, body: str, parameters: str = "p") -> str:
    fields = "".join(f'<ParameterField name="{each}"/>' for each in parameters)
    return f'<DefineFunction name="{name}">{fields}{body}</DefineFunction>'


P = '<FieldRef field="p"/>'
REFUSED = {
    "calls itself: f -> g -> f": defined("f", call("g", P)) + defined("g", call("f", P)),
    "names 't' in line": defined("f", '<FieldRef field="t"/>'),
    "has not one expression": defined("f", ""),
    "is the second one called 'f'": defined("f", P) * 2,
    "gives 'f' 1 arguments; it has 2": defined("f", P, "pq"),
    "function='f', which is not known here, nor defined": LINE,
}


@pytest.mark.parametrize("why", REFUSED)
def test_functions_that_cannot_be_are_refused_by_name_and_line(why: str, tmp_path: Path) -> None:
    model, shared = calling(call("f", X), REFUSED[why])
    with pytest.raises(InvalidInput, match=rf"model\.pmml: line \d+: <\w+> .*{why}"):
        read(tmp_path, model, shared=shared)


def test_functions_that_nothing_uses_are_not_read(tmp_path: Path) -> None:
    shared = f"<TransformationDictionary>{defined('f', call('magic', P))}</TransformationDictionary>"
    assert scores(read(tmp_path, regression(), shared=shared), 1.0)["prediction"] == [1.5]

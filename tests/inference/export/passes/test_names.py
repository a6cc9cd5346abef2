"""Names of weights are made names of tables."""

from __future__ import annotations

from torch import fx

from ringpull.inference.export.passes.names import _valid
from ringpull.ps.spec import check_name


def named(*names: str) -> list[str]:
    graph = fx.Graph()
    made = list(_valid({graph.placeholder(f"p{place}"): name for place, name in enumerate(names)}).values())
    for each in made:
        check_name("table", each)
    return made


def test_valid_names_stay() -> None:
    assert named("user", "tower.item_2", "a-b") == ["user", "tower.item_2", "a-b"]


def test_other_characters_are_underscores_and_no_two_weights_share_a_name() -> None:
    assert named("u+i.emb", "u i.emb", "u_i.emb", "u+i.emb") == ["u_i.emb_2", "u_i.emb_3", "u_i.emb", "u_i.emb_2"]


def test_names_that_begin_with_a_dot_or_are_too_long_or_nothing() -> None:
    long = "x" * 200
    assert named(".a", "é", long, f"y{long}", "+", ".") == [
        "a", "_", "x" * 120, f"{'x' * 120}_2", "__2", "weight",
    ]  # fmt: skip

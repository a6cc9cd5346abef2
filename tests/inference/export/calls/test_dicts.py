"""A method whose one parameter is the whole batch reads it like a dict, or an object, of the schema's arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError, InvalidInput
from tests.inference.export.calls.served import export_and_compare, table_names

SCHEMA = Schema([Sparse("user"), Sparse("item"), Dense("age"), IdSequence("seen", length=4), Sparse("unread")])
COLUMNS: dict[str, Any] = {
    "user": np.array([1, 5, 0]),
    "item": np.array([2, 2, 9]),
    "age": np.array([0.5, -1.0, 2.0], np.float32),
    "seen": Ragged(np.arange(1, 8), np.array([0, 2, 3, 7])),
    "unread": np.array([0, 1, 2]),
}


class OneDict(nn.Module):
    """A model that reads its features of one dict."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(10, 4), nn.Embedding(10, 4)
        self.out = nn.Linear(4, 1)

    def score(self, user: Tensor, item: Tensor, age: Tensor) -> Tensor:
        return torch.sigmoid(self.out(self.users(user) * self.items(item)) + age)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return self.score(x["user"], x["item"], x["age"])

    def by_attribute(self, batch: Any) -> Tensor:
        return self.score(batch.user, batch.item, batch.age)

    def by_get(self, x: Any) -> Tensor:
        weight = x.get("weight", 2.0)
        assert "mask" not in x
        assert isinstance(x, dict)
        return self.score(x.get("user"), x["item"], x["age"]) * weight

    def by_iteration(self, x: Any) -> Tensor:
        found = {name: each.clone() for name, each in x.items() if name in ("user", "item", "age")}
        assert list(x) == list(x.keys())
        assert len(x) == len(x.values())
        return self.score(**found)

    def of_two(self, batch: Any, flag: bool = False) -> Tensor:
        assert not flag
        return self.score(batch["user_id"], batch["item"], batch["age"])

    def of_data(self, user: Tensor, item: Tensor, age: Tensor) -> Tensor:
        return self.score(user, item, age).masked_fill_(user.data.eq(0).unsqueeze(1), -1.0)

    def nested(self, batch: Any) -> Tensor:
        user, (item, age) = batch["who"]["user"], batch["what"]
        return self.score(user, item, age)

    def unpacked(self, **named: Tensor) -> Tensor:
        return self.score(named["user"], named["item"], named["age"])

    def positional(self, user: Tensor, item: Tensor, /, age: Tensor) -> Tensor:
        return self.score(user, item, age)

    def listed(self, *some: Tensor) -> Tensor:
        return self.score(*some)

    def like_a_tensor(self, x: Any) -> Tensor:
        return self.users(x[:, 0].long()).sum(1)

    def given_to_torch(self, x: Any) -> Tensor:
        return self.users(x)


def plain(module: OneDict) -> Any:
    return lambda made: module.score(made["user"], made["item"], made["age"])


@pytest.mark.parametrize("method", ["forward", "by_attribute", "by_iteration", "unpacked", "positional"])
def test_one_dict_is_read_by_key_attribute_or_iteration(tmp_path: Path, method: str) -> None:
    module = OneDict()
    report = export_and_compare(module, SCHEMA, tmp_path, COLUMNS, plain(module), method=method)
    assert table_names(report) == ["items", "users"]
    assert [each.argument for each in report.manifest.inputs if each.argument] == ["age"], "only what is read"


def test_get_gives_defaults_for_what_the_schema_does_not_make(tmp_path: Path) -> None:
    module = OneDict()
    export_and_compare(module, SCHEMA, tmp_path, COLUMNS, lambda made: plain(module)(made) * 2.0, method="by_get")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("of_two", {"user_id": "user"}),
        ("of_two", {"user_id": "user", "of_no_use": "seen"}),
        ("of_two", {"batch": {"user_id": "user", "item": "item", "age": "age"}}),
        ("nested", {"who": {"user": "user"}, "what": ("item", "age")}),
        ("listed", {"some": ["user", "item", "age"]}),
        ("unpacked", {"user": "user", "item": "item", "age": "age"}),
        ("unpacked", {"named": {"user": "user", "item": "item", "age": "age"}}),
    ],
)
def test_arguments_says_what_parameters_and_keys_are(tmp_path: Path, method: str, arguments: dict[str, Any]) -> None:
    module = OneDict()
    export_and_compare(module, SCHEMA, tmp_path, COLUMNS, plain(module), method=method, arguments=arguments)


def test_the_data_of_a_tensor_is_followed_in_the_trace(tmp_path: Path) -> None:
    module = OneDict()
    ask = lambda made: module.of_data(made["user"], made["item"], made["age"])  # noqa: E731
    export_and_compare(module, SCHEMA, tmp_path, COLUMNS, ask, method="of_data")


def test_a_module_needs_no_forward(tmp_path: Path) -> None:
    class Predicts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(10, 4)

        def predict(self, interaction: Any, scale: float) -> Tensor:
            return self.items(interaction["item"]).sum(1) * scale

    module = Predicts()
    with pytest.raises(
        InvalidInput, match=r"Predicts has no such method. Name the one that scores by method=, of predict"
    ):
        export_model(module, SCHEMA, tmp_path / "refused", 1, quiet=True)
    report = export_and_compare(
        module,
        SCHEMA,
        tmp_path,
        COLUMNS,
        lambda made: module.items(made["item"]).sum(1) * 3.0,
        method="predict",
        arguments={"scale": 3.0},
    )
    assert table_names(report) == ["items"]


@pytest.mark.parametrize(
    ("method", "arguments", "match"),
    [
        (
            "of_two",
            {},
            r"OneDict.of_two takes 'batch'.*user, item, age.*reads 'user_id' of it; did you mean 'user'\? Declare",
        ),
        ("of_two", {"user_id": "usr"}, r"arguments\['user_id'\] is 'usr'.*did you mean 'user'\?"),
        ("by_get", {"weigth": 1.0}, "arguments names 'weigth', which OneDict.by_get neither .* asks for 'weight'"),
        ("of_two", {"batch": {"item": "item"}}, r"reads 'user_id' of it, that is of arguments\['batch'\], which has"),
        ("score", {"other": "user"}, "arguments names 'other', which OneDict.score does not take; it takes user, item"),
        ("like_a_tensor", {}, "indexes it like a tensor"),
        ("given_to_torch", {}, "gives it to embedding like a tensor"),
        ("score", {"user": 1, "item": 2, "age": 0.5}, "takes no argument of the schema"),
    ],
)
def test_what_no_argument_fits_is_refused_by_name(
    tmp_path: Path, method: str, arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(ExportError, match=match):
        export_model(OneDict(), SCHEMA, tmp_path / "model", 1, method=method, arguments=arguments, quiet=True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "forwards"}, "method is 'forwards'; OneDict has no such method"),
        ({"arguments": {"x": object()}}, "it must be the name of an argument of the schema, a list"),
        ({"arguments": {3: "user"}}, "has the key 3; it must be the name of a parameter"),
        ({"method": "listed", "arguments": {"some": "user"}}, r"takes \*some.*; give it a list"),
        ({"method": "unpacked", "arguments": {"named": "user"}}, r"takes \*\*named.*; give it a dict"),
    ],
)
def test_what_is_no_argument_at_all_is_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        export_model(OneDict(), SCHEMA, tmp_path / "model", 1, quiet=True, **options)

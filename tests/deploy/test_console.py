"""What the console prints."""

from __future__ import annotations

import json
from math import inf, nan

import pytest

from ringpull.deploy.view.console import print_json, size


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB"), (2 << 40, "2.0 TiB")],
)
def test_sizes_as_people_read_them(count: int, told: str) -> None:
    assert size(count) == told


def test_what_json_has_not_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    """A score may be anything that a model computes; a program that reads it takes no NaN."""

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    print_json({"score": [0.5, nan, (inf, -inf)], "rows": 3, "ok": True})
    printed = json.loads(capsys.readouterr().out, parse_constant=refused)
    assert printed == {"score": [0.5, None, [None, None]], "rows": 3, "ok": True}

"""What the console prints."""

from __future__ import annotations

import json
from math import inf, nan

import pytest

from ringpull.deploy.view.console import print_json


def test_what_json_has_not_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    """A score may be anything that a model computes; a program that reads it takes no NaN."""

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    print_json({"score": [0.5, nan, (inf, -inf)], "rows": 3, "ok": True})
    printed = json.loads(capsys.readouterr().out, parse_constant=refused)
    assert printed == {"score": [0.5, None, [None, None]], "rows": 3, "ok": True}

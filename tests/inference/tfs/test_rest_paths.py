"""Paths of the REST API: what they name, and what is malformed."""

from __future__ import annotations

import pytest

from ringpull.inference.head.frontends.tfs.rest_paths import RestPath
from ringpull.ps.errors import InvalidInput, NotFound

MAX = 2**63 - 1


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/models/m:predict", RestPath("m", 0, "", "predict")),
        ("POST", "/v1/models/m:classify", RestPath("m", 0, "", "classify")),
        ("POST", "/v1/models/m:regress", RestPath("m", 0, "", "regress")),
        ("POST", "/v1/models/m/versions/7:predict", RestPath("m", 7, "", "predict")),
        ("POST", "/v1/models/m/versions/007:predict", RestPath("m", 7, "", "predict")),
        ("POST", f"/v1/models/m/versions/{MAX}:predict", RestPath("m", MAX, "", "predict")),
        ("POST", "/v1/models/m/labels/stable:predict", RestPath("m", 0, "stable", "predict")),
        ("POST", "/V1/MODELS/Mixed/Labels/Stable:PREDICT", RestPath("Mixed", 0, "Stable", "predict")),
        ("POST", "/v1/models/a%2Fb%3Ac.d%C3%A9:predict", RestPath("a/b:c.dé", 0, "", "predict")),
        ("POST", "/v1/models/a+b/labels/a%2Fb:predict", RestPath("a+b", 0, "a/b", "predict")),
        ("GET", "/v1/models/m", RestPath("m", 0, "", "status")),
        ("HEAD", "/v1/models/m", RestPath("m", 0, "", "status")),
        ("GET", "/v1/models/m.n/versions/2", RestPath("m.n", 2, "", "status")),
        ("GET", "/v1/models/m/labels/stable", RestPath("m", 0, "stable", "status")),
        ("GET", "/v1/models/m/metadata", RestPath("m", 0, "", "metadata")),
        ("GET", "/v1/models/m/versions/2/METADATA", RestPath("m", 2, "", "metadata")),
    ],
)
def test_what_a_path_names(method: str, path: str, expected: RestPath) -> None:
    assert RestPath.read(method, path) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/m:predict"),
        ("GET", "/v1/models/m/version/50"),
        ("POST", "/v1/models/m"),
        ("POST", "/v1/models/m:forget"),
        ("POST", "/v1/models/m:predict/"),
        ("POST", "/v1/models/m/version/50:regress"),
        ("POST", "/v1/models/m/versions/HELLO:regress"),
        ("POST", "/v1/models/m/versions/-1:regress"),
        ("POST", "/v1/models/m/versions/٣:regress"),
        ("POST", "/v1/models/m/versions/1/labels/a:predict"),
        ("POST", "/v1/models/:predict"),
        ("PUT", "/v1/models/m:predict"),
        ("OPTIONS", "/v1/models/m:predict"),
        ("BREW", "/v1/models/m"),
    ],
)
def test_what_is_malformed(method: str, path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RestPath.read(method, path)
    assert str(caught.value) == f"Malformed request: {method} {path}"


def test_a_long_path_is_not_sent_back() -> None:
    with pytest.raises(InvalidInput) as caught:
        RestPath.read("PUT", "/v1/models/" + "x" * 10_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("digits", [str(MAX + 1), str(2**64 - 1), "9" * 5_000], ids=["over", "uint64", "long"])
def test_a_version_beyond_int64(digits: str) -> None:
    with pytest.raises(InvalidInput, match="Failed to convert version: "):
        RestPath.read("POST", f"/v1/models/m/versions/{digits}:predict")


def test_version_0_is_none_of_ours() -> None:
    with pytest.raises(NotFound, match=r"Servable not found for request: Specific\(m, 0\)"):
        RestPath.read("POST", "/v1/models/m/versions/0:predict")


@pytest.mark.parametrize("path", ["/v1/models/%ff:predict", "/v1/models/m/labels/%C3:predict"])
def test_escapes_that_are_no_text(path: str) -> None:
    with pytest.raises(InvalidInput, match="Failed to decode model"):
        RestPath.read("POST", path)

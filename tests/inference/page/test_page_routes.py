"""The page's files: what they are answered with, that they are shipped, and that nothing comes from outside."""

from __future__ import annotations

import re

import httpx
import pytest

from ringpull.inference.head.frontends.http.gate import FREE, PAGE
from ringpull.inference.head.frontends.page.routes import FILES, FOLDER, POLICY
from tests.inference.page.page_head import PageHead

pytestmark = pytest.mark.net


def test_paths_are_those_that_are_free() -> None:
    assert set(FILES) == PAGE
    assert PAGE <= FREE


@pytest.mark.medium
@pytest.mark.parametrize("path", FILES)
def test_a_file_with_its_headers(head: PageHead, path: str) -> None:
    answer = httpx.get(head.url.rstrip("/") + path, trust_env=False)
    name, kind = FILES[path]
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    again = httpx.get(str(answer.url), headers={"If-None-Match": answer.headers["etag"]}, trust_env=False)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    other = httpx.get(str(answer.url), headers={"If-None-Match": '"another build"'}, trust_env=False)
    assert other.status_code == 200


def test_the_policy_lets_nothing_in_but_the_files() -> None:
    allowed = dict(each.partition(" ")[::2] for each in POLICY.split("; "))
    assert allowed.pop("img-src") == "data:"
    assert set(allowed.values()) == {"'none'", "'self'"}
    assert allowed["default-src"] == "'none'"


@pytest.mark.parametrize("name", sorted(name for name, _ in FILES.values()))
def test_nothing_comes_from_outside_and_text_is_never_html(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    addresses = set(re.findall(r"\w+://[^\s\"')]*", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "Function("):
        assert way not in text
    for keeps in ("localStorage", "sessionStorage", "document.cookie", "indexedDB"):
        assert keeps not in text, "a token is kept in memory only"
    assert not re.search(r"<[^>]*\s(style|on\w+)=", text), "the policy lets no such attribute work"

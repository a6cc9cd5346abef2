"""Who is let in by which token, and a file of tokens that changes while it is used."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ringpull.inference.head.access import ANY_ROLE, Unasked
from ringpull.inference.head.tokens import tokens as tokens_module
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.scrape_check import ScrapeCheck, scrape_check
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.ps.errors import Forbidden, InvalidInput, Unauthenticated, Unavailable
from ringpull.router.control.verbs import Role

SECRETS = {role: f"secret-of-{role.value}-0123456789" for role in Role}


def text_of(**tokens: str) -> str:
    """Name -> secret, each with the role of its name, or to read."""
    return "".join(
        f'[[token]]\nname = "{name}"\ntoken = "{secret}"\nroles = ["{name if name in list(Role) else "read"}"]\n'
        for name, secret in tokens.items()
    )


ALL = text_of(**{role.value: secret for role, secret in SECRETS.items()})


def by_text(text: str = ALL) -> Tokens:
    return Tokens(TokenSettings(entries=parse_tokens(text, "here")))


@pytest.mark.parametrize(
    ("has", "may"),
    [
        (Role.READ, {Role.READ}),
        (Role.PREDICT, {Role.PREDICT}),
        (Role.WRITE, {Role.WRITE}),
        (Role.OPERATE, {Role.OPERATE, Role.READ}),
    ],
)
def test_each_role_may_what_it_says(has: Role, may: set[Role]) -> None:
    tokens = by_text()
    shown = f"Bearer {SECRETS[has]}"
    for role in Role:
        if role in may:
            assert tokens.admit(shown, role).name == has
        else:
            with pytest.raises(Forbidden, match=f"token {has} may not do that: it has .*{has}.*, and {role} is needed"):
                tokens.admit(shown, role)
    assert tokens.admit(shown, *ANY_ROLE).name == has
    assert tokens.admit(shown, Role.READ, *may).name == has


GOOD = SECRETS[Role.READ]


@pytest.mark.parametrize(
    "shown",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        GOOD,
        f"bearer{GOOD}",
        f"Bearers {GOOD}",
        f"Bearer{' ' * 10_000}{GOOD}",
        f"Bearer Bearer {GOOD}",
        f"Bearer \t{GOOD}",
        f"Basic {GOOD}",
        f"Bearer{GOOD}",
        f" Bearer {GOOD}",
        f"Bearer {GOOD} ",
        f"Bearer {GOOD}\n",
        f"Bearer\t{GOOD}",
        f"Bearer {GOOD}, Bearer {GOOD}",
        f"Bearer {GOOD},Bearer {GOOD}",
        f"Bearer {GOOD}x",
        f"Bearer {GOOD[:-1]}",
        f"Bearer {GOOD.upper()}",
        f"Bearer {GOOD}é",
        "Bearer \udce9",
        "Bearer \x00" + GOOD,
        "Bearer " + "x" * (1 << 20),
        "x" * (1 << 20),
        " " * (1 << 20),
    ],
    ids=lambda shown: repr(shown)[:30],
)
def test_what_is_no_token_of_ours(shown: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        by_text().admit(shown, Role.READ)
    assert GOOD not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEARER"])
@pytest.mark.parametrize("spaces", [1, 2, 50])
def test_a_scheme_is_known_in_any_case(scheme: str, spaces: int) -> None:
    assert by_text().admit(scheme + " " * spaces + GOOD, Role.READ).name == Role.READ


def test_every_secret_is_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, compared = by_text(), []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for secret in (*SECRETS.values(), "nobody-knows-this-one"):
        compared.clear()
        with contextlib.suppress(Unauthenticated):
            tokens.admit(f"Bearer {secret}", *ANY_ROLE)
        assert len(compared) == len(SECRETS), secret


def test_a_digest_is_as_good_as_the_secret_but_opens_nothing() -> None:
    digest = "8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918"  # of "admin": a hash has any length
    tokens = by_text(f'[[token]]\nname = "a"\nsha256 = "{digest}"\nroles = ["read"]')
    assert tokens.admit("Bearer admin", Role.READ).name == "a"
    with pytest.raises(Unauthenticated):
        tokens.admit(f"Bearer {digest}", Role.READ)


def test_nobody_is_asked_where_there_are_none() -> None:
    for shown in (None, "Bearer whatever", "Basic \xe9"):
        assert Unasked().admit(shown, *ANY_ROLE).quota is None
        assert Unasked().admit(shown, Role.PREDICT).name == "anyone"
    assert not TokenSettings().asked
    assert scrape_check(TokenSettings()) is None


# -- a file that changes -----------------------------------------------------------------------------------------------


class File:
    """A file of tokens, and what is read of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens.toml"
        self.put(text_of(old="old-secret-0123456789"))
        self.tokens = Tokens(TokenSettings(file=str(self.path)))

    def put(self, text: str, path: Path | None = None) -> None:
        path = path or self.path
        path.write_text(text)
        path.chmod(0o600)

    def may(self, secret: str) -> bool:
        self.tokens.look()
        try:
            self.tokens.admit(f"Bearer {secret}", *ANY_ROLE)
        except Unauthenticated:
            return False
        return True


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path)


NEW = text_of(new="new-secret-0123456789")


def written_in_place(file: File) -> None:
    file.put(NEW)


def written_with_the_old_times_and_size(file: File) -> None:
    before = file.path.stat()
    assert len(NEW) == before.st_size
    with file.path.open("r+") as stream:
        stream.write(NEW)
    os.utime(file.path, ns=(before.st_atime_ns, before.st_mtime_ns))


def renamed_over_it(file: File) -> None:
    file.put(NEW, file.path.with_name("other"))
    file.path.with_name("other").rename(file.path)


@pytest.mark.parametrize("change", [written_in_place, written_with_the_old_times_and_size, renamed_over_it])
def test_a_change_is_found(file: File, change: Callable[[File], None]) -> None:
    assert file.may("old-secret-0123456789")
    change(file)
    assert file.may("new-secret-0123456789")
    assert not file.may("old-secret-0123456789")
    assert file.tokens.warnings == ()


@pytest.mark.parametrize(("owner", "taken"), [("own", True), ("root", True), ("another", False)])
def test_the_file_is_the_own_users_or_roots(
    tmp_path: Path, owner: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns it can write it, whatever its mode is now."""
    path = tmp_path / "tokens.toml"
    path.write_text(NEW)
    path.chmod(0o600)
    uid, found = path.stat().st_uid, os.fstat
    there = {"own": uid, "root": 0, "another": uid + 4321}[owner]

    def owned(descriptor: int) -> os.stat_result:
        fields = list(found(descriptor))
        fields[stat.ST_UID] = there
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", owned)
    if taken:
        assert Tokens(TokenSettings(file=str(path)))
        return
    with pytest.raises(InvalidInput, match=rf"belongs to another user \({there}\).*chown it to the user that serves"):
        Tokens(TokenSettings(file=str(path)))


def test_links_that_are_exchanged_as_kubernetes_does_it(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        (folder / "tokens.toml").write_text(text_of(old="old-secret-0123456789") if number == 1 else NEW)
        (folder / "tokens.toml").chmod(0o440)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tokens.toml").symlink_to("..data/tokens.toml")
    tokens = Tokens(TokenSettings(file=str(tmp_path / "tokens.toml")))
    assert tokens.admit("Bearer old-secret-0123456789", Role.READ).name == "old"
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    (tmp_path / "..1" / "tokens.toml").unlink()
    tokens.look()
    assert tokens.admit("Bearer new-secret-0123456789", Role.READ).name == "new"


def test_two_secrets_of_one_name_while_they_are_exchanged(file: File) -> None:
    both = '[[token]]\nname = "web"\ntoken = ["old-secret-0123456789", "new-secret-0123456789"]\nroles = ["predict"]\n'
    one = both.replace('"old-secret-0123456789", ', "")
    file.put(both)
    assert file.may("old-secret-0123456789")
    assert file.may("new-secret-0123456789")
    old, new = (file.tokens.admit(f"Bearer {each}-secret-0123456789", Role.PREDICT) for each in ("old", "new"))
    assert old.name == new.name == "web"
    assert old.quota is new.quota, "one name has one quota, however many secrets"
    file.put(one)
    assert not file.may("old-secret-0123456789")
    assert file.may("new-secret-0123456789")
    assert file.tokens.admit("Bearer new-secret-0123456789", Role.PREDICT).quota is old.quota


def is_emptied(path: Path) -> None:
    path.write_text("")


def is_no_toml(path: Path) -> None:
    path.write_text(NEW[:-1] + "\n[[")


def can_be_written_by_all(path: Path) -> None:
    path.write_text(NEW)
    path.chmod(0o666)


def is_gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("broken", [is_emptied, is_no_toml, can_be_written_by_all, is_gone])
def test_a_file_that_is_broken_changes_nothing_and_is_warned_of(
    file: File, broken: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    broken(file.path)
    for _ in range(3):
        assert file.may("old-secret-0123456789")
        assert not file.may("new-secret-0123456789")
    (warning,) = file.tokens.warnings
    assert warning.startswith(f"the tokens of before are in force: tokens file {file.path} ")
    assert [record.getMessage() for record in caplog.records] == [warning], "told once, not every second"
    file.put(NEW)
    assert file.may("new-secret-0123456789")
    assert file.tokens.warnings == ()


def test_a_file_that_is_broken_at_the_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        Tokens(TokenSettings(file=str(tmp_path / "none")))


def test_nothing_that_is_said_holds_a_secret(file: File, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    file.put(NEW + "x = 'new-secret-0123456789'")
    file.may("new-secret-0123456789")
    file.put(NEW)
    file.may("new-secret-0123456789")
    said = repr(file.tokens) + caplog.text + "".join(file.tokens.warnings)
    assert caplog.records
    assert "secret-0123456789" not in said


# -- metrics of a shard ------------------------------------------------------------------------------------------------


def test_a_scraper_is_held_against_the_tokens_of_now(file: File) -> None:
    check = ScrapeCheck(TokenSettings(file=str(file.path)))
    check("Bearer old-secret-0123456789")
    file.put(NEW + text_of(predict="predict-0123456789"))
    check("Bearer new-secret-0123456789")
    for shown in (None, "Bearer old-secret-0123456789", "nonsense"):
        with pytest.raises(Unauthenticated):
            check(shown)
    with pytest.raises(Forbidden):
        check("Bearer predict-0123456789")


def test_a_shard_whose_tokens_cannot_be_read_refuses_and_tries_again(file: File) -> None:
    file.path.chmod(0o666)
    check = ScrapeCheck(TokenSettings(file=str(file.path)))
    with pytest.raises(Unavailable, match="the tokens cannot be read here"):
        check("Bearer old-secret-0123456789")
    file.path.chmod(0o600)
    check("Bearer old-secret-0123456789")


def test_scrapers_come_in_any_thread(file: File) -> None:
    check, failed = ScrapeCheck(TokenSettings(file=str(file.path))), []

    def scrape() -> None:
        try:
            for _ in range(20):
                check("Bearer old-secret-0123456789")
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=scrape) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed


# -- the task that reads it --------------------------------------------------------------------------------------------


async def test_whatever_happens_the_file_is_looked_at_again(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "LOOK_S", 0)
    looked = iter([RuntimeError("can't start new thread"), None])
    again = asyncio.Event()

    async def to_thread(look: Callable[[], None]) -> None:
        error = next(looked, None)
        if error is not None:
            raise error
        look()
        again.set()

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    file.put(NEW)
    following = asyncio.create_task(file.tokens.follow())
    await again.wait()
    following.cancel()
    assert file.tokens.admit("Bearer new-secret-0123456789", Role.READ).name == "new"

"""What a file of tokens may say, and what is refused, by whose name and without a word of a secret."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.tokens.entries import MAX_SECRETS, parse_tokens
from ringpull.inference.head.tokens.quotas import QuotaLimits
from ringpull.inference.head.tokens.settings import VARIABLE, TokenSettings, token_settings
from ringpull.inference.head.tokens.tokens import Tokens, read_file
from ringpull.ps.errors import InvalidInput
from ringpull.router.control.verbs import Role

SECRET = "SuperSecretValue-0123456789"
OTHER = "another_Secret_98765/+=~.!"


def table(**changes: Any) -> str:
    """One token in TOML; None leaves a key out, and text is taken as TOML."""
    given = {"name": '"web"', "token": f'"{SECRET}"', "roles": '["predict"]', **changes}
    return "[[token]]\n" + "".join(f"{key} = {value}\n" for key, value in given.items() if value is not None)


def refused(text: str | bytes) -> str:
    """The message of a refusal, which holds no secret."""
    with pytest.raises(InvalidInput) as caught:
        parse_tokens(text, "tokens file /etc/t.toml")
    message = str(caught.value)
    assert message.startswith("tokens file /etc/t.toml")
    assert SECRET not in message
    assert OTHER not in message
    return message


def test_everything_that_a_token_may_have() -> None:
    (entry,) = parse_tokens(
        table(
            token=f'["{SECRET}", "{OTHER}"]',
            sha256=f'"{hashlib.sha256(b"third").hexdigest().upper()}"',
            roles='["read", "operate"]',
            requests_per_s="0.5",
            rows_per_s="50_000",
            in_flight="3",
        ),
        "here",
    )
    assert entry.name == "web"
    assert entry.digests == tuple(hashlib.sha256(each).digest() for each in (SECRET.encode(), OTHER.encode(), b"third"))
    assert entry.roles == {Role.READ, Role.OPERATE}
    assert entry.limits == QuotaLimits(requests_per_s=0.5, rows_per_s=50_000.0, in_flight=3)


def test_the_example_of_the_readme() -> None:
    readme = (Path(__file__).parents[2] / "inference" / "head" / "README.md").read_text(encoding="utf-8")
    (entry,) = parse_tokens(readme.split("```toml\n")[1].split("```")[0], "README.md")
    assert entry.limits == QuotaLimits(requests_per_s=500, rows_per_s=50_000, in_flight=64)


def test_what_is_left_out_is_not_limited() -> None:
    (entry,) = parse_tokens(table(), "here")
    assert entry.limits == QuotaLimits()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": '""'}, "token web: token must be 16 to 4096 characters of ASCII"),
        ({"token": f'"{SECRET[:15]}"'}, "token web: token must be 16 to 4096"),
        ({"token": f'"{SECRET * 200}"'}, "token web: token must be 16 to 4096"),
        ({"token": f'"{SECRET}ä"'}, "token web: token must be 16 to 4096 characters of ASCII"),
        ({"token": f'"{SECRET} {SECRET}"'}, "token web: token must be 16 to 4096 characters of ASCII, without spaces"),
        ({"token": f'"{SECRET}\\n"'}, "token web: token must be 16"),
        ({"token": f'"{SECRET}\\u0000"'}, "token web: token must be 16"),
        ({"token": "5"}, "token web: token must be a string"),
        ({"token": "[]"}, "token web: token must be a string, or a list"),
        ({"token": f'["{SECRET}", 5]'}, "token web: token must be a string, or a list"),
        ({"token": f'["{SECRET}", "{SECRET}"]'}, "token web: its secret is twice"),
        ({"token": None}, "token web: token is missing; give token or sha256"),
        ({"token": None, "sha256": f'"{"a" * 63}"'}, "token web: sha256 must be the 64 hex digits"),
        ({"token": None, "sha256": f'"{"g" * 64}"'}, "token web: sha256 must be the 64 hex digits"),
        ({"token": None, "sha256": f'"{SECRET}"'}, "token web: sha256 must be the 64 hex digits"),
        ({"sha256": f'"{hashlib.sha256(SECRET.encode()).hexdigest()}"'}, "token web: its secret is twice"),
        ({"roles": None}, "token web: roles must be a list of at least one of read, predict, write, operate"),
        ({"roles": "[]"}, "token web: roles must be a list"),
        ({"roles": '"read"'}, "token web: roles must be a list"),
        ({"roles": '["read", "admin"]'}, "token web: roles has 'admin', which is no role; there are read,"),
        ({"roles": '["READ"]'}, "token web: roles has 'READ'"),
        ({"roles": f'["{SECRET}"]'}, "token web: roles has something else, which is no role"),
        ({"roles": "[1]"}, "token web: roles has a int, which is no role"),
        ({"roles": '[["read"]]'}, "token web: roles has a list, which is no role"),
        ({"request_per_s": "1"}, "token web: 'request_per_s' is no key of a token; there are name, token, sha256,"),
        ({SECRET: '"web2"'}, "token web: something else is no key of a token"),
        ({"name": None}, "token number 1: name must be 1 to 64 letters"),
        ({"name": '""'}, "token number 1: name must be"),
        ({"name": '"a b"'}, "token number 1: name must be"),
        ({"name": '"a\\nb"'}, "token number 1: name must be"),
        ({"name": f'"{"a" * 65}"'}, "token number 1: name must be"),
        ({"name": '"ä"'}, "token number 1: name must be"),
        ({"name": "7"}, "token number 1: name must be"),
    ],
    ids=str,
)
def test_what_is_no_token(changes: dict[str, Any], message: str) -> None:
    assert message in refused(table(**changes))


@pytest.mark.parametrize("field", ["requests_per_s", "rows_per_s", "in_flight"])
@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-inf", "-1", "0", "-0.0", "1e300", '"5"', "true", "[1]"])
def test_a_limit_is_a_number_that_can_be_kept(field: str, value: str) -> None:
    assert f"token web: {field} must be a " in refused(table(**{field: value}))


@pytest.mark.parametrize("value", ["1.5", f"1{'0' * 400}"])
def test_requests_in_flight_are_whole(value: str) -> None:
    assert "token web: in_flight must be a whole number of at least 1" in refused(table(in_flight=value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " has no token; it must have at least one [[token]] table"),
        ("# nothing\n", " has no token"),
        ("token = 5", ": token must be tables; begin each with [[token]]"),
        (table().replace("[[token]]", "[token]"), ": token must be tables; begin each with [[token]]"),
        ("tokens = 5\n" + table(), " has 'tokens' at its top; it must have nothing but [[token]] tables"),
        (f'{SECRET} = "x"\n' + table(), " has something else at its top"),
        (table() + table(token=f'"{OTHER}"'), ": token web: name comes twice; give one token a list of secrets"),
        (table() + table(name='"batch"'), ": token batch: its secret is also token web's; each must be one of its own"),
        (f"[[token]]\nname = web\ntoken = {SECRET}", " is not valid TOML: see line 2, column 8"),
        (f"[[token]]\n{SECRET} = 1\n{SECRET} = 2", " is not valid TOML: "),
        ("[" * 100_000, " is not valid TOML: "),
        (b"\xff\xfe", " is not valid TOML: it is not UTF-8"),
        (f'[[token]]\ntoken = "{SECRET}'.encode() + b"\xe4", " is not valid TOML: it is not UTF-8"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_file_of_tokens(text: str | bytes, message: str) -> None:
    assert message in refused(text)


def test_too_many_secrets_would_cost_every_request() -> None:
    secrets = ", ".join(f'"{SECRET}{number}"' for number in range(MAX_SECRETS + 1))
    assert f"has {MAX_SECRETS + 1} secrets; there must be at most {MAX_SECRETS}" in refused(table(token=f"[{secrets}]"))


def test_the_variable_is_taken_away_and_no_secret_goes_on() -> None:
    environment = {VARIABLE: table(), "HOME": "/"}
    settings = token_settings(None, environment, keep=False)
    assert settings.asked
    assert environment == {"HOME": "/"}
    assert SECRET not in repr(HeadConfig(tokens=settings)) + repr(settings.entries)
    assert settings.entries[0].digests[0].hex() not in repr(settings.entries)
    assert [entry.name for entry in settings.entries] == ["web"]


def test_the_file_goes_before_the_variable_and_its_links_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("real").touch()
    Path("link").symlink_to("real")
    environment = {VARIABLE: table()}
    settings = token_settings("link", environment, keep=True)
    assert settings == TokenSettings(file=str(tmp_path / "link"))
    assert environment == {VARIABLE: table()}
    assert not token_settings(None, {}, keep=False).asked


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_variable_without_a_token_does_not_leave_the_door_open(text: str) -> None:
    with pytest.raises(InvalidInput, match="RINGPULL_TOKENS has no token"):
        token_settings(None, {VARIABLE: text}, keep=False)


def test_an_option_without_a_file_does_not_leave_the_door_open() -> None:
    with pytest.raises(InvalidInput, match="--tokens names no file; leave it out, and nothing is asked of anyone"):
        token_settings("", {}, keep=False)


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o622, 0o620, 0o602, 0o666, 0o777, 0o660])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(table())
    file.chmod(mode)
    with pytest.raises(InvalidInput, match=rf"{file} can be written by others than its owner \(mode {mode:04o}\)"):
        Tokens(TokenSettings(file=str(file)))


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, False), (0o644, True)])
def test_a_file_that_every_user_may_read_is_warned_of(tmp_path: Path, mode: int, warned: bool) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(table())
    file.chmod(mode)
    assert any("can be read by every user" in each for each in Tokens(TokenSettings(file=str(file))).warnings) == warned


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)  # to open one waits for whoever writes to it
    (tmp_path / "large").write_bytes(b"#" * ((1 << 20) + 1))
    (tmp_path / "large").chmod(0o600)
    for name, message in {
        "pipe": "is no regular file",
        "": "is no regular file",
        "nothing": "cannot be read: No such file or directory",
        "a\0b": "cannot be read",
        "large": "has more than 1048576 bytes",
    }.items():
        with pytest.raises(InvalidInput, match=message):
            read_file(f"{tmp_path}/{name}")

"""The cost of tokens: rate and processor time of requests to a head that asks for one, beside one that asks for none.

One model served three times: with no tokens, with a file of eight, and with the same and quotas of everything, which
nobody reaches. Requests of one candidate are the worst case. The caller's token is the last of the file, though that
should make no difference: all are compared.
"""

from __future__ import annotations

import secrets
import tempfile
import timeit
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from ringpull.inference.client.credentials import Credentials
from ringpull.inference.head.access import Access, Unasked
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.loadtest.bench.asked_rates import IN_FLIGHT, PATIENT, ROWS, SHARDS, compare
from ringpull.loadtest.bench.harness import Report
from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.dlrm import dlrm_folder
from ringpull.router.control.verbs import Role

TOKENS: Final = 8
QUOTAS: Final = "requests_per_s = 1e9\nrows_per_s = 1e9\nin_flight = 1_000_000\n"


def main() -> None:
    folder = dlrm_folder(ROWS)
    report = Report(f"Tokens, {TOKENS} of them, and quotas, beside none: requests/s, and CPU of head and shards")
    secret = secrets.token_urlsafe(24)
    shown, anyone = Credentials(token=secret), Credentials()
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringpull-bench-")))
        options = {
            "none": (),
            "tokens": ("--tokens", str(_written(made / "tokens.toml", text_of(secret)))),
            "quotas": ("--tokens", str(_written(made / "quotas.toml", text_of(secret, QUOTAS)))),
        }
        contenders = {
            name: (
                stack.enter_context(deployed(folder, SHARDS, *PATIENT, *given)),
                shown if given else anyone,
            )
            for name, given in options.items()
        }
        for candidates in IN_FLIGHT:
            compare(report, contenders, ("tokens", "quotas"), candidates)
    for name, took_us in asking_us(secret).items():
        report.row(f"asking a caller, {name}, us", f"{took_us:.2f}", "in process, nothing else")
        report.key(f"asking_us_{name}", took_us)
    report.finish()


def text_of(secret: str, limits: str = "") -> str:
    """Return a file of tokens whose last one is `secret`."""
    known = [secrets.token_urlsafe(24) for _ in range(TOKENS - 1)] + [secret]
    return "\n".join(
        f'[[token]]\nname = "caller-{number}"\ntoken = "{each}"\nroles = ["predict", "read"]\n{limits}'
        for number, each in enumerate(known)
    )


def _written(file: Path, text: str) -> Path:
    file.touch(0o600)
    file.write_text(text, encoding="utf-8")
    return file


def asking_us(secret: str) -> dict[str, float]:
    """Return what is added to a call's way through a head, by what is asked: without the noise."""
    shown = f"Bearer {secret}"
    plain, limited = (_tokens(text_of(secret, limits)) for limits in ("", QUOTAS))
    return {name: _us(access, shown) for name, access in (("none", Unasked()), ("tokens", plain), ("quotas", limited))}


def _tokens(text: str) -> Tokens:
    return Tokens(TokenSettings(entries=parse_tokens(text, "the bench's tokens")))


def _us(access: Access, shown: str, times: int = 20_000) -> float:
    def ask() -> None:
        quota = access.admit(shown, Role.PREDICT).quota
        if quota is not None:
            permit = quota.begin()
            permit.take_rows(1)
            permit.end(taken=True)

    return min(timeit.repeat(ask, number=times, repeat=5)) / times * 1e6


if __name__ == "__main__":
    main()

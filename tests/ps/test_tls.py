"""Files of a certificate: what is refused by its option's name, and what follows when they change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.ps import tls
from ringpull.ps.errors import InvalidInput
from ringpull.ps.tls import LiveTls, TlsFiles, check_tls
from ringpull.ps.tls_contexts import LoadedTls, anchors_of, read
from tests.certificates import Certificates, Pair

BAD: dict[str, tuple[Callable[[Certificates, Path], TlsFiles], str]] = {
    "a missing certificate": (lambda all, _: files(all.server, cert="/no/such.pem"), "--tls-cert /no/such.pem cannot"),
    "a missing key": (lambda all, _: files(all.server, key="/no/such.key"), "--tls-key /no/such.key cannot be read"),
    "a missing CA": (lambda all, _: all.server.files(Path("/no/ca.pem")), "--tls-ca /no/ca.pem cannot be read"),
    "a folder": (lambda all, folder: files(all.server, cert=folder), "--tls-cert .* is not a file"),
    "a pipe": (lambda all, folder: files(all.server, key=pipe(folder)), "--tls-key .* is not a file"),
    "another's key": (
        lambda all, _: files(all.server, key=all.client.key),
        "--tls-key .* is not the key of --tls-cert",
    ),
    "a certificate as key": (lambda all, _: files(all.server, key=all.server.cert), "--tls-key .* no private key"),
    "a key as certificate": (lambda all, _: files(all.server, cert=all.server.key), "--tls-cert .* no certificate"),
    "a key as CA": (lambda all, _: all.server.files(all.server.key), "--tls-ca .* has no certificate"),
    "no PEM": (lambda all, folder: files(all.server, cert=written(folder, b"\0\x30\x82")), "--tls-cert .* in PEM"),
    "an empty key": (lambda all, folder: files(all.server, key=written(folder, b"")), "--tls-key .* no private key"),
    "half a certificate": (
        lambda all, folder: files(all.server, cert=written(folder, cut(all.server.cert, b"CERTIFICATE"))),
        "--tls-cert .* cannot be read as certificates",
    ),
    "half a key": (
        lambda all, folder: files(all.server, key=written(folder, cut(all.server.key, b"PRIVATE KEY"))),
        "--tls-key .* cannot be used",
    ),
    "an encrypted key": (lambda all, _: all.encrypted.files(), "--tls-key .* is encrypted"),
    "an expired certificate": (lambda all, _: all.expired.files(), "--tls-cert .* has expired"),
    "an expired certificate of a CA": (lambda all, _: all.expired.files(all.ca), "--tls-cert .* has expired"),
    "another's CA": (lambda all, _: all.server.files(all.stranger_ca.cert), "--tls-cert .* is not signed by --tls-ca"),
    "for servers only": (lambda all, _: all.only_server.files(all.ca), "must name serverAuth and clientAuth"),
    "for clients only": (lambda all, _: all.client.files(), "must name serverAuth and clientAuth"),
}


def files(pair: Pair, **others: object) -> TlsFiles:
    return replace(pair.files(), **{name: str(path) for name, path in others.items()})


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file.pem"
    path.write_bytes(content)
    return path


def cut(path: Path, what: bytes) -> bytes:
    return path.read_bytes()[:100] + b"\n-----END " + what + b"-----\n"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_files_that_cannot_be_used_are_refused_by_the_options_name(
    certificates: Certificates, tmp_path: Path, make: Callable[[Certificates, Path], TlsFiles], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_tls(make(certificates, tmp_path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cert": "c"}, "--tls-cert needs --tls-key"),
        ({"key": "k"}, "--tls-key needs --tls-cert"),
        ({"ca": "a"}, "--tls-ca needs --tls-cert"),
        ({"cert": "c", "ca": "a"}, "--tls-cert needs --tls-key"),
        ({"key": "k", "ca": "a"}, "--tls-key needs --tls-cert"),
    ],
)
def test_options_that_go_together_are_asked_for(given: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TlsFiles(**given)


def test_what_is_right_is_taken(certificates: Certificates, tmp_path: Path) -> None:
    check_tls(TlsFiles())
    check_tls(certificates.tls)
    check_tls(certificates.mutual)
    both = written(tmp_path, certificates.server.key.read_bytes() + certificates.server.cert.read_bytes())
    check_tls(TlsFiles(cert=str(both), key=str(both)))


def test_without_a_ca_only_the_deployments_own_certificate_vouches(certificates: Certificates, tmp_path: Path) -> None:
    """Its file has the CA's too, for clients: whom else that CA has signed is no process of the deployment."""
    chain = written(tmp_path, certificates.server.cert.read_bytes() + certificates.ca.read_bytes())
    [anchor] = anchors_of(read(files(certificates.server, cert=chain)))
    assert anchor in certificates.server.cert.read_bytes()


class Changing:
    """Files that a test exchanges, and what follows them."""

    def __init__(self, folder: Path, first: Pair, ca: Path | None = None) -> None:
        self.pair = Pair(folder / "cert.pem", folder / "key.pem")
        self.ca = folder / "ca.pem"
        self.write(first)
        if ca is not None:
            shutil.copy(ca, self.ca)
        self.live = LiveTls(self.pair.files(None if ca is None else self.ca))

    def write(self, pair: Pair) -> None:
        shutil.copy(pair.cert, self.pair.cert)
        shutil.copy(pair.key, self.pair.key)


def test_new_files_are_gone_by(certificates: Certificates, tmp_path: Path) -> None:
    changing = Changing(tmp_path, certificates.server)
    before = changing.live.public
    assert changing.live.public is before
    changing.write(certificates.renewed)
    assert changing.live.public is not before
    assert changing.live.text.cert == certificates.renewed.cert.read_bytes()
    assert changing.live.warnings() == ()


def test_broken_files_leave_the_old_ones_in_use_with_a_warning(certificates: Certificates, tmp_path: Path) -> None:
    changing = Changing(tmp_path, certificates.server)
    before = changing.live.public
    shutil.copy(certificates.renewed.cert, changing.pair.cert)  # its key comes later
    [warning] = changing.live.warnings()
    assert "--tls-key" in warning
    assert "of before are in use" in warning
    changing.pair.cert.unlink()
    [warning] = changing.live.warnings()
    assert "cannot be read" in warning
    assert changing.live.public is before
    changing.write(certificates.server)
    assert changing.live.warnings() == ()
    assert changing.live.public is before


@pytest.mark.parametrize("reason", ["is not valid yet", "changes while it is read"])
def test_files_that_could_not_be_used_are_tried_again_as_they_are(
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reason: str,
) -> None:
    changing = Changing(tmp_path, certificates.server)
    before, tried = changing.live.public, []

    def too_early(given: TlsFiles) -> LoadedTls:
        tried.append(given)
        raise InvalidInput(f"--tls-cert {given.cert} {reason}")

    changing.write(certificates.renewed)
    with monkeypatch.context() as early:
        early.setattr(tls, "load", too_early)
        for _ in range(3):
            [warning] = changing.live.warnings()
            assert reason in warning
        assert len(tried) == 1, "not at every look"
        early.setattr(tls, "RETRY_S", 0.0, raising=False)
        changing.live._retry_s = 0.0
        assert reason in changing.live.warnings()[0]
        assert len(tried) == 2
        assert len(caplog.records) == 1, "said once"
    assert changing.live.public is not before
    assert changing.live.warnings() == ()


def test_a_certificate_that_ends_is_warned_of(certificates: Certificates) -> None:
    times = [LiveTls(certificates.tls)._loaded.until_s - seconds for seconds in (5 * 86_400, 86_400, -1)]
    said = [LiveTls(certificates.tls, now=lambda now=now: now).warnings() for now in times]  # type: ignore[misc]
    assert [len(each) for each in said] == [0, 1, 1]
    assert "expires on" in said[1][0]
    assert "has expired" in said[2][0]

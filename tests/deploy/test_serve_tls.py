"""`serve` with certificates: what is wrong with them is said before anything is started, and so is what has none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ringpull.deploy import doors
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.tls import TlsFiles
from tests.certificates import Certificates


def options_of(files: TlsFiles) -> list[str]:
    given = {"--tls-cert": files.cert, "--tls-key": files.key, "--tls-ca": files.ca}
    return [word for name, path in given.items() if path for word in (name, path)]


@pytest.mark.medium
@pytest.mark.parametrize("options", [(), ("--detach",)])
def test_files_that_cannot_be_used_are_refused_before_anything_starts(
    serve: Callable[..., Any], certificates: Certificates, options: tuple[str, ...]
) -> None:
    for files, message in (
        (TlsFiles(cert=str(certificates.server.cert), key=str(certificates.client.key)), "--tls-key"),
        (certificates.expired.files(), "has expired"),
        (certificates.server.files(certificates.stranger_ca.cert), "is not signed by --tls-ca"),
    ):
        said = serve(*options_of(files), *options)
        assert message in said.err
        assert said.config is None


@pytest.mark.medium
def test_options_that_go_together_are_asked_for(serve: Callable[..., Any], certificates: Certificates) -> None:
    said = serve("--tls-cert", certificates.server.cert)
    assert "--tls-cert needs --tls-key" in said.err
    assert said.config is None


@pytest.mark.medium
def test_files_are_named_for_processes_that_have_another_working_directory(
    serve: Callable[..., Any], certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their links are kept: what a link leads to is another file after the certificate was exchanged."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cert.pem").symlink_to(certificates.server.cert)
    (tmp_path / "key.pem").symlink_to(certificates.server.key)
    said = serve("--tls-cert", "cert.pem", "--tls-key", os.path.join(".", "key.pem"))
    assert said.config.head.tls == TlsFiles(cert=f"{tmp_path}/cert.pem", key=f"{tmp_path}/key.pem")


def test_shards_that_other_machines_reach_in_plain_text_are_warned_of(
    serve: Callable[..., Any], certificates: Certificates
) -> None:
    config = serve("--address", "auto").config
    [said] = doors.warnings_of_shards(config)
    assert "whoever reaches them can read every row" in said
    assert said in serve("--address", "auto").err
    assert not doors.warnings_of_shards(replace(config, head=HeadConfig(tls=certificates.tls)))
    assert not doors.warnings_of_shards(replace(config, address=None))


def test_on_another_cluster_the_files_may_be_on_the_nodes_only(serve: Callable[..., Any]) -> None:
    options = ("--tls-cert", "/not/here.pem", "--tls-key", "/not/here.key")
    assert serve(*options, "--address", "auto").config.head.tls.cert == "/not/here.pem"
    said = serve(*options)
    assert "--tls-cert /not/here.pem cannot be read" in said.err

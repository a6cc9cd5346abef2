"""One file per command of `ringpull`; `deploy.cli` puts them together."""

"""Commands of `ringpull`, one per file; `ringpull.deploy.cli` puts them together."""

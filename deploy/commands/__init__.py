"""Commands of `ringpull`, one per file; `deploy.cli` puts them together."""

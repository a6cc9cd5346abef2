"""Commands of `ringpull import`, one per kind of source; `ringpull.deploy.cli` puts them together."""

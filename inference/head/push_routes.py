"""Push routes: what a head tells a client that asks how to push to shards itself, or why it may not.

A shard asks nobody for a token, and takes from whoever reaches it what a head would have checked: so the way is open
only where nobody has to show anything, neither to heads nor to shards, and whoever reaches a head may push to it.
"""

from __future__ import annotations

from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.loopback import is_loopback
from ringpull.inference.push_route import PushRoute
from ringpull.ps.errors import UnmetCondition


class PushRoutes:
    """Push routes of a head's models."""

    def __init__(self, catalog: Catalog, config: HeadConfig) -> None:
        self._catalog = catalog
        self.closed = why_closed(config)
        """Reason why the way is closed to all; empty: it is open."""

    def route(self, model: str, caller_host: str) -> PushRoute:
        """Return the route to a model's live lineage.

        Args:
            caller_host: IP address that the caller came from; empty: it is on this machine.

        Raises:
            UnmetCondition: There is none; the message says why.
            NotFound, Unavailable: The model has no live version here, or there is no shard map yet.
        """
        if self.closed:
            raise UnmetCondition(self.closed)
        route = self._catalog.get(model).writer.route()
        if caller_host and not is_loopback(caller_host):
            for address in route.shard_map.shards:
                if is_loopback(address.host):
                    raise UnmetCondition(f"shard {address.shard} is reached from its own machine only")
        if not route.specs:
            raise UnmetCondition(f"{model}/{route.version} has no table that takes pushes")
        return route


def why_closed(config: HeadConfig) -> str:
    """Return why clients of a head push to no shard themselves; empty: they may."""
    if not config.straight_pushes:
        return "it is turned off (--straight-pushes off)"
    if config.tokens.asked:
        return "callers have to show tokens, for which shards do not ask"
    if config.tls.cert:
        return "shards take connections of members of the deployment only (--tls-cert)"
    return ""

"""The models of a head, for whoever asks by this protocol what there is and how it fares."""

from __future__ import annotations

from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.oip import descriptions
from ringpull.inference.head.frontends.oip.descriptions import Description
from ringpull.inference.head.frontends.parts import Parts
from ringpull.ps.errors import NotFound


class Models:
    """Models by name and version; version 0 is the live one. Whatever is not served raises NotFound."""

    def __init__(self, parts: Parts) -> None:
        """Take what knows them."""
        self._parts = parts
        self._catalog = parts.catalog

    def find(self, name: str, version: int) -> ServedVersion:
        """Return a version.

        Raises:
            NotFound: It is not served here.
            Unavailable: It should be, and could not be loaded.
        """
        return self._catalog.get(name, version)

    def metadata(self, name: str, version: int) -> Description:
        """Describe what a version takes and gives."""
        return descriptions.metadata(self.find(name, version), self._catalog.versions(name))

    def config(self, name: str, version: int) -> Description:
        """Describe a version as a configuration."""
        return descriptions.config(self.find(name, version), self._catalog.versions(name))

    async def statistics(self, name: str, version: int) -> Description:
        """Tell the counts over all heads.

        Args:
            name: Model; empty: all.
            version: Version of it; 0: all.
        """
        keys = [each.key for each in self._catalog.served()]
        asked = [key for key in keys if name in ("", key[0]) and version in (0, key[1])]
        if not asked and name:
            self.find(name, version)  # says what there is
            raise NotFound(f"model {name} has no version {version} here")
        return descriptions.statistics(asked, await self._parts.counts())

    def index(self) -> list[Description]:
        """List what is served."""
        return descriptions.index(self._catalog)

    def server(self) -> Description:
        """Describe the head."""
        return descriptions.server()

"""The models of a head, and its tables by their full names, for whoever asks by this protocol."""

from __future__ import annotations

from collections.abc import Iterator

from ringpull.inference.head.frontends.oip import descriptions, tables
from ringpull.inference.head.frontends.oip.descriptions import Description, Signature
from ringpull.inference.head.frontends.oip.infer_calls import InferCall
from ringpull.inference.head.frontends.oip.outputs import Answer
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.plans import Plans
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.inference.head.predictor import OpenCall
from ringpull.inference.head.request.full_names import TableName, table_of
from ringpull.inference.head.request.inference_request import InferenceRequest


class Models:
    """Models by name and version; version 0 is the live one. Whatever is not served raises NotFound."""

    def __init__(self, parts: Parts) -> None:
        """Take what knows them."""
        self._parts = parts
        self._catalog = parts.catalog
        self._plans = Plans()

    def table(self, name: str) -> TableName | None:
        """Return the table that a name means; None: it is a model's, if anything's.

        Raises:
            NotFound: It is neither.
            InvalidInput: It could be two tables.
        """
        # Most names have no dot: they cost nothing here.
        if "." not in name or any(each.key[0] == name for each in self._catalog.served()):
            return None
        return table_of(self._catalog, name)

    async def infer(self, asked: InferCall, call: OpenCall) -> Answer:
        """Score rows, or read them by key, whichever the model that is asked for does.

        Raises:
            NotFound: It is not served here.
            InvalidInput: A tensor or an output does not fit it; the message names which.
            RingpullError: See `OpenCall.predict` and `OpenCall.rows`.
        """
        if asked.head.timeout_s is not None:
            call.hurry(asked.head.timeout_s)
        table = self.table(asked.head.model)
        if table is None:
            return Answer.of(await call.predict(await self._request(asked, call)))
        call.trace.verb = "lookup"
        limits = self._parts.predictor.row_limits
        request = await call.aside(asked.cost, lambda: tables.request_of(asked, table, limits))
        return tables.answer_of(asked, await call.rows(request))

    async def _request(self, asked: InferCall, call: OpenCall) -> InferenceRequest:
        """Return what the predictor is to be asked: strings by the million become columns beside the event loop."""
        served = asked.served(self._catalog)
        columns = asked.planned(served, call.limits, self._plans)
        if columns is None:
            columns = await call.aside(asked.cost, lambda: asked.columns(served, call.limits))
        return asked.request(served, columns)

    def check_served(self, name: str, version: int) -> None:
        """Check that a version is served.

        Raises:
            NotFound: It is not.
            Unavailable: It should be, and could not be loaded.
        """
        self._signature(name, version)

    def metadata(self, name: str, version: int) -> Description:
        """Describe what a version takes and gives."""
        return descriptions.metadata(self._signature(name, version))

    def config(self, name: str, version: int) -> Description:
        """Describe a version as a configuration."""
        return descriptions.config(self._signature(name, version))

    async def statistics(self, name: str, version: int) -> Description:
        """Tell the counts over all heads; of a table, those of its model.

        Args:
            name: Model; empty: all.
            version: Version of it; 0: all.
        """
        told = [*self._asked(name, version)]
        counts = await self._parts.counts()
        return {
            "model_stats": [
                descriptions.statistics(shown, number, counts.get((model, number), ModelCounts()))
                for shown, model, number in told
            ]
        }

    def index(self) -> list[Description]:
        """List what is served."""
        return descriptions.index(self._catalog)

    def server(self) -> Description:
        """Describe the head."""
        return descriptions.server()

    def _signature(self, name: str, version: int) -> Signature:
        table = self.table(name)
        if table is None:
            return Signature.of(self._catalog.get(name, version).loaded, self._catalog.versions(name))
        served = self._catalog.get(table.model, version)
        return tables.signature_of(name, served.rows.spec(table.table), self._versions_of(table))

    def _versions_of(self, table: TableName) -> list[int]:
        """Return the served versions that have a table."""
        return [
            each.key[1] for each in self._catalog.served() if each.key[0] == table.model and table.table in each.tables
        ]

    def _asked(self, name: str, version: int) -> Iterator[tuple[str, str, int]]:
        """Yield what is asked of, by the name that is asked for, as it is counted: model and version."""
        if not name:
            yield from ((model, model, number) for model, number in (each.key for each in self._catalog.served()))
            return
        signature = self._signature(name, version)
        table = self.table(name)
        model = name if table is None else table.model
        yield from ((name, model, number) for number in ([version] if version else signature.versions))

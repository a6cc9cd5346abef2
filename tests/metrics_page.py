"""A page of metrics as a scraper reads it, and the tables that document them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

DOCUMENTATION = (Path(__file__).parents[1] / "deploy" / "METRICS.md").read_text(encoding="utf-8")

OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
"""Its parser is strict: of names, of labels that come twice, of buckets that do not add up."""


@dataclass(frozen=True)
class Page:
    """What one process told."""

    families: Mapping[str, Metric]

    @classmethod
    def of(cls, host: str, port: int | str, **headers: str) -> Page:
        answer = httpx.get(f"http://{host}:{port}/metrics", headers={**OPEN_METRICS, **headers}, timeout=60)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        return cls({family.name: family for family in text_string_to_metric_families(answer.text)})

    def value(self, name: str, **labels: str) -> float:
        """The value of one sample."""
        (value,) = [value for found, value in self.samples(name) if found == labels]
        return value

    def total(self, name: str) -> float:
        """The sum over all labels."""
        return sum(value for _, value in self.samples(name))

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        return [
            (sample.labels, sample.value)
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name
        ]

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        """Every sample's name and labels."""
        return {
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in self.families.values()
            for sample in family.samples
        }

    def described(self) -> dict[str, tuple[str, frozenset[str]]]:
        """Name as documented -> type and labels, of every family."""
        found = {}
        for family in self.families.values():
            labels = {name for sample in family.samples for name in sample.labels} - {"le"}
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = (family.type, frozenset(labels))
        return found


def documented(*sections: str) -> dict[str, tuple[str, frozenset[str]]]:
    """The same of the tables below these headings."""
    found = {}
    for section in sections:
        text = DOCUMENTATION.split(f"\n## {section}\n")[1].split("\n## ")[0]
        for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", text, re.MULTILINE):
            assert name not in found
            found[name] = (kind, frozenset(re.findall(r"`(\w+)`", labels)))
    assert found
    return found

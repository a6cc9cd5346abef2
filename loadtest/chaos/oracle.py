"""The oracle: what every request must be answered with, whatever happens to the deployment meanwhile.

Two models are served. All tables of `checked` have two copies or are on every shard: its answers are complete, always.
The user table of `single_copy` has one copy and the policy `default`: when its shard is gone, an answer names that
feature, and its scores are those of an unknown user. (Or its own: a head names what was lost to any request that it
looked up together with this one.) So the oracle knows every score of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from ringpull.inference.prediction import Prediction
from ringpull.inference.top_k_answer import TopK
from ringpull.loadtest.chaos.checked_model import ROWS, CheckedRequest, Expected, Weights, expected
from ringpull.loadtest.chaos.rankings import RANKED_EVERY, Best, Ranking

SINGLE_COPY: Final = "single_copy"
SINGLE_COPY_FEATURE: Final = "user"
"""Feature whose table may lose rows for a while."""


class Verdict(IntEnum):
    """Result of a request."""

    RIGHT = 0
    FILLED = 1
    """Right, with default vectors for what was lost, and said so."""
    FAILED = 2
    WRONG = 3


@dataclass(frozen=True, slots=True)
class Question:
    """One request that the oracle has the answers to."""

    model: str
    number: int
    """Index among the requests that the oracle was made for."""
    ranks: bool = False
    """Whether it asks for the best items (`ringpull.loadtest.chaos.rankings`), and not for scores."""


class Live:
    """Versions that may answer now: one of each model, and two while its versions change."""

    def __init__(self, versions: Mapping[str, int]) -> None:
        self._versions = {model: frozenset({version}) for model, version in versions.items()}

    def now(self, model: str) -> frozenset[int]:
        """Return the versions of a model that may answer."""
        return self._versions[model]

    def may_become(self, model: str, version: int) -> None:
        """Note that a change to this version begins."""
        self._versions[model] |= {version}

    def is_now(self, model: str, version: int) -> None:
        """Note that no change is under way, and that this version is live."""
        self._versions[model] = frozenset({version})


class Oracle:
    """Right answers to some requests, all of them, computed beforehand.

    A version's *content* is the number that its rows and weights are made from (`Weights.of`). That is the version's
    own, but for one that was exported again under its number.

    Args:
        versions: Number of versions by model, counted from 1 on.
        rows: Rows by table, as the models were made with.
        others: Contents, by model, that a version may get besides its own.
        contents: Content of versions by (model, version), where it is not their own; kept up to date here.
    """

    def __init__(
        self,
        requests: Sequence[CheckedRequest],
        versions: Mapping[str, int],
        rows: Mapping[str, int] = ROWS,
        *,
        others: Mapping[str, Sequence[int]] = MappingProxyType({}),
        contents: Mapping[tuple[str, int], int] = MappingProxyType({}),
    ) -> None:
        self.requests = requests
        self.contents = dict(contents)
        """Content of versions by (model, version), where it is not their own."""
        self._complete: dict[tuple[str, int], list[Expected]] = {}
        self._filled: dict[tuple[str, int], list[Expected]] = {}
        self.rankings: Final[Mapping[int, Ranking]] = {
            number: Ranking.of(number, requests[number]) for number in range(0, len(requests), RANKED_EVERY)
        }
        """Ranking by the number of the request that it goes with."""
        self._best: dict[tuple[str, int], dict[int, Best]] = {}
        for model, count in versions.items():
            for content in (*range(1, count + 1), *others.get(model, ())):
                weights = Weights.of(content, rows)
                self._complete[model, content] = [expected(weights, request) for request in requests]
                self._best[model, content] = {
                    number: Best.of(ranking, weights) for number, ranking in self.rankings.items()
                }
                if model == SINGLE_COPY:
                    unknown = [replace(request, user=rows["user"]) for request in requests]
                    self._filled[model, content] = [expected(weights, request) for request in unknown]

    def reexported(self, model: str, version: int, content: int) -> None:
        """Note that a version, which is not open, has other content from now on."""
        self.contents[model, version] = content

    def judge_ranking(self, question: Question, answer: TopK, live: frozenset[int]) -> tuple[Verdict, str]:
        """Return what came of a top-k, and in words what is wrong with the answer. All items have copies: none is lost.

        Args:
            live: Versions that were live at some time between request and answer.
        """
        version = answer.version
        if answer.model != question.model or version not in live:
            return Verdict.WRONG, f"{answer.model}/{version} ranked; live was {question.model}/{sorted(live)}"
        content = self.contents.get((question.model, version), version)
        best = self._best[question.model, content][question.number]
        if not best.wrong(answer):
            return Verdict.RIGHT, ""
        lost = f", {answer.lost} slots lost" if answer.lost else ""
        return (
            Verdict.WRONG,
            f"{question.model}/{version}: ranking {question.number} is {answer.items()}{lost};"
            f" scores are {best.scores}",
        )

    def judge(self, question: Question, prediction: Prediction, live: frozenset[int]) -> tuple[Verdict, str]:
        """Return what came of a request that was answered, and in words what is wrong with the answer.

        Args:
            live: Versions that were live at some time between request and answer.
        """
        version = prediction.version
        if prediction.model != question.model or version not in live:
            return Verdict.WRONG, f"{prediction.model}/{version} answered; live was {question.model}/{sorted(live)}"
        filled = [each.feature for each in prediction.filled]
        if filled and (question.model != SINGLE_COPY or filled != [SINGLE_COPY_FEATURE]):
            named = ", ".join(f"{each.feature} ({each.reason})" for each in prediction.filled)
            return Verdict.WRONG, f"{question.model}/{version}: default vectors for {named}, which has copies"
        (scores,) = prediction.outputs.values()
        content = self.contents.get((question.model, version), version)
        right = self._complete[question.model, content][question.number]
        if not right.wrong(scores):
            return (Verdict.FILLED if filled else Verdict.RIGHT), ""
        if filled and not self._filled[question.model, content][question.number].wrong(scores):
            return Verdict.FILLED, ""
        return (
            Verdict.WRONG,
            f"{question.model}/{version}: request {question.number} scored {scores}, not {right.scores}"
            f"{', nor without its user' if filled else ''}",
        )

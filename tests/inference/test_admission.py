"""Admission on a fake clock: what is refused, when, with which hint, and what a whole overload comes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest

from ringpull.inference.head.admission import REQUEST_COST_BYTES, STANDING_FEW, Admission, Ticket
from ringpull.ps.errors import LimitExceeded
from tests.clock import Clock

NBYTES = 10_000 - REQUEST_COST_BYTES
"""So that a request costs 10,000."""
FAR_S = 1e6


@pytest.fixture
def clock() -> Clock:
    return Clock(50.0)


def make(clock: Clock, **settings: float) -> Admission:
    defaults = {"max_queue_s": 1.0, "standing_queue_s": 0.2, "max_in_flight_bytes": 1 << 30}
    return Admission(**{**defaults, **settings}, clock=clock)  # type: ignore[arg-type]


@pytest.fixture
def admission(clock: Clock) -> Admission:
    """Has learnt that it serves 100 requests a second, one after the other in 10 ms each."""
    admission = make(clock)
    waiting: list[Ticket] = []
    for ahead in [0] * 100 + [10] * 300 + [0] * 11:
        waiting += fill(admission, ahead + 1 - len(waiting))
        clock.now_s += 0.01
        waiting.pop(0).done()
    assert not waiting
    return admission


def let_in(admission: Admission, nbytes: int, deadline_s: float) -> Ticket:
    """A request that was let in, received and let in again, as the head does."""
    ticket = admission.expect(deadline_s)
    try:
        ticket.received(nbytes)
    except LimitExceeded:
        ticket.done(served=False)
        raise
    return ticket


def fill(admission: Admission, count: int) -> list[Ticket]:
    return [let_in(admission, NBYTES, FAR_S) for _ in range(count)]


def fill_up(admission: Admission, waiting: list[Ticket]) -> int:
    """Add requests to those waiting until one is refused, and return how many there are."""
    try:
        while True:
            waiting += fill(admission, 1)
    except LimitExceeded:
        return len(waiting)


def test_who_comes_alone_is_tried_whatever_is_predicted(admission: Admission, clock: Clock) -> None:
    with let_in(admission, 10**9, clock.now_s + 0.000001):
        pass
    with let_in(admission, NBYTES, clock.now_s - 5.0):
        pass
    assert admission.refused == 0


def test_before_a_queue_proves_a_rate_only_bytes_are_limited(clock: Clock) -> None:
    admission = make(clock, max_in_flight_bytes=1000 * NBYTES)
    for _ in range(10):
        with let_in(admission, NBYTES, FAR_S):
            clock.now_s += 1.0  # cold, and alone: no proof of what it does when it is warm and full
    fill(admission, 1000)
    assert admission.in_flight_bytes == 1000 * NBYTES
    with pytest.raises(LimitExceeded, match="max_in_flight_bytes is"):
        let_in(admission, 1, FAR_S)


def test_a_request_that_cannot_be_answered_in_time_is_refused_with_a_hint(admission: Admission, clock: Clock) -> None:
    fill(admission, 20)
    with pytest.raises(
        LimitExceeded, match=r"the answer would take 2\d\d ms.* 150 ms left; ask again in 200 ms"
    ) as caught:
        let_in(admission, NBYTES, clock.now_s + 0.15)
    assert caught.value.retry_after_s == pytest.approx(0.2)
    assert admission.refused == 1
    let_in(admission, NBYTES, clock.now_s + 0.5)


def test_a_request_that_is_long_by_itself_needs_more_time(admission: Admission, clock: Clock) -> None:
    fill(admission, 1)
    with pytest.raises(LimitExceeded, match="ms left"):
        let_in(admission, 100 * NBYTES, clock.now_s + 0.3)
    let_in(admission, NBYTES, clock.now_s + 0.3)


def test_scans_wait_for_each_other_and_no_prediction_for_them(admission: Admission, clock: Clock) -> None:
    """A table of minutes is no queue of predictions, however many of it there are."""
    scans = admission.scans
    for _ in range(30):  # alone, half a second each
        with let_in(scans, NBYTES, FAR_S) as scan:
            scan.take_work(1e9)
            clock.now_s += 0.5
    running = [let_in(scans, NBYTES, FAR_S) for _ in range(2)]
    for scan in running:
        scan.take_work(1e9)
    pressure = admission.pressure()
    with let_in(admission, NBYTES, clock.now_s + 0.05):
        clock.now_s += 0.01
    assert (admission.queue_s(), admission.refused) == (0.0, 0)
    assert pressure < 0.1
    with pytest.raises(LimitExceeded, match=r"the answer would take 5\d\d ms; the request has 300 ms left"):
        let_in(scans, NBYTES, clock.now_s + 0.3)
    assert admission.refused == scans.refused == 1
    assert admission.in_flight_bytes == scans.in_flight_bytes == 2 * NBYTES
    with pytest.raises(LimitExceeded, match="max_in_flight_bytes"):
        fill(admission, 2)[1].take_room(1 << 30)
    for scan in running:
        scan.done()


def test_a_queue_has_a_length_that_no_deadline_extends(admission: Admission) -> None:
    taken = fill(admission, 102)
    for refuse in (lambda: let_in(admission, NBYTES, FAR_S), lambda: admission.expect(FAR_S)):
        with pytest.raises(LimitExceeded, match="requests wait 1010 ms here; the most is 1000 ms"):
            refuse()
    taken[0].done()
    taken[1].done()
    admission.expect(FAR_S).done()


def test_those_that_are_being_received_are_a_queue_too(admission: Admission) -> None:
    receiving = [admission.expect(FAR_S) for _ in range(102)]
    assert admission.in_flight_bytes == 102 * NBYTES, "each counts as those before it"
    with pytest.raises(LimitExceeded, match="requests wait 1010 ms here"):
        admission.expect(FAR_S)
    for ticket in receiving:
        ticket.received(NBYTES // 2)
    assert admission.in_flight_bytes == 102 * (NBYTES // 2)
    admission.expect(FAR_S).done(served=False)
    for ticket in receiving:
        ticket.done(served=False)
    assert admission.in_flight_bytes == 0
    assert admission.queue_s() == 0.0


def test_a_request_that_turns_out_too_long_is_refused_when_it_is_received(admission: Admission, clock: Clock) -> None:
    waiting = fill(admission, 5)
    with admission.expect(clock.now_s + 0.3) as ticket, pytest.raises(LimitExceeded, match="has 300 ms left"):
        ticket.received(100 * NBYTES)
    with admission.expect(clock.now_s + 0.3) as ticket:
        clock.now_s += 0.2  # to receive it took as long
        with pytest.raises(LimitExceeded, match="has 100 ms left"):
            ticket.received(20 * NBYTES)
    assert admission.in_flight_bytes == 5 * NBYTES
    for each in waiting:
        each.done(served=False)
    with admission.expect(clock.now_s + 0.001) as alone:
        alone.received(10**9)


def test_a_queue_that_stands_is_cut_until_there_was_none(admission: Admission, clock: Clock) -> None:
    waiting = fill(admission, 60)

    def answer(count: int) -> None:
        for _ in range(count):
            clock.now_s += 0.01
            waiting.pop(0).done()

    for _ in range(90):
        answer(1)
        waiting += fill(admission, 1)
    answer(12)
    with pytest.raises(LimitExceeded, match="requests wait 470 ms here; the most is 200 ms"):
        let_in(admission, NBYTES, FAR_S)
    answer(33)
    assert fill_up(admission, waiting) == pytest.approx(21, abs=1)
    answer(len(waiting))
    assert fill_up(admission, waiting) == pytest.approx(101, abs=1)


def closed_loop(admission: Admission, clock: Clock, callers: int, answers: int, took_s: float) -> None:
    """Answer callers one after the other, each of whom then asks again."""
    waiting = fill(admission, callers)
    for _ in range(answers):
        clock.now_s += took_s
        waiting.pop(0).done()
        waiting += fill(admission, 1)
    for ticket in waiting:
        ticket.done(served=False)


def test_a_few_callers_who_wait_for_each_answer_are_not_refused_while_the_machine_is_slow(
    admission: Admission, clock: Clock
) -> None:
    for took_s in (0.01, 0.05, 0.02):
        closed_loop(admission, clock, STANDING_FEW, 300, took_s)
    assert admission.refused == 0


def test_what_a_few_make_of_a_queue_is_less_than_pressure_takes(admission: Admission, clock: Clock) -> None:
    waiting = fill(admission, STANDING_FEW)
    for _ in range(300):
        clock.now_s += 0.05
        waiting.pop(0).done()
        waiting += fill(admission, 1)
    assert 0.8 < admission.pressure() <= 1.0
    assert fill_up(admission, waiting) == STANDING_FEW + 1, "the one that is served waits for nobody"
    assert admission.pressure() > 1.0


def test_a_few_are_refused_when_they_wait_for_longer_than_in_any_burst(admission: Admission, clock: Clock) -> None:
    with pytest.raises(LimitExceeded, match="the most is 1000 ms"):
        closed_loop(admission, clock, STANDING_FEW, 300, 0.15)


def test_bytes_in_flight_are_bounded_and_one_larger_request_is_taken_alone(clock: Clock) -> None:
    admission = make(clock, max_in_flight_bytes=1000)
    with let_in(admission, 5000, FAR_S):
        assert admission.pressure() == 5.0
        for refuse in (lambda: let_in(admission, 1, FAR_S), lambda: admission.expect(FAR_S)):
            with pytest.raises(LimitExceeded, match="5000 bytes are in flight"):
                refuse()
    assert admission.in_flight_bytes == 0
    with let_in(admission, 600, FAR_S), pytest.raises(LimitExceeded, match="and the request has 600"):
        let_in(admission, 600, FAR_S)


def test_pressure_is_the_queue_over_what_it_may_be(admission: Admission, clock: Clock) -> None:
    assert admission.pressure() == 0.0
    fill(admission, 51)
    assert admission.pressure() == pytest.approx(0.5)


def test_pressure_goes_by_the_deadlines_that_requests_have(admission: Admission, clock: Clock) -> None:
    for _ in range(200):
        tickets = [let_in(admission, NBYTES, clock.now_s + 0.11) for _ in range(3)]
        for ticket in tickets:
            clock.now_s += 0.01
            ticket.done()
    for _ in range(6):
        let_in(admission, NBYTES, clock.now_s + 0.11)
    assert admission.pressure() == pytest.approx(0.5, abs=0.05)


def test_what_ended_early_without_an_answer_teaches_nothing(admission: Admission, clock: Clock) -> None:
    for _ in range(100):
        with pytest.raises(ValueError, match="bad"), let_in(admission, NBYTES, FAR_S):
            raise ValueError("bad")
    taken = fill(admission, 20)
    assert admission.queue_s() == pytest.approx(0.19)
    for ticket in taken:
        ticket.done(served=False)
    assert admission.in_flight_bytes == 0


def test_state_is_told(admission: Admission) -> None:
    fill(admission, 51)
    assert repr(admission) == f"<Admission pressure 0.50, {51 * NBYTES} bytes in flight, 0 refused>"


# -- a whole server ----------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    answered: int = 0
    late: int = 0
    refused: int = 0
    latencies_s: list[float] = field(default_factory=list)

    def p99_s(self) -> float:
        return sorted(self.latencies_s)[int(0.99 * len(self.latencies_s))]


class BatchingServer:
    """Serves what waits in batches of up to 32, each in 3 ms and 2 ms for every request: at most 478 requests/s."""

    TOP = 32 / (0.003 + 32 * 0.002)

    def __init__(self, clock: Clock, admission: Admission) -> None:
        self.clock, self.admission = clock, admission
        self.queue: list[tuple[float, float, Ticket]] = []
        self.batch: list[tuple[float, float, Ticket]] = []
        self.free_s = 0.0
        self.max_in_flight_bytes = 0

    def run(self, load: float, seconds: float, deadline_s: float, *, seed: int = 1) -> Outcome:
        """Send an open loop of `load` times the top rate."""
        outcome = Outcome()
        rng, end_s = Random(seed), self.clock.now_s + seconds
        for arrival_s in self._arrivals(rng, load, end_s):
            self._until(arrival_s, outcome)
            self.clock.now_s = arrival_s
            try:
                ticket = let_in(self.admission, NBYTES, arrival_s + deadline_s)
            except LimitExceeded:
                outcome.refused += 1
            else:
                self.queue.append((arrival_s, arrival_s + deadline_s, ticket))
                self.max_in_flight_bytes = max(self.max_in_flight_bytes, self.admission.in_flight_bytes)
                self._start()
        self._until(end_s + 60, outcome)
        self.clock.now_s = end_s + 60
        return outcome

    def _arrivals(self, rng: Random, load: float, end_s: float) -> Iterator[float]:
        at_s = self.clock.now_s
        while (at_s := at_s + rng.expovariate(load * self.TOP)) < end_s:
            yield at_s

    def _start(self) -> None:
        if not self.batch and self.queue:
            self.batch, self.queue = self.queue[:32], self.queue[32:]
            self.free_s = self.clock.now_s + 0.003 + 0.002 * len(self.batch)

    def _until(self, at_s: float, outcome: Outcome) -> None:
        while self.batch and self.free_s <= at_s:
            self.clock.now_s = self.free_s
            for arrived_s, deadline_s, ticket in self.batch:
                in_time = self.free_s <= deadline_s
                ticket.done(served=in_time)
                if in_time:
                    outcome.answered += 1
                    outcome.latencies_s.append(self.free_s - arrived_s)
                else:
                    outcome.late += 1
            self.batch = []
            self._start()


@pytest.fixture
def server(clock: Clock) -> BatchingServer:
    return BatchingServer(clock, make(clock))


@pytest.mark.parametrize("load", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("deadline_s", [0.1, 10.0])
def test_overload_costs_little_of_the_top_rate(server: BatchingServer, load: float, deadline_s: float) -> None:
    server.run(2.0, 1, deadline_s)
    server.run(0.3, 2, deadline_s)
    seconds = 5
    outcome = server.run(load, seconds, deadline_s)
    assert outcome.answered > 0.85 * server.TOP * seconds
    assert outcome.late < 0.05 * outcome.refused
    assert outcome.p99_s() <= min(deadline_s, 2.1)
    assert server.max_in_flight_bytes < 2.2 * server.TOP * NBYTES


def test_the_first_overload_of_all_is_not_predicted_but_ended(server: BatchingServer) -> None:
    """Nothing proves a rate before it: what comes until then is let in, and much of it is late."""
    assert server.run(3.0, 5, deadline_s=0.1).answered > 0.75 * server.TOP * 5
    assert server.run(3.0, 5, deadline_s=0.1).answered > 0.85 * server.TOP * 5


def test_a_queue_that_stands_does_not_stay_long(server: BatchingServer) -> None:
    outcome = server.run(3.0, 20, deadline_s=10.0)
    assert sorted(outcome.latencies_s)[int(0.9 * len(outcome.latencies_s))] < 0.3


@pytest.mark.parametrize("deadline_s", [0.25, 10.0])
def test_what_can_be_served_is_not_refused(server: BatchingServer, deadline_s: float) -> None:
    outcome = server.run(0.7, 30, deadline_s)
    assert outcome.refused == outcome.late == 0


def test_after_an_overload_all_is_as_before(server: BatchingServer) -> None:
    before = server.run(0.5, 10, 0.25)
    assert server.run(5.0, 10, 0.25).refused > 0
    after = server.run(0.5, 10, 0.25)
    assert after.refused == before.refused == 0
    assert after.p99_s() == pytest.approx(before.p99_s(), rel=0.2)

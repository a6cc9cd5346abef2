"""Threads of processes: what each did between two looks."""

from __future__ import annotations

import threading

import psutil

from ringpull.loadtest.bench.threads import Thread, since, threads_of


def test_threads_are_told_by_what_they_did_meanwhile():
    before = {(1, 1): Thread("loop", 1.0, 0.5, 3), (1, 2): Thread("gone", 1.0, 0.0, 1)}
    now = {(1, 1): Thread("loop", 1.5, 0.75, 5), (1, 3): Thread("new", 2.0, 0.0, 1)}
    assert since(before, now) == [Thread("new", 2.0, 0.0, 1), Thread("loop", 0.5, 0.25, 2)]


def test_threads_of_a_process_are_found():
    own = threads_of([psutil.Process()])
    me = own[psutil.Process().pid, threading.get_native_id()]
    assert me.ran_s > 0
    assert me.turns > 0

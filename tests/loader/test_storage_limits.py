# SPDX-License-Identifier: Apache-2.0
"""The parts by which storage keeps its limits: places, second reads, timers, dates."""

import email.utils
import threading
import time

import pytest
from moot.loader.storage.connections import parse_retry_after
from moot.loader.storage.hedging import MAX_SHARE, MIN_OBSERVED, SHORTEST_DELAY_S, Hedging
from moot.loader.storage.limiter import Limiter
from moot.loader.storage.watch import Watch


def soon():
    return time.monotonic() + 10.0


def test_limit_is_halved_once_for_what_was_sent_before():
    limiter = Limiter(64, start=16)
    sent_at = time.monotonic()
    limiter.throttled(sent_at)
    limiter.throttled(sent_at)
    assert limiter.limit == 8
    for _ in range(10):
        limiter.throttled(time.monotonic() + 1)
    assert limiter.limit == 1


def test_limit_grows_by_one_for_every_limit_of_answers_under_load():
    limiter = Limiter(6, start=4)
    limiter.acquire(soon())
    limiter.succeeded()
    assert limiter.limit == 4  # places were free: more of them would change nothing
    for _ in range(3):
        limiter.acquire(soon())
    for _ in range(4):
        limiter.succeeded()
    assert 4.8 < limiter.limit <= 5
    for _ in range(100):
        while limiter.try_acquire():
            pass
        limiter.succeeded()
    assert limiter.limit == 6


def test_no_wait_for_a_place_beyond_the_deadline():
    limiter = Limiter(1)
    assert limiter.acquire(soon()) == 0.0
    assert not limiter.try_acquire()
    with pytest.raises(TimeoutError, match="no place among 1 requests"):
        limiter.acquire(time.monotonic() + 0.05)
    with pytest.raises(TimeoutError):
        limiter.acquire(time.monotonic() - 1)
    timer = threading.Timer(0.05, limiter.release)
    timer.start()
    assert limiter.acquire(soon()) > 0
    timer.join()


def test_second_reads_wait_for_the_p95_of_reads_of_their_size():
    hedging = Hedging()
    for i in range(MIN_OBSERVED):
        assert hedging.delay_s(1 << 20) is None
        hedging.observe(1 << 20, 1.0 + i / MIN_OBSERVED)
    assert 1.8 < hedging.delay_s(1 << 20) < 2.0
    assert hedging.delay_s(1 << 10) is None
    for _ in range(200):
        hedging.observe(1 << 20, 0.001)
    assert hedging.delay_s(1 << 20) == SHORTEST_DELAY_S


def test_second_reads_are_a_small_share():
    hedging = Hedging()
    assert not hedging.take()
    taken = 0
    for num in range(1, 1001):
        hedging.observe(1000, 1.0)
        taken += hedging.take()
        assert taken <= MAX_SHARE * num
    assert taken == 1000 * MAX_SHARE


def test_watch_calls_in_order_of_time_and_forgets_what_is_cancelled():
    watch, rung, done = Watch(), [], threading.Event()
    now = time.monotonic()
    watch.at(now + 0.2, done.set)
    watch.at(now + 0.1, lambda: rung.append("late"))
    watch.at(now + 0.05, lambda: rung.append("early"))
    watch.cancel(watch.at(now + 0.05, lambda: rung.append("never")))
    assert done.wait(10)
    assert rung == ["early", "late"]
    watch.close()


def test_watch_ends_by_itself_and_starts_again(monkeypatch):
    monkeypatch.setattr("moot.loader.storage.watch._IDLE_S", 0.05)
    watch = Watch()
    for _ in range(2):
        done = threading.Event()
        watch.at(time.monotonic(), done.set)
        assert done.wait(10)
        while any(thread.name == "moot-watch" for thread in threading.enumerate()):
            time.sleep(0.01)
    watch.close()


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        (None, 0, 0),
        ("", 0, 0),
        ("7", 7, 7),
        (" 1.5 ", 1.5, 1.5),
        ("soon", 0, 0),
        (email.utils.formatdate(0, usegmt=True), 0, 0),
        (email.utils.formatdate(time.time() + 5000, usegmt=True), 3000, 5001),
        ("Thu, 99 Nov 2026 99:00:00 GMT", 0, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, low, high):
    assert low <= parse_retry_after(text) <= high

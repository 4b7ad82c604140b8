# SPDX-License-Identifier: Apache-2.0
"""Storage under faults: what is read is right or an error says why, and nothing hangs.

Every case runs against a server that breaks on a script, with plain URLs and with signed ones.
"""

import email.utils
import random
import threading
import time

import numpy as np
import pytest
from moot.loader.errors import StorageError
from moot.loader.storage import ForbiddenError, MissingObjectError, ShortObjectError, open_store
from moot.loader.storage import attempts as attempts_module
from moot.loader.storage import hedging as hedging_module
from moot.loader.storage import live as live_module
from moot.loader.storage import store as store_module
from moot.loader.storage import urls as urls_module
from moot.loader.storage.hedging import MIN_OBSERVED
from moot.loader.storage.store import RANGE_BYTES
from servers import Answer, FaultServer, Reset, Serve, Short, Stall, Trickle

DATA = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8)
BIG = np.random.default_rng(1).integers(0, 256, 2 * RANGE_BYTES + 12345, np.uint8)
STARTS = (0, BIG.size // 3, BIG.size * 2 // 3)  # of the ranges in which BIG is read
QUICK = {"timeout_s": "1", "attempts": "5"}
SLOW_DOWN = Answer(503, body=b"<Error><Code>SlowDown</Code></Error>")


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
    monkeypatch.setattr(attempts_module, "_FIRST_BOUND_S", 0.02)


@pytest.fixture(params=["http", "s3"])
def scheme(request):
    return request.param


@pytest.fixture
def server():
    objects = {"bucket/p/x": DATA.tobytes(), "bucket/p/big": BIG.tobytes(), "bucket/p/none": b""}
    with FaultServer(objects) as server:
        yield server


@pytest.fixture
def opened(server, scheme):
    """Open the server's objects under some options; closed in the end."""
    stores = []

    def call(**options):
        is_web = scheme == "http"
        url = f"{server.url}/bucket/p" if is_web else "s3://bucket/p"
        base = {} if is_web else server.s3_options
        stores.append(open_store(url, {**base, **QUICK, **options}))
        return stores[-1]

    yield call
    for store in stores:
        store.close()


def read(store, name="x", start=0, stop=DATA.size):
    buffer = np.zeros(stop - start, np.uint8)
    store.get_range_into(name, start, buffer)
    return buffer


@pytest.mark.parametrize(
    ("faults", "counted"),
    [
        ([SLOW_DOWN], {"throttled": 1}),
        ([Answer(429)], {"throttled": 1}),
        ([Answer(408), Answer(500), Answer(502), Answer(504)], {}),
        ([Reset(0)], {}),
        ([Reset(70_000)], {}),
        ([Short(0), Short(1)], {}),
        ([Short(199_999), None], {}),
        ([Stall(3.0)], {"timeouts": 1}),
        ([Stall(3.0, after=70_000)], {"timeouts": 1}),
        ([SLOW_DOWN, Reset(70_000), Short(3), Answer(500)], {"throttled": 1}),
    ],
)
def test_bytes_are_the_same_after_a_fault(server, opened, faults, counted):
    store = opened()
    server.plan(*faults, path="/x")
    assert np.array_equal(read(store), DATA)
    num = len([fault for fault in faults if fault is not None])
    assert len(server.requests()) == num + 1
    expected = {"throttled": 0, "timeouts": 0, "hedged": 0, "errors": 0, **counted}
    expected |= {"requests": num + 1, "retries": num, "bytes": DATA.size}
    counters = store.counters()
    assert {name: counters[name] for name in expected} == expected


def test_every_range_of_a_big_object_recovers(server, opened):
    store = opened()
    faults = (Reset(1 << 20), Short(1 << 20), SLOW_DOWN)
    for start, fault in zip(STARTS, faults, strict=True):
        server.plan(fault, path="/big", start=start)
    assert np.array_equal(read(store, "big", 0, BIG.size), BIG)
    assert store.counters()["retries"] == 3
    assert sorted(seen.range.split("-")[0] for seen in server.requests()) == sorted(
        f"bytes={start}" for start in STARTS for _ in range(2)
    )


def test_whole_objects_recover_too(server, opened):
    store = opened()
    server.plan(Reset(100), SLOW_DOWN)
    assert store.get("x") == DATA.tobytes()
    assert store.get("none") == b""
    server.plan(Answer(500), method="HEAD")
    assert store.head("big") == BIG.size
    assert store.get("big") == BIG.tobytes()


class Storm(FaultServer):
    """A server that fails at random, one request in five."""

    def note(self, handler):
        super().note(handler)
        draw, after = self.random.random(), self.random.randrange(50_000)
        faults = (SLOW_DOWN, Answer(500), Reset(after), Short(after), Stall(0.1, after))
        return faults[int(draw * 25)] if draw < 0.2 else None


def test_no_byte_is_lost_in_a_storm(scheme, monkeypatch):
    monkeypatch.setattr(hedging_module, "SHORTEST_DELAY_S", 0.005)
    wrong, seeds = [], range(6)

    def work(seed):
        rng = random.Random(seed)
        for _ in range(50):
            start = rng.randrange(DATA.size - 1)
            stop = min(DATA.size, start + rng.choice((1, 1000, 60_000)))
            if not np.array_equal(read(store, "x", start, stop), DATA[start:stop]):
                wrong.append((start, stop))

    with Storm({"bucket/p/x": DATA.tobytes()}) as server:
        server.random = random.Random(0)
        is_web = scheme == "http"
        url = f"{server.url}/bucket/p" if is_web else "s3://bucket/p"
        options = {} if is_web else server.s3_options
        store = open_store(url, {**options, "attempts": "20", "max_concurrency": "4"})
        threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counters = store.counters()
        store.close()
    assert wrong == []
    assert counters["errors"] == 0
    assert counters["requests"] == 300 + counters["retries"] + counters["hedged"]
    assert counters["retries"] > 20


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(server, opened, form):
    # A date has whole seconds: 2 s from now may be written as a little more than 1 s from now.
    text = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    server.plan(Answer(429, {"Retry-After": text}), path="/x")
    assert np.array_equal(read(opened()), DATA)
    first, second = server.requests()
    assert second.at - first.at >= 0.9


def test_retry_after_beyond_the_deadline_is_an_error_at_once(server, opened):
    server.plan(Answer(503, {"Retry-After": "3600"}), path="/x")
    with pytest.raises(StorageError, match=r"not done within 9 s; .*503.*asked to wait 3600 s"):
        read(opened(range_timeout_s="9"))
    assert len(server.requests()) == 1


@pytest.mark.parametrize("fault", [Stall(30.0), Stall(30.0, after=1000), Trickle()])
def test_nothing_waits_beyond_its_deadline(server, opened, fault):
    server.plan(fault, path="/x", forever=True)
    store, began = opened(range_timeout_s="1.2"), time.monotonic()
    with pytest.raises(StorageError) as caught:
        read(store, start=500, stop=150_000)
    assert time.monotonic() - began < 10
    text = str(caught.value)
    assert text.startswith(f"cannot read {store.url}/x: not done within 1.2 s; last cause: ")
    assert "(bytes 500 to 150000, tried " in text
    assert "raise range_timeout_s" in text
    assert store.counters()["timeouts"] >= 1
    assert store.counters()["errors"] == 1


def test_the_deadline_of_a_whole_call_holds_for_all_its_ranges(server, opened):
    server.plan(Stall(30.0), path="/big", start=STARTS[1], forever=True)
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"not done within 1\.2 s; .*raise deadline_s"):
        read(opened(deadline_s="1.2"), "big", 0, BIG.size)
    assert time.monotonic() - began < 10


def test_lasting_fault_ends_after_the_attempts(server, opened):
    server.plan(SLOW_DOWN, path="/x", forever=True)
    store = opened(attempts="3")
    with pytest.raises(StorageError, match=r"/x: 503 SlowDown \(bytes 0 to 200000, tried 3 times"):
        read(store)
    assert len(server.requests()) == 3
    assert store.counters()["errors"] == 1


def test_dead_endpoint_is_named(scheme):
    is_web = scheme == "http"
    url = "http://127.0.0.1:9/p" if is_web else "s3://bucket/p"
    keys = {} if is_web else {"endpoint": "http://127.0.0.1:9"}
    keys |= {} if is_web else {"access_key_id": "key", "secret_access_key": "word"}
    store = open_store(url, {**keys, "attempts": "3"})
    with pytest.raises(StorageError, match=r"refused.*tried 3 times\); check the endpoint"):
        store.get("x")
    store.close()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_refusals_are_final_and_only_404_is_not_found(server, opened, status):
    server.plan(Answer(status), path="/x", forever=True)
    server.plan(Answer(status, body=b""), path="/x", method="HEAD", forever=True)
    store = opened()
    for use in (lambda: read(store), lambda: store.get("x"), lambda: store.head("x")):
        before = len(server.requests())
        with pytest.raises(StorageError) as caught:
            use()
        assert len(server.requests()) - before <= 1
        assert ("not found" in str(caught.value)) == (status == 404)
        assert isinstance(caught.value, MissingObjectError) == (status == 404)
        assert isinstance(caught.value, ForbiddenError) == (status in (401, 403))
    if status == 404:
        assert not store.exists("x")
    else:
        with pytest.raises(StorageError):
            store.exists("x")
    assert store.counters()["retries"] == 0


def test_reason_of_a_refusal_is_told_though_head_has_none(server, opened):
    refusal = Answer(403, body=b"<Error><Code>InvalidAccessKeyId</Code></Error>")
    server.plan(refusal, path="/x", forever=True)
    server.plan(Answer(403, body=b""), path="/x", method="HEAD", forever=True)
    store = opened()
    for use in (lambda: store.head("x"), lambda: store.exists("x"), lambda: store.get("x")):
        with pytest.raises(ForbiddenError, match="does not know this access key id") as caught:
            use()
        assert caught.value.code == "InvalidAccessKeyId"


def test_requests_stay_signed_after_a_refusal(server):
    server.plan(Answer(403), Answer(500), path="/x")
    store = open_store("s3://bucket/p", {**server.s3_options, **QUICK})
    with pytest.raises(ForbiddenError):
        read(store)
    assert np.array_equal(read(store), DATA)
    assert all("X-Amz-Signature=" in seen.query for seen in server.log)
    store.close()


def test_aged_url_is_signed_anew_once(server, monkeypatch):
    monkeypatch.setattr(urls_module, "AGED_S", 0.0)
    store = open_store("s3://bucket/p", {**server.s3_options, **QUICK})
    server.plan(None, Answer(403), path="/x")
    assert np.array_equal(read(store), DATA)
    time.sleep(1.1)  # a signature is of a second
    assert np.array_equal(read(store), DATA)
    first, refused, again = (seen.query for seen in server.requests())
    assert first == refused != again
    assert store.counters()["retries"] == 0
    store.close()


def test_object_that_changes_while_it_is_read_is_an_error(server, opened):
    server.plan(Serve(BIG.tobytes()[:-1]), path="/big", start=STARTS[1])
    with pytest.raises(StorageError, match=r"/big was replaced while it was read.*read it again"):
        read(opened(), "big", 0, BIG.size)


@pytest.mark.parametrize(("start", "length"), [(199_990, 20), (200_000, 1), (900_000, 5)])
def test_range_past_the_end_tells_the_size(server, opened, start, length):
    with pytest.raises(ShortObjectError) as caught:
        read(opened(), "x", start, start + length)
    assert caught.value.size_bytes == DATA.size


def test_server_without_ranges_is_read_all_the_same(server, opened):
    server.ranges = False
    store = opened()
    assert np.array_equal(read(store, "x", 70_000, 90_000), DATA[70_000:90_000])
    assert np.array_equal(read(store, "x", 0, 90_000), DATA[:90_000])
    before = len(server.requests())
    assert np.array_equal(read(store, "big", 5, BIG.size), BIG[5:])
    assert len(server.requests()) == before + 1  # not once for every range
    assert store.get("big") == BIG.tobytes()
    with pytest.raises(ShortObjectError):
        read(store, "x", 199_999, 200_001)


def test_connection_that_the_server_closed_meanwhile_is_no_failure(server, opened):
    server.plan(Short(DATA.size), Short(DATA.size), path="/x")  # the whole body, then the end
    store = opened()
    for _ in range(4):
        assert np.array_equal(read(store), DATA)
        time.sleep(0.05)
    assert store.counters()["retries"] == 0


def test_connections_are_used_again(server, opened):
    store, ports = opened(), set()
    note = server.note

    def spy(handler):
        ports.add(handler.client_address[1])
        return note(handler)

    server.note = spy
    for _ in range(10):
        read(store)
    assert len(ports) == 1


def test_close_ends_a_wait(server, opened):
    server.plan(Answer(503, {"Retry-After": "60"}), path="/x")
    store, errors = opened(), []

    def use():
        try:
            read(store)
        except StorageError as error:
            errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    while not store.counters()["throttled"]:
        time.sleep(0.01)
    store.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "was closed" in errors[0]


def test_close_ends_a_read_under_way(server, opened):
    server.plan(Stall(30.0, after=70_000), path="/x")
    store, errors = opened(timeout_s="30"), []

    def use():
        with pytest.raises(StorageError) as caught:
            read(store)
        errors.append(str(caught.value))

    thread = threading.Thread(target=use)
    thread.start()
    while not server.log:
        time.sleep(0.01)
    store.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "was closed" in errors[0]


def test_close_ends_a_read_whose_ranges_wait_for_a_thread(server, opened, monkeypatch):
    monkeypatch.setattr(live_module, "NUM_RANGE_THREADS", 1)
    monkeypatch.setattr(store_module, "RANGE_BYTES", 50_000)
    server.plan(Stall(30.0, after=10_000), path="/x")
    store, errors = opened(timeout_s="30"), []

    def use():
        with pytest.raises(StorageError) as caught:
            store.get_range_into("x", 0, np.empty(150_000, np.uint8))
        errors.append(str(caught.value))

    thread = threading.Thread(target=use)
    thread.start()
    while not server.log:
        time.sleep(0.01)
    store.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "was closed" in errors[0]


def test_throttling_halves_what_is_sent_at_a_time(server, opened):
    store = opened()
    limiter = store._shared.live().endpoint.limiter
    before = limiter.limit
    server.plan(SLOW_DOWN, SLOW_DOWN, path="/x")
    assert np.array_equal(read(store), DATA)
    assert limiter.limit == before / 4
    assert store.counters()["throttled"] == 2


def test_stores_of_one_bucket_share_its_limit(server, opened):
    one, two = opened(), opened()
    assert one._shared.live().endpoint is two._shared.live().endpoint


def test_few_places_serve_many_threads(server, opened):
    store = opened(max_concurrency="2")
    server.plan(Stall(0.1), forever=True)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(np.array_equal(read(store), DATA)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6
    assert store.counters()["wait_s"] > 0


def warm(store):
    """Read until second reads are allowed, and not once more: a slow one would get one."""
    for _ in range(MIN_OBSERVED):
        read(store)


def test_second_read_wins_against_a_stalled_first(server, opened):
    store = opened(timeout_s="30")
    warm(store)
    server.plan(Stall(20.0, after=70_000), path="/x")
    buffer, began = np.zeros(DATA.size, np.uint8), time.monotonic()
    store.get_range_into("x", 0, buffer)
    assert time.monotonic() - began < 10
    assert np.array_equal(buffer, DATA)
    counters = store.counters()
    assert (counters["hedged"], counters["hedges_won"], counters["retries"]) == (1, 1, 0)
    buffer[:] = 0
    server.stopping.set()  # the stalled answer goes on now: nobody may receive it
    time.sleep(0.3)
    assert not buffer.any()


def test_first_read_wins_against_a_stalled_second(server, opened):
    store = opened(timeout_s="30")
    warm(store)
    server.plan(Stall(0.5), Stall(20.0), path="/x")
    began = time.monotonic()
    assert np.array_equal(read(store), DATA)
    assert time.monotonic() - began < 10
    counters = store.counters()
    assert (counters["hedged"], counters["hedges_won"]) == (1, 0)


def test_second_read_stands_in_for_a_failed_first(server, opened):
    store = opened(timeout_s="30")
    warm(store)
    server.plan(Reset(70_000, wait_s=0.8), Stall(1.2), path="/x")
    assert np.array_equal(read(store), DATA)
    counters = store.counters()
    assert (counters["hedged"], counters["hedges_won"], counters["retries"]) == (1, 1, 0)


def test_no_second_reads_when_they_are_off(server, opened):
    store = opened(hedge="false", timeout_s="30")
    warm(store)
    server.plan(Stall(0.5), path="/x")
    assert np.array_equal(read(store), DATA)
    assert store.counters()["hedged"] == 0

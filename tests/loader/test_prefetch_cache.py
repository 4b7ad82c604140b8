import gc
import random
import threading
import time
import warnings

import numpy as np
import pytest
from moot.loader import ConfigError, ShardError, StorageError
from moot.loader.prefetch import BufferPool, ShardCache
from moot.loader.prefetch import cache as cache_module
from moot.loader.prefetch.failures import LostShard, lost_shard
from moot.loader.shards import ArrayShard, Flat, ShardInfo

MIB = 1 << 20


def info_of(shard_id, samples=4):
    return ShardInfo(
        shard_id, f"s{shard_id}", MIB, None, 0, None, {}, {}, samples,
        ("tokens", "domain", "text"), ("ndarray:uint16", "uint8", "str"), (None, 1, None),
    )  # fmt: skip


def shard_of(shard_id, allocate, size=MIB):
    memory = allocate(size)
    memory[:] = shard_id % 251
    offsets = np.array([0, size // 2], np.int64)
    return ArrayShard(info_of(shard_id, 1), {"tokens": Flat(memory.view(np.uint16), offsets)}, "s")


def kept_by_one():
    return shard_of(0, lambda num: np.empty(num, np.uint8)).nbytes


def mark_of(shard):
    return int(shard.elements("tokens").lengths[0] and shard._columns["tokens"].values[0] & 255)


def cache_of(budget, fetch=shard_of, need=2 * MIB, **settings):
    return ShardCache(fetch, lambda shard_id: need, budget_bytes=budget, **settings)


def ids_of(shards):
    return [shard.info.shard_id for shard in shards]


class Gate:
    """A fetch that says when it began and goes on when it is told to."""

    def __init__(self, waits):
        self.waits, self.began, self.open = waits, [], threading.Event()
        self.started = threading.Condition()

    def __call__(self, shard_id, allocate):
        with self.started:
            self.began.append(shard_id)
            self.started.notify_all()
        if shard_id in self.waits:
            assert self.open.wait(30)
        return shard_of(shard_id, allocate)

    def until(self, *shard_ids):
        with self.started:
            assert self.started.wait_for(lambda: {*shard_ids} <= {*self.began}, 30)


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.002)


def test_shards_come_in_the_order_asked_for():
    cache = cache_of(20 * MIB)
    assert ids_of(cache.get([4, 1, 5, 1])) == [4, 1, 5, 1]
    assert cache.get([]) == []
    cache.get([1])
    counts = cache.counters()
    assert (counts["misses"], counts["hits"], counts["fetched_bytes"]) == (3, 1, 3 * MIB)
    cache.close()


def test_a_shard_is_charged_for_what_it_needs_then_for_what_it_keeps():
    gate = Gate({0})
    cache = cache_of(20 * MIB, gate, need=3 * MIB)
    cache.prefetch([0])
    gate.until(0)
    assert cache.fill == 3 / 20 and cache.counters()["in_flight"] == 1
    gate.open.set()
    (shard,) = cache.get([0])
    assert cache.fill == shard.nbytes / (20 * MIB)
    cache.close()


def test_a_set_fits_if_what_it_keeps_fits():
    """Four shards of 1 MiB that need 3 MiB each while fetched: six at a time, not twelve."""
    cache = cache_of(3 * kept_by_one() + 3 * MIB, need=3 * MIB)
    assert ids_of(cache.get([0, 1, 2, 3])) == [0, 1, 2, 3]
    cache.close()


def test_a_set_larger_than_the_budget_is_an_error_with_figures():
    cache = cache_of(3 * MIB, name=lambda shard_id: f"shard.{shard_id:05}.mds")
    says = r"4 shards \(shard.00000.mds, .*8\.0 MiB.* 3\.0 MiB.*budget_bytes"
    with pytest.raises(ConfigError, match=says):
        cache.get([0, 1, 2, 3])
    assert ids_of(cache.get([0])) == [0]
    cache.close()


def test_a_shard_larger_than_the_budget_is_an_error_even_alone():
    cache = cache_of(3 * MIB, need=4 * MIB)
    with pytest.raises(ConfigError, match="raise budget_bytes"):
        cache.get([0])
    cache.prefetch([0])
    cache.close()


def test_the_budget_is_never_exceeded():
    most, pool = [0.0], BufferPool(6 * MIB)

    def fetch(shard_id, allocate):
        stored, shard = allocate(MIB), shard_of(shard_id, allocate)
        stored[:] = 1
        most[0] = max(most[0], cache.fill, pool.held_bytes / pool.budget_bytes)
        return shard

    cache = cache_of(6 * MIB, fetch, pool=pool)
    for first in range(0, 200, 2):
        cache.prefetch(list(range(first, first + 9)))
        assert ids_of(cache.get([first, first + 1])) == [first, first + 1]
    cache.close()
    assert 0.6 < most[0] <= 1.0
    assert pool.high_water_bytes <= 1.1 * 6 * MIB
    assert pool.used_bytes == 0
    pool.close()


def test_the_least_recently_used_go_first():
    cache = cache_of(4 * MIB)
    for shard_id in (0, 1):
        cache.get([shard_id])
    cache.get([0])
    cache.get([2])  # 0, 1 and 2 do not fit while 2 is fetched
    cache.get([3])
    misses = cache.counters()["misses"]
    cache.get([2]), cache.get([3])
    assert cache.counters()["misses"] == misses
    cache.get([1])
    assert cache.counters()["misses"] == misses + 1
    cache.close()


def test_prefetch_goes_in_order_of_need_as_far_as_the_budget_allows():
    gate = Gate(())
    cache = cache_of(int(5.5 * MIB), gate, num_threads=1)
    cache.prefetch([7, 3, 9, 1, 8, 2])
    until(lambda: cache.counters()["fetched_bytes"] == 4 * MIB)
    time.sleep(0.5)  # longer than a thread waits before it looks again
    assert gate.began == [7, 3, 9, 1]
    assert cache.counters()["evictions"] == 0
    cache.close()


def test_prefetch_drops_what_is_needed_later_for_what_is_needed_sooner():
    gate = Gate(())
    cache = cache_of(int(5.5 * MIB), gate, num_threads=1)
    cache.prefetch([10, 11, 12, 13])
    until(lambda: cache.counters()["fetched_bytes"] == 4 * MIB)
    cache.prefetch([0, 1, 10, 11, 12, 13])
    until(lambda: {0, 1} <= {*gate.began} and not cache.counters()["in_flight"])
    misses = cache.counters()["misses"]
    cache.get([0, 1, 10, 11])
    assert cache.counters()["misses"] == misses
    cache.close()


def test_prefetch_goes_on_when_a_shard_is_let_go():
    """Nothing tells the cache that a caller dropped its last reference; it looks."""
    cache = cache_of(int(3.2 * MIB))
    held = cache.get([0, 1])
    cache.prefetch([5])
    time.sleep(0.1)
    assert cache.counters()["fetched_bytes"] == 2 * MIB
    held.clear()
    until(lambda: cache.counters()["fetched_bytes"] == 3 * MIB)
    cache.close()


def test_what_is_needed_now_overtakes_what_is_needed_later():
    gate = Gate({0})
    cache = cache_of(40 * MIB, gate, num_threads=1)
    cache.prefetch([0, 1, 2, 3])
    gate.until(0)
    getter = threading.Thread(target=cache.get, args=([3],))
    getter.start()
    until(lambda: cache._demanded)
    gate.open.set()
    getter.join()
    assert gate.began[:2] == [0, 3]
    cache.close()


def test_what_was_fetched_ahead_makes_room_for_what_is_needed():
    gate = Gate({0, 1, 2})
    cache = cache_of(6 * MIB, gate, num_threads=6)
    cache.prefetch([0, 1, 2])
    gate.until(0, 1, 2)
    threading.Timer(0.05, gate.open.set).start()
    assert ids_of(cache.get([4, 5])) == [4, 5]
    cache.close()


def test_a_shard_that_somebody_holds_is_counted_and_not_dropped(monkeypatch):
    monkeypatch.setattr(cache_module, "_PATIENCE_S", 0.1)
    cache = cache_of(int(3.5 * MIB))
    held = cache.get([0, 1])
    with pytest.raises(ConfigError, match=r"2\.\d MiB are in use elsewhere"):
        cache.get([2])
    assert [mark_of(shard) for shard in held] == [0, 1] and cache.fill > 2 / 3.5
    held.clear()
    assert ids_of(cache.get([2])) == [2]
    assert cache.fill <= 1
    cache.close()


def test_a_caller_waits_until_another_one_lets_go():
    cache = cache_of(int(3.5 * MIB))
    held = cache.get([0, 1])
    threading.Timer(0.1, held.clear).start()
    assert ids_of(cache.get([2])) == [2]
    cache.close()


def test_an_array_that_outlives_its_shard_counts(monkeypatch):
    monkeypatch.setattr(cache_module, "_PATIENCE_S", 0.1)
    cache = cache_of(int(3.5 * MIB))
    views = [shard._columns["tokens"].values[:3] for shard in cache.get([0, 1])]
    with pytest.raises(ConfigError, match="in use elsewhere"):
        cache.get([2])
    assert views[1].tolist() == [257] * 3
    views.clear()
    assert ids_of(cache.get([2])) == [2]
    cache.close()


def test_a_failed_fetch_is_raised_and_tried_again_later():
    tries = []

    def fetch(shard_id, allocate):
        tries.append(shard_id)
        if len(tries) == 1:
            raise StorageError("s2: 403")
        return shard_of(shard_id, allocate)

    cache = cache_of(8 * MIB, fetch)
    with pytest.raises(StorageError, match="s2: 403"):
        cache.get([1, 2])
    assert ids_of(cache.get([1, 2])) == [1, 2]
    cache.close()


def test_a_failure_ahead_of_time_waits_to_be_asked_for_and_is_tried_once_more():
    tries = []

    def fetch(shard_id, allocate):
        tries.append(shard_id)
        raise StorageError(f"try {len(tries)}")

    cache = cache_of(8 * MIB, fetch)
    cache.prefetch([2])
    until(lambda: tries == [2] and not cache.counters()["in_flight"])
    time.sleep(0.5)
    assert tries == [2]
    with pytest.raises(StorageError, match="try 2"):
        cache.get([2])
    assert cache.fill == 0
    cache.close()


def test_an_error_keeps_none_of_the_memory_of_its_fetch():
    def fetch(shard_id, allocate):
        buffer = allocate(MIB)
        try:
            raise OSError("reset")
        except OSError as cause:
            raise StorageError(f"gave up after {buffer.size}") from cause

    cache = cache_of(8 * MIB, fetch)
    gc.disable()
    try:
        with pytest.raises(StorageError) as caught:
            cache.get([0])
        assert cache.pool.used_bytes == 0 and caught.value.__cause__ is not None
    finally:
        gc.enable()
    cache.close()


def test_a_fetch_that_hangs_is_an_error_that_names_the_shard():
    gate = Gate({1})
    cache = cache_of(8 * MIB, gate, deadline_s=0.1, name=lambda shard_id: f"s3://b/{shard_id}.mds")
    with pytest.raises(StorageError, match=r"no answer in 0\.1 s for s3://b/1\.mds;"):
        cache.get([0, 1])
    gate.open.set()
    assert ids_of(cache.get([0, 1])) == [0, 1]
    cache.close()


def test_many_callers_under_a_small_budget_all_get_what_they_asked_for():
    """Callers that want more than fits together take turns; prefetch plans change under them."""
    cache = cache_of(9 * MIB, num_threads=3, deadline_s=60)
    errors = []

    def call(seed):
        chance = random.Random(seed)
        try:
            for _ in range(60):
                wanted = chance.sample(range(24), chance.randint(1, 3))
                cache.prefetch(chance.sample(range(24), 6))
                for shard_id, shard in zip(wanted, cache.get(wanted), strict=True):
                    assert mark_of(shard) == shard_id
                    del shard
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors and cache.fill <= 1
    cache.close()
    assert cache.pool.used_bytes == 0 and cache.fill == 0


def test_close_leaves_no_thread_and_ends_a_wait():
    gate = Gate({0})
    cache = cache_of(8 * MIB, gate)
    cache.prefetch([0, 1, 2])
    ends = []

    def get():
        try:
            cache.get([0])
        except RuntimeError as error:
            ends.append(str(error))

    getter = threading.Thread(target=get)
    getter.start()
    until(lambda: cache._demanded)
    threading.Timer(0.1, gate.open.set).start()
    cache.close()
    getter.join()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("moot-fetch")]
    assert not ends or "closed" in ends[0]
    with pytest.raises(RuntimeError, match="closed"):
        cache.get([5])


def test_abandon_waits_for_nothing():
    gate = Gate({0})
    cache = cache_of(8 * MIB, gate)
    cache.prefetch([0])
    gate.until(0)
    cache.abandon()
    assert any(thread.is_alive() for thread in cache._threads)
    gate.open.set()
    for thread in cache._threads:
        thread.join(30)
        assert not thread.is_alive()


# ---- bad shards


def bad(times, shard_ids=(2,)):
    tries = []

    def fetch(shard_id, allocate):
        tries.append(shard_id)
        if shard_id in shard_ids and tries.count(shard_id) <= times:
            raise ShardError(f"s{shard_id} is corrupt")
        return shard_of(shard_id, allocate)

    return fetch


def empty(lost):
    known = {} if lost.lengths is None else {"tokens": lost.lengths}
    return lost_shard(info_of(lost.shard_id), lengths=known)


def listed(cache):
    return [(lost.shard_id, lost.reason) for lost in cache.lost]


def test_a_bad_shard_is_counted_named_once_and_fetched_again():
    cache = cache_of(8 * MIB, bad(times=1))
    with pytest.warns(UserWarning, match="a bad shard is fetched again: s2 is corrupt"):
        assert ids_of(cache.get([2])) == [2]
    assert cache.counters()["quarantined"] == 1 and cache.lost == []
    cache.close()


@pytest.mark.filterwarnings("ignore:a bad shard")
def test_a_shard_that_stays_bad_is_an_error_and_may_be_better_later():
    cache = cache_of(8 * MIB, bad(times=2))
    with pytest.raises(ShardError, match="s2 is corrupt"):
        cache.get([2])
    assert ids_of(cache.get([2])) == [2]
    cache.close()


@pytest.mark.filterwarnings("ignore:a bad shard")
def test_a_lost_shard_is_replaced_by_samples_of_no_length_if_asked():
    cache = cache_of(8 * MIB, bad(times=99), on_bad_shard="substitute", substitute=empty)
    with pytest.warns(UserWarning, match="taken as empty: s2 is corrupt"):
        lost, whole = cache.get([2, 3])
    assert listed(cache) == [(2, "s2 is corrupt")] and cache.counters()["substituted"] == 1
    assert lost.num_samples == 4 and lost.lengths("tokens").tolist() == [0] * 4
    assert lost.lengths("text").tolist() == [0] * 4
    assert lost.scalars("domain").tolist() == [0] * 4
    assert mark_of(whole) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.get([2])
    assert cache.counters()["substituted"] == 1
    cache.close()


@pytest.mark.filterwarnings("ignore:a ")
def test_what_is_lost_stays_lost_and_is_not_fetched_again():
    """Whatever is held: the file is good from the third fetch on."""
    cache = cache_of(5 * MIB, bad(times=2), on_bad_shard="substitute", substitute=empty)
    assert cache.get([2])[0].lengths("tokens").tolist() == [0] * 4
    cache.get([3, 4, 5])
    cache.get([6, 7, 8])
    assert cache.counters()["evictions"] > 0
    assert cache.get([2])[0].lengths("tokens").tolist() == [0] * 4
    (held,) = cache.get([8])
    cache.failures.lose(LostShard(8, "as a state says", np.array([1, 0, 0, 2])))
    assert mark_of(held) == 8 and cache.get([8])[0].lengths("tokens").tolist() == [1, 0, 0, 2]
    assert listed(cache) == [(2, "s2 is corrupt"), (8, "as a state says")]
    cache.close()


@pytest.mark.filterwarnings("ignore:a ")
def test_a_lost_shard_is_met_once_it_is_asked_for():
    cache = cache_of(9 * MIB, bad(9, (2, 3)), on_bad_shard="substitute", substitute=empty)
    cache.prefetch([2, 3, 4])
    until(lambda: len(cache.lost) == 2)
    assert cache.failures.met == ()
    for _ in range(2):
        cache.get([4, 3])
        assert [lost.shard_id for lost in cache.failures.met] == [3]
    cache.close()


@pytest.mark.filterwarnings("ignore:a ")
def test_a_shard_lost_when_it_is_read_again_keeps_the_lengths_it_had():
    cache = cache_of(9 * MIB, bad(9), on_bad_shard="substitute", substitute=empty)
    cache.failures.measured = lambda shard_id: np.array([5, 0, 1, shard_id])
    assert cache.get([2])[0].lengths("tokens").tolist() == [5, 0, 1, 2]
    assert cache.lost[0].lengths.tolist() == [5, 0, 1, 2]
    cache.close()


def test_a_lost_shard_keeps_the_lengths_that_a_plan_has_counted_on():
    info = info_of(3)
    lost = lost_shard(info, {"rows": "ndarray:int32:2,3"}, {"tokens": np.array([3, 0, 1, 2])})
    assert lost.lengths("rows").tolist() == [6] * 4
    assert lost.lengths("tokens").tolist() == [3, 0, 1, 2]
    assert [tokens.tolist() for tokens in lost.values("tokens", [0, 1])] == [[0, 0, 0], []]
    made = lost_shard(info, {"tokens": "ndarray:uint32"})
    assert made.encoding("tokens") == "ndarray:uint32" and made.encoding("text") == "str"


@pytest.mark.filterwarnings("ignore:a ")
def test_a_corpus_of_bad_shards_is_not_substituted_away():
    cache = cache_of(80 * MIB, bad(9, range(99)), on_bad_shard="substitute", substitute=empty)
    cache.get(list(range(16)))
    with pytest.raises(ShardError, match="16 other shards were lost"):
        cache.get([20])
    cache.close()


def test_a_dead_network_is_not_a_bad_shard():
    def fetch(shard_id, allocate):
        raise StorageError("no route")

    cache = cache_of(8 * MIB, fetch, on_bad_shard="substitute", substitute=empty)
    with pytest.raises(StorageError, match="no route"):
        cache.get([0])
    assert cache.lost == [] and cache.counters()["quarantined"] == 0
    cache.close()


@pytest.mark.parametrize("settings", [{"on_bad_shard": "skip"}, {"on_bad_shard": "substitute"}])
def test_a_policy_that_cannot_work_is_refused(settings):
    with pytest.raises(ConfigError, match="substitute"):
        cache_of(8 * MIB, **settings)


@pytest.mark.parametrize("keeps", [True, False])
def test_what_no_plan_needs_is_let_go_at_once_where_it_is_not_kept(keeps):
    cache = cache_of(64 * MIB, keeps_finished=keeps)
    cache.prefetch([0, 1, 2])
    cache.get([0, 1, 2])
    cache.prefetch([2, 3])
    cache.get([2, 3])
    until(lambda: cache.counters()["in_flight"] == 0)
    assert cache.pool.used_bytes == pytest.approx((4 if keeps else 2) * MIB, rel=0.2)
    cache.close()

import threading
import time
from types import SimpleNamespace

import pytest
from moot.loader import ConfigError, ShardError
from moot.loader.prefetch import Ahead, ShardCache

MIB = 1 << 20


def infos(num, size=MIB):
    return [
        SimpleNamespace(shard_id=i, basename=f"s{i}", raw_bytes=size, zip_bytes=0)
        for i in range(num)
    ]


def cache_of(num, budget, fetch=lambda info: f"shard {info.shard_id}"):
    return ShardCache(infos(num), fetch, budget_bytes=budget, num_threads=3)


def test_shards_come_in_the_order_asked_for():
    cache = cache_of(6, 10 * MIB)
    assert cache.get([4, 1, 5]) == ["shard 4", "shard 1", "shard 5"]
    assert (cache.hits, cache.misses) == (0, 3)
    cache.get([1])
    assert cache.hits == 1
    cache.close()


def test_the_budget_is_never_exceeded():
    held, most, lock = set(), [0], threading.Lock()

    def fetch(info):
        with lock:
            held.add(info.shard_id)
            most[0] = max(most[0], int(cache.fill * 4))
        time.sleep(0.001)
        return info.shard_id

    cache = cache_of(30, 4 * MIB, fetch)
    for start in range(0, 27, 2):
        cache.prefetch(list(range(start, min(start + 6, 30))))
        assert cache.get([start, start + 1]) == [start, start + 1]
        assert cache.fill <= 1.0
    cache.close()
    assert len(held) >= 28 and most[0] <= 4


def test_a_step_larger_than_the_budget_is_an_error_with_figures():
    cache = cache_of(6, 3 * MIB)
    with pytest.raises(ConfigError, match=r"4 shards of 4\.0 MiB.*3\.0 MiB.*budget_bytes"):
        cache.get([0, 1, 2, 3])
    cache.close()


def test_what_was_fetched_ahead_makes_room_for_what_is_needed():
    slow = threading.Event()

    def fetch(info):
        if info.shard_id < 3:
            slow.wait(5)
        return info.shard_id

    cache = ShardCache(infos(6), fetch, budget_bytes=3 * MIB, num_threads=6)
    cache.prefetch([0, 1, 2])
    threading.Timer(0.05, slow.set).start()
    assert cache.get([4, 5]) == [4, 5]
    cache.close()


def test_a_failed_fetch_is_raised_and_tried_again_later():
    tries = []

    def fetch(info):
        tries.append(info.shard_id)
        if len(tries) == 1:
            raise ShardError("shard s2 is torn")
        return "whole"

    cache = cache_of(4, 4 * MIB, fetch)
    with pytest.raises(ShardError, match="s2 is torn"):
        cache.get([2])
    assert cache.get([2]) == ["whole"]
    cache.close()


def test_close_leaves_no_thread():
    before = threading.active_count()
    cache = cache_of(8, 8 * MIB)
    cache.prefetch(range(8))
    cache.close()
    assert threading.active_count() == before


def test_steps_come_in_order_and_not_further_than_ready():
    limit = [2]
    ahead = Ahead(lambda step: step * 10, lambda step: step <= limit[0], first=0, depth=5)
    assert [ahead.take() for _ in range(3)] == [0, 10, 20]
    time.sleep(0.02)
    assert ahead.depth == 0 and ahead.is_blocked()
    limit[0] = 4
    ahead.notify()
    assert ahead.peek() == 30 and ahead.take() == 30 and ahead.take() == 40
    ahead.close()


def test_an_error_is_raised_where_its_step_is_asked_for():
    def make(step):
        if step == 2:
            raise ShardError("shard s7, sample 3: offset lies")
        return step

    ahead = Ahead(make, lambda step: True, first=0, depth=4)
    assert [ahead.take(), ahead.take()] == [0, 1]
    for _ in range(2):
        with pytest.raises(ShardError, match="sample 3"):
            ahead.take()
    ahead.close()

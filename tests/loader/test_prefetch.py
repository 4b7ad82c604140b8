import threading
import time

import pytest
from moot.loader import ShardError, StorageError
from moot.loader.prefetch import Ahead


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


def test_a_step_that_takes_too_long_is_an_error_and_can_be_left_behind():
    may_end = threading.Event()
    ahead = Ahead(
        lambda step: may_end.wait(60), lambda step: True, first=0, depth=1, timeout_s=0.05
    )
    with pytest.raises(StorageError, match=r"(?s)no batch in 0.05 s.*test_prefetch"):
        ahead.take()
    assert ahead.abandon().is_alive() and not ahead.has_ended
    may_end.set()
    ahead.close()
    assert ahead.has_ended

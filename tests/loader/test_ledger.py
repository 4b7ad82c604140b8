# SPDX-License-Identifier: Apache-2.0
"""The ledger: parts published whole, attempts superseding each other, batches rebuilt exactly."""

import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from moot.loader.errors import StateError, StorageError
from moot.loader.ledger import (
    Ledger,
    ProbeRecord,
    StepRecord,
    batches,
    next_attempt,
    read_ledger,
)
from moot.loader.storage import open_store

NUM_AGENTS = 3


def make_record(step, *, slots=4, candidates=32, seed=0, num_agents=NUM_AGENTS, first_slot=0):
    """A step in which each slot keeps about half of its candidates, in a shuffled order."""
    rng = np.random.default_rng([seed, step, first_slot])
    num = slots * candidates
    length = rng.integers(1, 500, num)
    kept = rng.random(num) < 0.5
    slot = np.repeat(np.arange(first_slot, first_slot + slots), candidates)
    row_start = np.full(num, -1)
    for number in np.unique(slot):
        places = rng.permutation(np.flatnonzero(kept & (slot == number)))
        row_start[places] = np.concatenate([[0], np.cumsum(length[places])[:-1]])[: len(places)]
    return StepRecord(
        step=step,
        policy_version=step // 10,
        theta=rng.random(num_agents),
        memory=rng.random((num_agents, 5)),
        slot=slot,
        row_start=row_start,
        sample_id=rng.integers(0, 2**40, num),
        offset=rng.integers(0, 1000, num),
        length=length,
        kept=kept,
        votes=rng.random((num, num_agents)),
        states=rng.integers(0, 5, (num, num_agents)),
        score=rng.random(num),
    )


def make_probes(refresh, step, num=8):
    rng = np.random.default_rng([refresh, step])
    return ProbeRecord(
        refresh=refresh,
        step=step,
        sample_id=rng.integers(0, 2**40, num),
        states=rng.integers(0, 5, (num, NUM_AGENTS)),
        weight=rng.random(num),
        reward=rng.standard_normal(num),
    )


def expected_batch(record):
    """What a step trained on: (slot, row_start, sample_id, offset, length), in buffer order."""
    columns = (record.slot, record.row_start, record.sample_id, record.offset, record.length)
    rows = list(zip(*(column[record.kept].tolist() for column in columns), strict=True))
    return sorted(rows)


def rebuilt(store):
    return {
        batch.step: list(
            zip(
                batch.slot.tolist(),
                batch.row_start.tolist(),
                batch.sample_id.tolist(),
                batch.offset.tolist(),
                batch.length.tolist(),
                strict=True,
            )
        )
        for batch in batches(store)
    }


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "ledger"))


def test_batches_rebuild_the_exact_sequence(store):
    records = [make_record(step) for step in range(23)]
    ledger = Ledger(store, flush_steps=5)
    for record in records:
        ledger.append(record)
    ledger.close()
    assert rebuilt(store) == {record.step: expected_batch(record) for record in records}


def test_every_column_survives_the_round_trip(store):
    record = make_record(7)
    ledger = Ledger(store)
    ledger.append(record)
    ledger.close()
    view = read_ledger(store)
    step = view.steps.to_pylist()[0]
    assert (step["step"], step["policy_version"], step["attempt"]) == (7, 0, 0)
    assert np.array_equal(step["theta"], record.theta)
    assert np.array_equal(np.reshape(step["memory"], record.memory.shape), record.memory)
    for name in ("slot", "row_start", "sample_id", "offset", "length", "kept"):
        assert np.array_equal(view.pieces[name].to_numpy(), getattr(record, name)), name
    assert np.array_equal(view.pieces["votes"].to_pylist(), record.votes.astype(np.float32))
    assert np.array_equal(view.pieces["states"].to_pylist(), record.states)
    assert np.array_equal(view.pieces["score"].to_numpy(), record.score.astype(np.float32))


def test_append_copies_buffers_that_the_caller_reuses(store):
    record = make_record(0)
    wanted = expected_batch(record)
    ledger = Ledger(store)
    ledger.append(record)
    record.sample_id[:] = -7
    record.kept[:] = False
    ledger.close()
    assert rebuilt(store) == {0: wanted}


def test_rewards_are_kept_with_the_step_that_follows_them(store):
    ledger = Ledger(store, flush_steps=100)
    for step in range(10):
        if step in {4, 8}:
            ledger.credit(make_probes(step // 4, step))
        ledger.append(make_record(step))
    ledger.credit(make_probes(3, 10))
    ledger.close()
    view = read_ledger(store)
    credited = dict(
        zip(view.steps["step"].to_pylist(), view.steps["refreshes"].to_pylist(), strict=True)
    )
    assert {step: given for step, given in credited.items() if given} == {4: [1], 8: [2]}
    assert sorted(set(view.probes["refresh"].to_pylist())) == [1, 2, 3]
    rewards = view.probes.to_pylist()[:8]
    assert [row["reward"] for row in rewards] == make_probes(1, 4).reward.tolist()
    assert {row["agent_of"] for row in rewards} == {-1}


def test_a_later_attempt_supersedes_from_its_first_step(store):
    first = [make_record(step, seed=1) for step in range(20)]
    again = [make_record(step, seed=2) for step in range(12, 15)]
    for records in (first, again):
        ledger = Ledger(store, flush_steps=4)
        for record in records:
            ledger.append(record)
        ledger.close()
    wanted = {r.step: expected_batch(r) for r in [*first[:12], *again]}
    assert rebuilt(store) == wanted
    assert read_ledger(store).steps["attempt"].to_pylist() == [0] * 12 + [1] * 3


def test_a_third_attempt_that_goes_further_back_wins(store):
    for number, (start, stop) in enumerate([(0, 9), (6, 12), (3, 5)]):
        ledger = Ledger(store)
        assert ledger.attempt == number
        for step in range(start, stop):
            ledger.append(make_record(step, seed=number))
        ledger.close()
    view = read_ledger(store)
    assert view.steps["step"].to_pylist() == [0, 1, 2, 3, 4]
    assert view.steps["attempt"].to_pylist() == [0, 0, 0, 2, 2]
    assert set(view.pieces["step"].to_pylist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("credited_before_checkpoint", [True, False])
def test_a_refresh_at_the_resume_step_is_read_once(store, credited_before_checkpoint):
    ledger = Ledger(store)
    for step in range(8):
        if step == 4:
            ledger.credit(make_probes(1, 4))
        ledger.append(make_record(step))
    ledger.credit(make_probes(2, 8))
    ledger.close()
    ledger = Ledger(store)
    if not credited_before_checkpoint:
        ledger.credit(make_probes(1, 4))
    ledger.append(make_record(4, seed=9))
    ledger.close()
    probes = read_ledger(store).probes
    assert probes["refresh"].to_pylist() == [1] * 8
    assert set(probes["attempt"].to_pylist()) == {0 if credited_before_checkpoint else 1}


def test_steps_count_once_every_rank_has_published(store):
    ranks = [Ledger(store, 2, attempt=0, rank=rank, world_size=2) for rank in range(2)]
    records = {}
    for step in range(6):
        for rank, ledger in enumerate(ranks):
            if rank == 1 and step >= 4:
                continue
            records[step, rank] = make_record(step, slots=2, first_slot=2 * rank)
            ledger.append(records[step, rank])
    wanted = {
        step: sorted(expected_batch(records[step, 0]) + expected_batch(records[step, 1]))
        for step in range(4)
    }
    assert rebuilt(store) == wanted


def lost_in(store):
    names = ("step", "attempt", "shard", "reason")
    return [tuple(row[name] for name in names) for row in read_ledger(store).lost.to_pylist()]


def test_a_lost_shard_is_recorded_at_the_first_step_that_did_without_it(store):
    ledger = Ledger(store, flush_steps=3)
    lost = {0: (), 2: ((7, "s7 is corrupt"),), 5: ((7, "s7 is corrupt"), (4, "s4 is short"))}
    for step in range(8):
        known = lost[max(first for first in lost if first <= step)]
        ledger.append(replace(make_record(step), lost=known))
    ledger.close()
    assert lost_in(store) == [(2, 0, 7, "s7 is corrupt"), (5, 0, 4, "s4 is short")]
    again = Ledger(store)  # goes back behind the second loss, which does not happen again
    again.append(replace(make_record(4), lost=lost[2]))
    again.close()
    assert lost_in(store) == [(2, 0, 7, "s7 is corrupt")]


def test_a_shard_that_several_ranks_lost_is_listed_once(store):
    for rank, first in ((0, 3), (1, 1)):
        ledger = Ledger(store, attempt=0, rank=rank, world_size=2)
        for step in range(4):
            record = make_record(step, slots=2, first_slot=2 * rank)
            ledger.append(
                replace(record, lost=((rank, "bad"), (9, "bad")) if step >= first else ())
            )
        ledger.close()
    assert lost_in(store) == [(1, 0, 1, "bad"), (1, 0, 9, "bad"), (3, 0, 0, "bad")]


def test_a_ledger_without_losses_says_so(store):
    ledger = Ledger(store)
    ledger.append(make_record(0))
    ledger.close()
    assert lost_in(store) == []


def test_attempts_continue_after_those_published(store):
    for attempt in range(3):
        assert next_attempt(store) == attempt
        ledger = Ledger(store)
        assert ledger.attempt == attempt
        ledger.append(make_record(0))
        ledger.close()


def test_a_stream_without_agents_is_recorded_too(store):
    record = make_record(0, num_agents=0)
    ledger = Ledger(store)
    ledger.append(record)
    ledger.close()
    view = read_ledger(store)
    assert rebuilt(store) == {0: expected_batch(record)}
    assert view.pieces["votes"].to_pylist()[0] == []
    assert view.steps["theta"].to_pylist() == [[]]


def test_parts_never_share_a_name(store):
    for _ in range(3):
        ledger = Ledger(store, flush_steps=2)
        ledger.credit(make_probes(1, 0))
        ledger.flush()
        for step in range(5):
            ledger.append(make_record(step, slots=1, candidates=2))
        ledger.close()
        ledger.close()
    names = store.list("")
    assert len(names) == len(set(names)) == 3 * (1 + 3 * 2)


def test_kill_leaves_every_published_part_readable(tmp_path):
    """kill -9 in the middle of writing: a prefix of the steps is there, whole and exact."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import importlib.util, sys
        from moot.loader.ledger import Ledger
        from moot.loader.storage import open_store
        spec = importlib.util.spec_from_file_location("ledger_test", {str(Path(__file__))!r})
        test = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(test)
        ledger = Ledger(open_store({str(tmp_path / "ledger")!r}), flush_steps=2)
        for step in range(100_000):
            ledger.append(test.make_record(step))
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)])
    folder = tmp_path / "ledger"
    deadline = time.monotonic() + 60
    while len(list(folder.glob("steps-*"))) < 5:
        assert process.poll() is None, "the writer ended by itself"
        assert time.monotonic() < deadline, "no parts after 60 s"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = rebuilt(open_store(str(folder)))
    assert list(found) == list(range(len(found)))
    assert len(found) >= 10
    assert found == {step: expected_batch(make_record(step)) for step in found}


def test_reading_nothing_says_what_to_do(store):
    with pytest.raises(StateError, match="first flush or checkpoint"):
        read_ledger(store)


def test_a_damaged_part_is_named(store):
    ledger = Ledger(store)
    ledger.append(make_record(0))
    ledger.close()
    name = next(name for name in store.list("") if name.startswith("pieces"))
    store.put(name, b"not parquet")
    with pytest.raises(StateError, match=name):
        read_ledger(store)


def test_steps_must_increase(store):
    ledger = Ledger(store)
    ledger.append(make_record(3))
    with pytest.raises(StateError, match="step 3 after step 3"):
        ledger.append(make_record(3))


def test_arrays_of_unequal_length_are_refused(store):
    record = make_record(0)
    broken = StepRecord(**{**vars(record), "length": record.length[:-1]})
    with pytest.raises(ValueError, match="length has shape"):
        Ledger(store).append(broken)


def test_a_step_costs_less_than_a_millisecond(store):
    """4 slots x 32 candidates, publishing included; CPU time, best of three runs of 128 steps."""
    records = [make_record(step) for step in range(128)]
    Ledger(store, attempt=900).append(records[0])
    costs = []
    for attempt in range(3):
        ledger = Ledger(store, flush_steps=64, attempt=attempt)
        start = time.thread_time()
        for record in records:
            ledger.append(record)
        costs.append((time.thread_time() - start) / len(records))
    assert min(costs) < 1e-3


class Failing:
    """A store that cannot be written to for a while."""

    def __init__(self, store):
        self._store, self.url = store, store.url
        self.left = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def put(self, name, data):
        self.left -= 1
        if self.left == 0:
            raise StorageError("no room")
        self._store.put(name, data)


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5])
def test_a_flush_that_fails_is_gone_on_with_and_doubles_nothing(store, failing):
    records = [make_record(step) for step in range(8)]
    broken = Failing(store)
    ledger = Ledger(broken, flush_steps=3)
    broken.left, errors = failing, 0
    calls = [*(partial(ledger.append, record) for record in records), ledger.close]
    for call in calls:
        try:
            call()
        except StorageError:
            errors += 1
    ledger.close()
    assert errors == 1
    assert rebuilt(store) == {record.step: expected_batch(record) for record in records}
    for table in ("pieces", "steps"):
        rows = getattr(read_ledger(store), table).to_pylist()
        assert len({str(row) for row in rows}) == len(rows)

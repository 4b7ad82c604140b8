import gc
import json
import pickle
import threading
import time

import numpy as np
import pytest
import torch
from corpora import random_lengths, small_agents, tokens_of, write_corpus
from moot.loader import (
    ConfigError,
    ConsoleConfig,
    Loader,
    ShardError,
    StateError,
    StorageError,
    scoring,
)
from moot.loader.ledger import batches as recorded_batches
from moot.loader.ledger import read_ledger
from moot.loader.storage import open_store

NUM_SAMPLES = 400
SETTINGS = {
    "batch_rows": 8,
    "seq_len": 64,
    "num_slots": 2,
    "seed": 5,
    "window_shards": 3,
    "num_probes": 24,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), random_lengths(NUM_SAMPLES))


def console_config(**changes):
    return ConsoleConfig(**{"refresh_steps": 4, "policy_lag": 2} | changes)


def open_loader(corpus, console=None, **changes):
    settings = SETTINGS | {"agents": small_agents() if console else None, "console": console}
    return Loader(corpus, **(settings | changes))


def reward_of(probes):
    """Rewards as a function of ids: documents of domain 1 help."""
    return np.sin(probes.sample_id * 0.7) + 2.0 * (probes.sample_id % 3 == 1)


def feed_back(loader):
    refresh = loader.refresh_due()
    if refresh is not None:
        probes = loader.probes(refresh)
        loader.credit(refresh, probes.ids, reward_of(probes))


def run(loader, num, start=0):
    """Read `num` batches with feedback; returns what stood in them."""
    seen = []
    stream = iter(loader)
    for step in range(start, start + num):
        batch = next(stream)
        pieces = loader.pieces(step)
        check_batch(batch, pieces)
        seen.append((pieces.sample_id.tolist(), pieces.offset.tolist(), pieces.length.tolist()))
        feed_back(loader)
    return seen


def check_batch(batch, pieces):
    """The tokens in a batch are those of the samples that it claims to hold."""
    flat = batch["input_ids"].flatten().numpy()
    spans = zip(pieces.sample_id, pieces.offset, pieces.length, pieces.start, strict=True)
    for sample_id, offset, length, start in spans:
        expected = tokens_of(sample_id, offset, offset + length)
        assert np.array_equal(flat[start : start + length], expected)


MODES = [None, console_config(), console_config(mode="published")]
MODE_NAMES = ["off", "default", "published"]


@pytest.mark.parametrize("console", MODES, ids=MODE_NAMES)
def test_two_loaders_of_one_seed_read_the_same(corpus, console):
    with open_loader(corpus, console) as first, open_loader(corpus, console) as second:
        assert run(first, 15) == run(second, 15)
    with open_loader(corpus, console, seed=6) as first, open_loader(corpus, console) as second:
        assert run(first, 3) != run(second, 3)


def test_threads_that_share_the_scoring_change_nothing_and_are_joined(corpus, monkeypatch):
    monkeypatch.setattr(scoring, "_PART_TOKENS", 64)
    seen = []
    for num in (1, 3):
        with open_loader(corpus, console_config(), score_threads=num) as loader:
            seen.append((run(loader, 8), loader.state_dict()))
            names = [thread.name for thread in threading.enumerate()]
            assert any(name.startswith("moot-score") for name in names) == (num > 1)
        assert not any(thread.name.startswith("moot-score") for thread in threading.enumerate())
    assert seen[0] == seen[1]


def test_without_a_console_every_token_is_read_once_an_epoch(corpus):
    lengths = random_lengths(NUM_SAMPLES)
    read = np.zeros(NUM_SAMPLES, dtype=int)
    with open_loader(corpus) as loader:
        for ids, _, piece_lengths in run(loader, int(lengths.sum() // 512)):
            np.add.at(read, ids, piece_lengths)
    # All but the documents that are still open, and a few of the next epoch, were read once.
    assert (read <= 2 * lengths).all()
    assert (read == lengths).mean() > 0.9


@pytest.mark.parametrize("console", MODES, ids=MODE_NAMES)
def test_resume_at_every_step_twice_in_a_row(corpus, console):
    with open_loader(corpus, console) as loader:
        whole = run(loader, 18)
    for stop in range(0, 17, 3):
        with open_loader(corpus, console) as loader:
            assert run(loader, stop) == whole[:stop]
            state = json.loads(json.dumps(loader.state_dict()))
        with open_loader(corpus, console) as loader:
            loader.load_state_dict(state)
            assert loader.state_dict() == state
            assert run(loader, 1, stop) == whole[stop : stop + 1]
            state = loader.state_dict()
        with open_loader(corpus, console) as loader:
            loader.load_state_dict(state)
            rest = run(loader, 18 - stop - 1, stop + 1)
        assert rest == whole[stop + 1 :]


def test_resume_with_prefetched_batches_loses_nothing(corpus):
    with open_loader(corpus, prefetch_batches=6) as loader:
        whole = run(loader, 12)
    with open_loader(corpus, prefetch_batches=6) as loader:
        run(loader, 3)
        loader.peek()
        loader.load_state_dict(loader.state_dict())
        assert run(loader, 9, 3) == whole[3:]


def test_resume_in_the_second_epoch(corpus):
    steps = 2 * int(random_lengths(NUM_SAMPLES).sum() // 512)
    with open_loader(corpus) as loader:
        whole = run(loader, steps)
        metrics = loader.metrics()
    assert metrics["data/epoch"] > 1
    with open_loader(corpus) as loader:
        run(loader, steps - 5)
        state = loader.state_dict()
    with open_loader(corpus) as loader:
        loader.load_state_dict(state)
        assert run(loader, 5, steps - 5) == whole[-5:]


@pytest.mark.parametrize("console", MODES, ids=MODE_NAMES)
def test_world_sizes_1_2_and_4_see_the_same_global_batches(corpus, console):
    def rows_of(world_size):
        loaders = [
            open_loader(corpus, console, num_slots=4, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        streams = [iter(loader) for loader in loaders]
        steps = []
        for _ in range(13):
            steps.append(torch.cat([next(stream)["input_ids"] for stream in streams]))
            for loader in loaders:
                feed_back(loader)
        states = [loader.state_dict() for loader in loaders]
        assert all(state == states[0] for state in states)
        for loader in loaders:
            loader.close()
        return torch.stack(steps), states[0]

    one, state = rows_of(1)
    for world_size in (2, 4):
        other, other_state = rows_of(world_size)
        assert torch.equal(one, other)
        assert other_state == state


def test_a_state_moves_between_world_sizes(corpus):
    console = console_config()
    with open_loader(corpus, console) as loader:
        whole = [batch["input_ids"] for batch, _ in zip(iter(loader), range(3), strict=False)]
    with open_loader(corpus, console) as loader:
        next(iter(loader))
        state = loader.state_dict()
    halves = []
    for rank in range(2):
        with open_loader(corpus, console, rank=rank, world_size=2) as loader:
            loader.load_state_dict(state)
            halves.append(next(iter(loader))["input_ids"])
    assert torch.equal(torch.cat(halves), whole[1])


def test_the_policy_reaches_its_step_and_no_other(corpus):
    console = console_config()
    with open_loader(corpus, console) as loader:
        credited = run(loader, 12)
    with open_loader(corpus, console) as loader:
        stream, seen = iter(loader), []
        for step in range(12):
            next(stream)
            seen.append(loader.pieces(step).sample_id.tolist())
            refresh = loader.refresh_due()
            if refresh is not None:
                probes = loader.probes(refresh)
                loader.credit(refresh, probes.ids, -reward_of(probes))
    same = [a == b[0] for a, b in zip(seen, credited, strict=True)]
    assert all(same[:6]), "refresh 1 falls after step 4 and is effective at step 6"
    assert not all(same[6:])


def test_selection_prefers_what_is_rewarded(corpus):
    with open_loader(corpus, console_config(), keep=0.3) as loader:
        seen = run(loader, 60)

    def share(part):
        ids = np.concatenate([np.repeat(s[0], s[2]) for s in part])
        return float((ids % 3 == 1).mean())

    assert share(seen[-20:]) > 1.5 * share(seen[:6])


def test_metrics_tell_the_mixture_and_the_weights(corpus):
    with open_loader(corpus, console_config()) as loader:
        seen = run(loader, 6)
        metrics = loader.metrics()
    ids = np.concatenate([np.repeat(s[0], s[2]) for s in seen])
    for domain, name in enumerate("abc"):
        assert metrics[f"mix/{name}/share"] == pytest.approx((ids % 3 == domain).mean())
    assert sum(metrics[f"agent/{name}/weight"] for name in ("quality", "domain", "topic")) == (
        pytest.approx(1.0)
    )
    assert all(isinstance(value, float) for value in metrics.values())


def test_feedback_that_is_missing_is_an_error_that_says_what_to_do(corpus):
    with open_loader(corpus, console_config()) as loader:
        stream = iter(loader)
        for _ in range(6):
            next(stream)
        with pytest.raises(StateError, match=r"step 6 needs the rewards of refresh 1.*credit"):
            next(stream)


def test_feedback_that_is_missing_may_be_gone_without(corpus):
    with open_loader(corpus, console_config(), deterministic=False) as loader:
        stream = iter(loader)
        for _ in range(12):
            next(stream)
        assert loader.metrics()["console/num_skipped"] == 2
        before = loader.metrics()
        probes = loader.probes(1)
        loader.credit(1, probes.ids, reward_of(probes))
        after = loader.metrics()
    changed = [key for key in after if "/spread" in key and before[key] != after[key]]
    assert changed, "late rewards still move the memories"


def test_probes_are_equal_on_all_ranks_and_leave_the_cursor(corpus):
    console = console_config()
    with (
        open_loader(corpus, console) as first,
        open_loader(corpus, console, rank=1, world_size=2) as second,
    ):
        next(iter(first))
        state = first.state_dict()
        ours, theirs = first.probes(3), second.probes(3)
        assert first.state_dict() == state
    assert np.array_equal(ours.tokens, theirs.tokens)
    assert np.array_equal(ours.weights, theirs.weights)
    assert len(ours.ids) == 24 and not np.array_equal(ours.sample_id, first_probes(corpus))
    bounds = zip(ours.cu_seqlens[:-1], ours.cu_seqlens[1:], strict=True)
    for (start, stop), sample_id, offset in zip(bounds, ours.sample_id, ours.offset, strict=True):
        expected = tokens_of(sample_id, offset, offset + stop - start)
        assert np.array_equal(ours.tokens[start:stop], expected)


def first_probes(corpus):
    with open_loader(corpus, console_config()) as loader:
        return loader.probes(1).sample_id


def test_credit_takes_ids_in_any_order_and_refuses_wrong_ones(corpus):
    states = []
    for shuffled in (False, True):
        with open_loader(corpus, console_config()) as loader:
            probes = loader.probes(1)
            order = np.random.default_rng(0).permutation(24) if shuffled else np.arange(24)
            with pytest.raises(StateError, match="each of its 24 probes once"):
                loader.credit(1, probes.ids[:5], np.zeros(5))
            loader.credit(1, probes.ids[order], reward_of(probes)[order])
            states.append(loader.state_dict())
    assert states[0] == states[1]


def test_the_ledger_rebuilds_the_exact_sequence_of_batches(corpus, tmp_path):
    ledger = str(tmp_path / "ledger")
    with open_loader(corpus, console_config(), ledger=ledger, flush_steps=4) as loader:
        whole = run(loader, 14)
    rebuilt = list(recorded_batches(open_store(ledger)))
    assert [ids_in(batch) for batch in rebuilt] == [sorted(zip(*s, strict=True)) for s in whole]
    view = read_ledger(open_store(ledger))
    assert view.probes.num_rows == 3 * 24
    assert len(view.steps) == 14


def ids_in(batch):
    parts = (batch.sample_id, batch.offset, batch.length)
    return sorted(zip(*(part.tolist() for part in parts), strict=True))


def test_steps_that_run_again_supersede(corpus, tmp_path):
    ledger = str(tmp_path / "ledger")
    with open_loader(corpus, console_config(), ledger=ledger, flush_steps=2) as loader:
        run(loader, 5)
        state = loader.state_dict()
        run(loader, 4, 5)
    with open_loader(corpus, console_config(), ledger=ledger, flush_steps=2) as loader:
        loader.load_state_dict(state)
        rest = run(loader, 3, 5)
    rebuilt = list(recorded_batches(open_store(ledger)))
    assert len(rebuilt) == 8
    assert [ids_in(b) for b in rebuilt[5:]] == [sorted(zip(*s, strict=True)) for s in rest]


# The contract with trainers (trainers meet a DataLoader) ---------------------------------------


def test_it_is_a_data_loader_with_what_trainers_read(corpus):
    with open_loader(corpus, epoch_batches=7) as loader:
        assert isinstance(loader, torch.utils.data.DataLoader)
        assert isinstance(loader.dataset, torch.utils.data.IterableDataset)
        assert loader._is_accelerate_prepared and loader.use_stateful_dataloader
        assert loader.batch_size == 8 and loader.batch_sampler.batch_size == 8
        assert not hasattr(loader, "set_epoch") and loader._iterator is None
        loader.batch_sampler.sampler.set_epoch(3)
        assert len(loader) == 7
        with pytest.raises(ConfigError, match="iterate the Loader itself"):
            iter(loader.dataset)


def test_an_epoch_has_its_length_and_the_next_goes_on(corpus):
    with open_loader(corpus) as loader:
        whole = [batch["input_ids"] for batch, _ in zip(iter(loader), range(9), strict=False)]
    with open_loader(corpus, epoch_batches=4) as loader:
        epochs = [[b["input_ids"] for b in loader] for _ in range(2)]
        assert [len(epoch) for epoch in epochs] == [4, 4]
    assert all(torch.equal(a, b) for a, b in zip(sum(epochs, []), whole, strict=False))


def test_state_at_the_end_of_an_epoch_starts_the_next(corpus):
    with open_loader(corpus, epoch_batches=3) as loader:
        list(loader)
        state = loader.state_dict()
    with open_loader(corpus, epoch_batches=3) as loader:
        loader.load_state_dict(state)
        assert len(list(loader)) == 3


def test_an_endless_stream_has_no_length(corpus):
    with open_loader(corpus) as loader, pytest.raises(TypeError, match="epoch_batches"):
        len(loader)


def test_iter_pulls_nothing_and_peek_consumes_nothing(corpus):
    with open_loader(corpus) as loader:
        state = loader.state_dict()
        iter(loader)
        first = loader.peek()["input_ids"]
        assert loader.state_dict() == state
        assert torch.equal(next(iter(loader))["input_ids"], first)


def test_state_has_fixed_keys_before_and_after(corpus):
    with open_loader(corpus, console_config()) as loader:
        fresh = loader.state_dict()
        run(loader, 5)
        later = loader.state_dict()
        loader.load_state_dict({})
        assert loader.state_dict() == later
    assert set(fresh) == set(later) == {"version", "cursor"}
    assert isinstance(later["version"], int) and isinstance(later["cursor"], str)


def test_state_does_not_grow_with_steps_and_stays_small(corpus):
    with open_loader(corpus, console_config()) as loader:
        run(loader, 10)
        early = len(loader.state_dict()["cursor"])
        run(loader, 40, 10)
        late = len(loader.state_dict()["cursor"])
    print("state of 2 slots, 8 lanes, 3 agents:", late, "bytes")
    assert late < 1.25 * early and late < 16_384


def test_the_state_counts_acknowledged_batches(corpus):
    with open_loader(corpus) as loader:
        whole = run(loader, 8)
    with open_loader(corpus, acknowledge=True) as loader:
        run(loader, 5)
        loader.acknowledge(2)
        state = loader.state_dict()
    with open_loader(corpus, acknowledge=True) as loader:
        loader.load_state_dict(state)
        assert run(loader, 2, 3) == whole[3:5]
        with pytest.raises(StateError, match="batch 9"):
            loader.acknowledge(9)


def test_close_joins_all_threads(corpus):
    before = set(threading.enumerate())
    loader = open_loader(corpus, console_config())
    next(iter(loader))
    loader.close()
    loader.close()
    assert set(threading.enumerate()) <= before


def test_close_joins_the_threads_of_large_shards(tmp_path):
    lengths = np.full(1600, 3000)
    path = write_corpus(tmp_path, lengths, size_limit=12 << 20, compression=None)
    before = set(threading.enumerate())
    with Loader(path, **SETTINGS) as loader:
        next(iter(loader))
    assert set(threading.enumerate()) <= before


def test_an_abandoned_loader_ends_its_threads(corpus):
    before = set(threading.enumerate())
    loader = open_loader(corpus)
    next(iter(loader))
    del loader
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        gc.collect()  # does nothing while another thread collects, so once is not enough
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


def test_rewards_credited_right_after_a_resume_stand_in_the_ledger(corpus, tmp_path):
    ledger = str(tmp_path / "ledger")
    with open_loader(corpus, console_config(), ledger=ledger) as loader:
        stream = iter(loader)
        for _ in range(4):
            next(stream)
        state = loader.state_dict()
    with open_loader(corpus, console_config(), ledger=ledger) as loader:
        loader.load_state_dict(state)
        feed_back(loader)
        run(loader, 1, 4)
    assert read_ledger(open_store(ledger)).probes.num_rows == 24


def test_ties_fall_differently_in_the_next_epoch(corpus):
    with open_loader(corpus, console_config(refresh_steps=10**6), keep=0.25) as loader:
        steps = 2 * int(random_lengths(NUM_SAMPLES).sum() // (0.25**-1 * 512)) + 2
        seen = run(loader, steps)
    kept = [set(zip(*s[:2], strict=True)) for s in seen]
    first, second = set().union(*kept[: steps // 2]), set().union(*kept[steps // 2 :])
    assert len(first & second) < 0.5 * len(first)


def test_batches_hold_only_tensors_and_can_be_copied(corpus):
    with open_loader(
        corpus, fields=("input_ids", "labels", "position_ids", "cu_seqlens")
    ) as loader:
        batch = next(iter(loader))
    assert all(isinstance(value, torch.Tensor) for value in batch.values())
    assert pickle.loads(pickle.dumps(batch))["cu_seqlens"].dtype == torch.int32


# Bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch_batches": 0}, "epoch_batches must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"num_slots": 0}, "num_slots must be at least 1"),
        ({"world_size": 2}, "pass rank, or set RANK"),
        ({"rank": 0, "world_size": 2, "ledger": "x"}, "needs `attempt`"),
        ({"batch_rowz": 4}, "unknown setting 'batch_rowz'"),
        ({"batch_rows": 0}, "batch_rows must be at least 1"),
        ({"num_slots": 3}, "must divide batch_rows"),
        ({"world_size": 4, "rank": 0}, "must divide num_slots"),
        ({"world_size": 2, "rank": 2}, "rank must be in"),
        ({"fields": ("token",)}, "unknown batch fields"),
        ({"console": console_config(policy_lag=1)}, "policy_lag must be at least"),
        ({"console": console_config(), "keep": 0.0}, "keep must be in"),
    ],
)
def test_settings_that_cannot_work_are_named(corpus, changes, message):
    with pytest.raises(ConfigError, match=message):
        Loader(corpus, **(SETTINGS | changes))


def test_a_wrong_path_an_empty_bucket_and_a_missing_column(corpus, tmp_path):
    with pytest.raises(StorageError, match="nowhere"):
        Loader(str(tmp_path / "nowhere"), **SETTINGS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="empty"):
        Loader(str(tmp_path / "empty"), **SETTINGS)
    with pytest.raises(ShardError, match="no column 'ids'"):
        Loader(corpus, **SETTINGS, column="ids")


def test_a_damaged_shard_is_named_where_its_batch_is_asked_for(tmp_path):
    path = write_corpus(tmp_path / "c", random_lengths(200))
    for shard in sorted((tmp_path / "c").glob("shard.*")):
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 0xFF
        shard.write_bytes(data)
    with Loader(path, **SETTINGS) as loader, pytest.raises(ShardError, match=r"shard\.\d{5}\.mds"):
        next(iter(loader))


def test_a_state_of_another_plan_or_version_is_refused(corpus):
    with open_loader(corpus) as loader:
        state = loader.state_dict()
    with (
        open_loader(corpus, console_config(tau=0.7)) as loader,
        open_loader(corpus, console_config()) as other,
        pytest.raises(StateError, match="console was"),
    ):
        loader.load_state_dict(other.state_dict())
    with open_loader(corpus, seed=9) as loader:
        with pytest.raises(StateError, match="seed was 5, is 9"):
            loader.load_state_dict(state)
        with pytest.raises(StateError, match="version 7"):
            loader.load_state_dict({"version": 7, "cursor": ""})
        with pytest.raises(StateError, match="damaged"):
            loader.load_state_dict({"version": 1, "cursor": "@@"})


def test_a_corpus_smaller_than_a_batch_is_read_again_and_again(tmp_path):
    path = write_corpus(tmp_path / "tiny", [3, 1, 5])
    with Loader(path, **SETTINGS) as loader:
        run(loader, 3)
        assert loader.metrics()["data/epoch"] > 3


def test_a_step_that_failed_is_tried_again(tmp_path):
    path = write_corpus(tmp_path / "c", random_lengths(200))
    with Loader(path, **SETTINGS) as loader:
        whole = run(loader, 2)
    shards = sorted((tmp_path / "c").glob("shard.*"))
    kept = [shard.read_bytes() for shard in shards]
    for shard in shards:
        shard.write_bytes(b"")
    with Loader(path, **SETTINGS) as loader:
        with pytest.raises((ShardError, StorageError), match=r"shard\.\d{5}\.mds"):
            next(iter(loader))
        for shard, data in zip(shards, kept, strict=True):
            shard.write_bytes(data)
        assert run(loader, 2) == whole


def test_a_closed_loader_says_so(corpus):
    loader = open_loader(corpus)
    loader.close()
    with pytest.raises(StateError, match="closed"):
        next(iter(loader))


def test_more_probes_than_pieces_names_the_setting(tmp_path):
    path = write_corpus(tmp_path / "tiny", [3, 1, 5])
    with (
        Loader(path, **SETTINGS, console=console_config(), agents=small_agents()) as loader,
        pytest.raises(ConfigError, match="num_probes is 24"),
    ):
        loader.probes(1)


def test_rewards_of_another_number_than_ids_are_refused(corpus):
    with open_loader(corpus, console_config()) as loader:
        probes = loader.probes(1)
        with pytest.raises(StateError, match="24 probes once"):
            loader.credit(1, probes.ids, np.zeros(99))


def test_a_budget_below_one_step_is_refused_with_figures(corpus):
    loader = Loader(corpus, **SETTINGS, budget_bytes=15_000)
    with loader, pytest.raises(ConfigError, match="budget_bytes"):
        next(iter(loader))

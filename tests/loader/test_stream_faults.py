# SPDX-License-Identifier: Apache-2.0
"""A running loader over HTTP whose server fails: no sample lost or doubled, every failure counted.

What is read under faults is compared, sample by sample, with an undisturbed run over the files.
"""

import json
import random
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from corpora import random_lengths, small_agents, tokens_of, write_corpus
from moot.loader import ConsoleConfig, Loader, ShardError, StateError, StorageError
from moot.loader.ledger import read_ledger
from moot.loader.shards import MDSWriter
from moot.loader.storage import open_store
from servers import Answer, FaultServer, Flip, Reset, Short, Stall
from streamed import samples_in, trace

SETTINGS = {"batch_rows": 8, "seq_len": 64, "num_slots": 4, "seed": 3, "window_shards": 4}
FAST = {"timeout_s": "0.4", "range_timeout_s": "20", "deadline_s": "20"}
STEPS = 24
ROW = 64  # tokens of every sample of the corpus of fixed length

pytestmark = pytest.mark.filterwarnings("ignore:a (bad|lost) shard")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    write_corpus(root / "texts", random_lengths(150), size_limit=1 << 12)
    store = open_store(str(root / "rows"))
    columns = {"tokens": f"ndarray:uint16:{ROW}"}
    with MDSWriter(store, columns, compression=None, size_limit=1 << 11) as writer:
        for i in range(200):
            writer.write({"tokens": tokens_of(i, 0, ROW).astype(np.uint16)})
    store = open_store(str(root / "many"))
    with MDSWriter(store, columns, compression=None, size_limit=700) as writer:
        for i in range(600):
            writer.write({"tokens": tokens_of(i, 0, ROW).astype(np.uint16)})
    return root


@pytest.fixture(scope="module")
def undisturbed(folder):
    with Loader(str(folder / "texts"), **SETTINGS) as loader:
        return trace(loader, STEPS)


@pytest.fixture
def server(folder):
    with FaultServer(folder) as server:
        yield server


def read(url, num=STEPS, **changes):
    with Loader(url, **(SETTINGS | {"storage_options": FAST} | changes)) as loader:
        return trace(loader, num), loader.metrics()


def shard_files(folder, corpus):
    """The stored files of a corpus in the order of their samples, and each one's sample ids."""
    entries = json.loads((folder / corpus / "index.json").read_text())["shards"]
    first, files = 0, {}
    for entry in entries:
        name = (entry.get("zip_data") or entry["raw_data"])["basename"]
        files[name] = set(range(first, first + entry["samples"]))
        first += entry["samples"]
    return files


FAULTS = {
    "unavailable": ([Answer(503)] * 3, {"io/retries": 3, "io/throttled": 3}),
    "throttled": ([Answer(429, {"Retry-After": "1"})], {"io/retries": 1, "io/throttled": 1}),
    "error": ([Answer(500), Answer(502)], {"io/retries": 2}),
    "reset before the answer": ([Reset(0)] * 2, {"io/retries": 2}),
    "reset in the body": ([Reset(200)] * 2, {"io/retries": 2}),
    "short body": ([Short(200)] * 2, {"io/retries": 2}),
    "flipped byte": ([Flip(100)], {"cache/quarantined": 1}),
    "no answer": ([Stall(5)], {"io/retries": 1, "io/timeouts": 1}),
    "stall in the body": ([Stall(5, after=200)], {"io/retries": 1, "io/timeouts": 1}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_kind_of_fault_changes_no_batch_and_is_counted(server, undisturbed, name):
    faults, counts = FAULTS[name]
    server.plan(*faults, path="shard")
    seen, metrics = read(f"{server.url}/texts")
    assert seen == undisturbed
    assert {name: metrics[name] for name in counts} == counts
    if name == "throttled":
        first, again = _requests_behind(server, faults[0])
        assert again - first >= 1.0, "Retry-After is kept"


def _requests_behind(server, fault):
    """When a faulty request was sent, and the next one of the same range."""
    log = server.requests()
    at = next(i for i, seen in enumerate(log) if seen.fault is fault)
    again = next(s for s in log[at + 1 :] if (s.path, s.range) == (log[at].path, log[at].range))
    return log[at].at, again.at


def test_without_a_fault_nothing_is_counted(server, undisturbed):
    seen, metrics = read(f"{server.url}/texts")
    assert seen == undisturbed
    names = ("io/retries", "io/throttled", "io/timeouts", "io/errors", "cache/quarantined")
    assert {name: metrics[name] for name in names} == dict.fromkeys(names, 0)


def test_a_late_read_gets_a_second_one_that_wins(server):
    """Well into the stream the usual time of a read is known, and a stall is not waited for."""
    files = sorted(shard_files(server.objects, "many"))
    assert len(files) > 100
    server.plan(Stall(20), path=files[90])
    patient = {"timeout_s": "30", "range_timeout_s": "60"}
    began = time.monotonic()
    seen, metrics = read(f"{server.url}/many", 70, storage_options=patient, shuffle=False)
    assert time.monotonic() - began < 20
    assert metrics["io/hedges_won"] >= 1
    with Loader(str(server.objects / "many"), **SETTINGS, shuffle=False) as loader:
        assert seen == trace(loader, 70)


@pytest.mark.parametrize("seed", range(6))
def test_faults_mixed_at_random_change_no_batch(server, folder, undisturbed, seed):
    rng = random.Random(seed)
    kinds = [Answer(503), Answer(429, {"Retry-After": "0"}), Answer(500), Reset(0), Reset(150)]
    kinds += [Short(0), Short(150), Stall(5), Stall(5, after=150)]
    for name in rng.sample(sorted(shard_files(folder, "texts")), 5):
        server.plan(Flip(rng.randrange(200)), path=name)
    wanted = [rng.choice(kinds) if rng.random() < 0.3 else None for _ in range(40)]
    server.plan(*wanted, path="shard")
    options = FAST | {"attempts": "12"}
    seen, metrics = read(f"{server.url}/texts", fetch_threads=6, storage_options=options)
    assert seen == undisturbed
    met = [request.fault for request in server.requests() if request.fault is not None]
    flipped = sum(isinstance(fault, Flip) for fault in met)
    assert metrics["cache/quarantined"] == flipped > 0
    assert metrics["io/retries"] >= 1 and len(met) > flipped


def test_faults_meet_a_resumed_run_and_the_disk_cache_alike(server, undisturbed, tmp_path):
    settings = SETTINGS | {"storage_options": FAST, "cache_dir": str(tmp_path)}
    server.plan(Flip(100), Answer(503), Short(90), None, Reset(50), Flip(90), path="shard")
    with Loader(f"{server.url}/texts", **settings) as loader:
        seen = trace(loader, 9)
        state = loader.state_dict()
    with Loader(f"{server.url}/texts", **settings) as loader:
        loader.load_state_dict(state)
        seen += trace(loader, STEPS - 9, 9)
        assert loader.metrics()["disk/hits"] > 0
    assert seen == undisturbed


# A shard that stays bad -----------------------------------------------------------------------


def first_step_with(seen, samples):
    return next(step for step, rows in enumerate(seen) if samples & set(rows[0]))


@pytest.mark.parametrize("corpus", ["texts", "rows"])
def test_a_shard_that_stays_corrupt_fails_at_the_batch_that_needs_it(server, folder, corpus):
    with Loader(str(folder / corpus), **SETTINGS) as loader:
        whole = trace(loader, STEPS)
    files = shard_files(folder, corpus)
    name, samples = max(files.items(), key=lambda item: _first(whole, item[1]))
    step = first_step_with(whole, samples)
    assert step > 4
    server.plan(Flip(100), path=name, forever=True)
    settings = SETTINGS | {"storage_options": FAST, "prefetch_batches": 2}
    with Loader(f"{server.url}/{corpus}", **settings) as loader:
        seen = []
        with pytest.raises(ShardError) as caught:
            while True:
                seen += trace(loader, 1, len(seen))
        assert f"{server.url}/{corpus}/{name}" in str(caught.value)
        assert seen == whole[: len(seen)]
        # How long documents are is looked up a little ahead, where it is not fixed.
        assert len(seen) == step if corpus == "rows" else step // 2 <= len(seen) <= step
        with pytest.raises(ShardError, match=name):  # it is no better the next time
            while len(seen) <= step:
                seen += trace(loader, 1, len(seen))
        assert seen == whole[: len(seen)]
        state = loader.state_dict()
    with Loader(str(folder / corpus), **SETTINGS) as loader:
        loader.load_state_dict(state)
        assert seen + trace(loader, STEPS - len(seen), len(seen)) == whole


def _first(seen, samples):
    """The first step that reads some samples, -1 if none does."""
    return next((step for step, rows in enumerate(seen) if samples & set(rows[0])), -1)


@pytest.mark.parametrize("corpus", ["texts", "rows"])
def test_a_lost_shard_is_substituted_alike_on_all_ranks(server, folder, corpus):
    with Loader(str(folder / corpus), **SETTINGS) as loader:
        whole = trace(loader, STEPS)
    files = shard_files(folder, corpus)
    name, lost = min(
        ((n, s) for n, s in files.items() if _first(whole, s) >= 2),
        key=lambda item: _first(whole, item[1]),
    )
    server.plan(Flip(100), path=name, forever=True)

    def rows_of(world_size):
        loaders = [
            Loader(
                f"{server.url}/{corpus}",
                **SETTINGS,
                storage_options=FAST,
                on_bad_shard="substitute",
                rank=rank,
                world_size=world_size,
            )
            for rank in range(world_size)
        ]
        streams = [iter(loader) for loader in loaders]
        rows = [torch.cat([next(s)["input_ids"] for s in streams]) for _ in range(STEPS)]
        seen = set().union(
            *(set(loader.pieces(i).sample_id.tolist()) for loader in loaders for i in range(STEPS))
        )
        metrics = [loader.metrics() for loader in loaders]
        states = [loader.state_dict() for loader in loaders]
        for loader in loaders:
            loader.close()
        # Each lists the lost shards that it has met: all ranks read them all for their lengths.
        bodies = [json.loads(state["cursor"]) for state in states]
        lists = [body.pop("lost") for body in bodies]
        assert all(body == bodies[0] for body in bodies)
        assert any(name in reason for found in lists for _, reason, _ in found)
        assert corpus == "rows" or all(found == lists[0] for found in lists)
        return torch.stack(rows), seen, metrics

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        one, seen, metrics = rows_of(1)
    assert any(name in str(w.message) and "lost" in str(w.message) for w in told)
    assert metrics[0]["cache/substituted"] == 1 and metrics[0]["cache/quarantined"] >= 1
    assert not seen & lost
    assert seen >= samples_in(whole) - lost
    two, _, metrics = rows_of(2)
    assert torch.equal(one, two)
    assert sum(m["cache/substituted"] for m in metrics) >= 1


def after(loader, state, num, start):
    """Go on from a state that passed through JSON, as a checkpoint does."""
    loader.load_state_dict(json.loads(json.dumps(state)))
    return trace(loader, num, start)


def lost_in(state):
    return json.loads(state["cursor"])["lost"]


@pytest.mark.parametrize("corpus", ["texts", "rows"])
def test_a_run_that_lost_a_shard_is_resumed_exactly_though_it_is_mended(server, folder, corpus):
    with Loader(str(folder / corpus), **SETTINGS) as loader:
        whole = trace(loader, STEPS)
    files = shard_files(folder, corpus)
    name, samples = next((n, s) for n, s in files.items() if _first(whole, s) >= 2)
    server.plan(Flip(100), path=name, forever=True)
    settings = SETTINGS | {"on_bad_shard": "substitute", "prefetch_batches": 1}
    with Loader(f"{server.url}/{corpus}", **settings, storage_options=FAST) as loader:
        seen, states = [], []
        for step in range(STEPS):
            seen += trace(loader, 1, step)
            states.append(loader.state_dict())
        lost = loader.lost
    (reason,) = lost.values()
    assert name in reason and not samples_in(seen) & samples and samples_in(whole) & samples
    met = next(step for step, state in enumerate(states) if lost_in(state))
    assert met <= _first(whole, samples)
    for step, read_before in ((met, 0), (met, STEPS), (STEPS - 2, 0)):
        with Loader(str(folder / corpus), **settings) as loader:
            assert trace(loader, read_before) == whole[:read_before]  # the shard is good, and held
            rest = after(loader, states[step], STEPS - 1 - step, step + 1)
            assert rest == seen[step + 1 :] and loader.lost == lost
            assert loader.state_dict() == states[-1]


def test_what_one_rank_lost_is_lost_to_whoever_loads_its_state(server, folder):
    """Lengths are fixed, so only the rank that reads the shard meets it."""
    with Loader(str(folder / "rows"), **SETTINGS) as loader:
        whole = trace(loader, STEPS)
    files = shard_files(folder, "rows")
    name, samples = next((n, s) for n, s in files.items() if 0 <= _first(whole, s) < 6)
    server.plan(Flip(100), path=name, forever=True)
    settings = SETTINGS | {"on_bad_shard": "substitute", "prefetch_batches": 1}
    states, seen = [], []
    for rank in range(2):
        ranks = {"rank": rank, "world_size": 2, "storage_options": FAST}
        with Loader(f"{server.url}/rows", **settings, **ranks) as loader:
            trace(loader, 8)
            states.append(loader.state_dict())
            seen.append(trace(loader, STEPS - 8, 8))
    together = [a[0] + b[0] for a, b in zip(*seen, strict=True)]
    (state,) = [state for state in states if lost_in(state)]
    with Loader(str(folder / "rows"), **settings) as loader:
        assert [rows[0] for rows in after(loader, state, STEPS - 8, 8)] == together
    (other,) = [state for state in states if not lost_in(state)]
    with Loader(str(folder / "rows"), **settings) as loader:  # there it is mended
        assert after(loader, other, STEPS - 8, 8) == whole[8:]
    assert samples_in(whole[8:]) & samples


def test_a_state_with_lost_shards_is_not_resumed_with_them(server, folder):
    server.plan(Flip(100), path="shard.00001", forever=True)
    settings = SETTINGS | {"on_bad_shard": "substitute"}
    with Loader(f"{server.url}/texts", **settings, storage_options=FAST) as loader:
        trace(loader, STEPS)
        state = loader.state_dict()
    loader = Loader(str(folder / "texts"), **SETTINGS)
    with pytest.raises(StateError, match="after 1 shards were lost .*on_bad_shard='substitute'"):
        loader.load_state_dict(state)
    for wrong in ([[9999, "gone", None]], [[1, "gone", "AAAA"]], [1], None):
        body = json.loads(state["cursor"]) | {"lost": wrong}
        with pytest.raises(StateError, match="damaged .lost shards"):
            loader.load_state_dict(state | {"cursor": json.dumps(body)})
    assert loader.lost == {}
    loader.close()


def without(rows, samples):
    """What is left of a batch's rows in a trace without the pieces of some samples."""
    good = [i for i, sample in enumerate(rows[0]) if sample not in samples]
    return [[part[i] for i in good] for part in rows]


@pytest.mark.parametrize("corpus", ["texts", "rows"])
@pytest.mark.parametrize("packing", ["contiguous", "best_fit"])
def test_a_shard_lost_when_it_is_read_again_leaves_padding_and_moves_nothing(
    server, folder, tmp_path, corpus, packing
):
    """Its lengths are counted on, so its places stay empty, now and in a run that is resumed."""
    first, num, budget = 60, 150, 1 << (14 if corpus == "rows" else 15)
    settings = SETTINGS | {"budget_bytes": budget, "prefetch_batches": 1, "packing": packing}
    with Loader(str(folder / corpus), **settings) as loader:
        whole = trace(loader, num)
    name, samples = next(iter(shard_files(folder, corpus).items()))
    settings |= {"on_bad_shard": "substitute", "ledger": str(tmp_path / "ledger")}
    with Loader(f"{server.url}/{corpus}", **settings, storage_options=FAST) as loader:
        seen, states = trace(loader, first), []
        assert seen == whole[:first] and samples_in(seen) & samples
        server.plan(Flip(100), path=name, forever=True)
        for step in range(first, num):
            seen += trace(loader, 1, step)
            states.append(loader.state_dict())
        lost = loader.lost
    met = next(step for step in range(first, num) if lost_in(states[step - first]))
    holed = [without(rows, samples) for rows in whole]
    assert seen == whole[:met] + holed[met:] and holed[met:] != whole[met:]
    view = read_ledger(open_store(str(tmp_path / "ledger")))
    assert [(row["shard"], row["reason"]) for row in view.lost.to_pylist()] == list(lost.items())
    assert view.lost["step"].to_pylist() == [met]
    passed = view.pieces.filter(np.invert(view.pieces["kept"].to_numpy(zero_copy_only=False)))
    assert set(passed["sample_id"].to_pylist()) <= samples
    assert min(passed["step"].to_pylist()) >= met
    with Loader(str(folder / corpus), **settings) as loader:
        assert after(loader, states[met - first], 20, met + 1) == seen[met + 1 : met + 21]
        assert loader.lost == lost


def test_lengths_are_remembered_as_long_as_a_plan_counts_on_them(folder):
    """Steps 31 to 62 are planned at once, over more shards than those whose lengths are kept."""
    settings = SETTINGS | {"window_shards": 1, "num_strands": 1, "prefetch_batches": 1}
    with Loader(str(folder / "texts"), **settings) as loader:
        source, _ = loader._source, trace(loader, 32)
        for step in range(32, 60):
            trace(loader, 1, step)
            samples = loader.pieces(step).sample_id
            shards = np.searchsorted(source.corpus.first_sample, samples, side="right") - 1
            known = [source.cache.failures.measured(shard) for shard in np.unique(shards).tolist()]
            assert all(lengths is not None for lengths in known), step


def choose(loader, num, start=0):
    """Read batches of a console, crediting its probes; returns their traces and all probes."""
    seen, probed = [], []
    for step in range(start, start + num):
        seen += trace(loader, 1, step)
        refresh = loader.refresh_due()
        if refresh is not None:
            probes = loader.probes(refresh)
            probed += probes.sample_id.tolist()
            loader.credit(refresh, probes.ids, np.sin(probes.sample_id))
    return seen, probed


def test_a_console_neither_keeps_nor_probes_what_was_lost_after_it_was_offered(server, folder):
    first, num = 20, 60
    console = ConsoleConfig(refresh_steps=4, policy_lag=2)
    settings = SETTINGS | {"console": console, "agents": small_agents(), "num_probes": 24}
    settings |= {"budget_bytes": 45_000, "prefetch_batches": 1, "on_bad_shard": "substitute"}
    settings |= {"keep": 0.5, "lanes": 1}
    name, samples = next(iter(shard_files(folder, "texts").items()))
    with Loader(f"{server.url}/texts", **settings, storage_options=FAST) as loader:
        seen, probed = choose(loader, first)
        assert samples_in(seen) & samples and set(probed) & samples
        server.plan(Flip(100), path=name, forever=True)
        while not lost_in(loader.state_dict()):
            choose(loader, 1, first)
            first += 1
        state = loader.state_dict()
        seen, probed = choose(loader, num, first)
        assert not samples_in(seen) & samples and not set(probed) & samples
    with Loader(str(folder / "texts"), **settings) as loader:
        loader.load_state_dict(state)
        assert choose(loader, num, first) == (seen, probed)


def test_a_console_that_lost_a_shard_it_measured_at_first_is_resumed_though_it_is_mended(
    server, folder
):
    console = ConsoleConfig(refresh_steps=4, policy_lag=2)
    settings = SETTINGS | {"console": console, "agents": small_agents(), "num_probes": 24}
    settings |= {"on_bad_shard": "substitute", "keep": 0.1, "lanes": 1}
    with Loader(str(folder / "texts"), **settings) as loader:
        measured = loader._source.order.opened_first()[0]
    server.plan(Flip(100), path=f"shard.{measured:05}", forever=True)
    with Loader(f"{server.url}/texts", **settings, storage_options=FAST) as loader:
        assert [shard for shard, *_ in lost_in(loader.state_dict())] == [measured]
        choose(loader, 6)
        state = loader.state_dict()
        rest = choose(loader, 14, 6)
    with Loader(str(folder / "texts"), **settings) as loader:
        own = json.loads(loader.state_dict()["cursor"])["plan"]["num_candidates"]
        assert own != json.loads(state["cursor"])["plan"]["num_candidates"]
        loader.load_state_dict(state)
        assert choose(loader, 14, 6) == rest


# The endpoint as a whole ------------------------------------------------------------------------


def test_a_dead_endpoint_is_one_error_within_its_deadline(folder, undisturbed):
    options = {"timeout_s": "1", "range_timeout_s": "3", "deadline_s": "4", "attempts": "50"}
    with FaultServer(folder) as server:
        url = f"{server.url}/texts"
        loader = Loader(url, **SETTINGS, storage_options=options)
    with loader:
        began = time.monotonic()
        with pytest.raises(StorageError, match=rf"{url}/shard.*not done within \d s; last cause"):
            next(iter(loader))
        assert time.monotonic() - began < 8
    with FaultServer(folder) as server, Loader(f"{server.url}/texts", **SETTINGS) as loader:
        assert trace(loader, 2) == undisturbed[:2]


def test_an_endpoint_that_was_never_there_is_named():
    options = {"timeout_s": "1", "range_timeout_s": "2", "deadline_s": "2"}
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:9/corpus.*refused"):
        Loader("http://127.0.0.1:9/corpus", **SETTINGS, storage_options=options)


@pytest.mark.parametrize(
    ("status", "message", "other"),
    [
        (403, "forbidden", "not found"),
        (401, "not authenticated", "not found"),
        (404, "not found", "forbidden"),
    ],
)
@pytest.mark.parametrize("where", ["index.json", "shard"])
def test_refused_and_missing_are_told_apart(server, where, status, message, other):
    server.plan(Answer(status), path=where, forever=True)
    with pytest.raises((StorageError, ShardError), match=rf"{server.url}/texts") as caught:
        read(f"{server.url}/texts", 2)
    assert other not in str(caught.value)
    if where == "shard":
        assert message in str(caught.value)
    asked = [seen for seen in server.requests() if seen.fault is not None]
    assert len({seen.path for seen in asked}) * 2 >= len(asked), "what is refused is not retried"


def test_closing_does_not_wait_for_a_server_that_stalls(server):
    before = set(threading.enumerate())
    patient = {"timeout_s": "100", "range_timeout_s": "200", "deadline_s": "300"}
    loader = Loader(f"{server.url}/many", **(SETTINGS | {"storage_options": patient}))
    stream = iter(loader)
    next(stream)
    server.plan(*[Stall(100)] * 20, path="shard")
    taker = threading.Thread(target=lambda: _take_until_closed(stream))
    taker.start()
    while not any(isinstance(seen.fault, Stall) for seen in server.requests()):
        time.sleep(0.01)
    loader.close()
    taker.join(20)
    assert not taker.is_alive()
    left = {thread for thread in threading.enumerate() if thread.name.startswith("moot-")}
    assert left <= before


def _take_until_closed(stream):
    with pytest.raises((RuntimeError, StateError, StorageError)):
        for _ in stream:
            pass

# SPDX-License-Identifier: Apache-2.0
"""The mosaic order against real StreamingDatasets and StreamingDataLoaders.

All that is asked of them is asked at once (fixture `theirs`): tests/support/mosaic_oracle.py
iterates them in worlds of 1 to 4 ranks, on one node and on several. Samples hold their id, so
batches are compared id by id.
"""

import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from moot.loader.errors import ConfigError, StateError
from moot.loader.order.mosaic import MosaicOrder
from moot.loader.order.mosaic_plan import MosaicPlan, MosaicStream
from moot.loader.order.mosaic_state import MosaicState
from moot.loader.order.mosaic_swap import MosaicSwap

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("streaming") is None,
    reason="mosaicml-streaming is not installed (extra `mosaic`)",
)

ORACLE = Path(__file__).parents[1] / "support" / "mosaic_oracle.py"
SHARDS = ((13, 13, 13, 13, 8), (20, 17), (9, 11, 2, 19))  # samples of each stream's shards
SHUFFLES = (None, "naive", "py1s", "py2s", "py1br", "py1e")
METHODS = ("random", "stratified", "per_stream", "device_per_stream")
WEIGHTS = (
    {},
    {"proportion": (0.5, 0.2, 0.3)},
    {"repeat": (1.5, None, 2), "choose": (None, 33, None)},
    {"proportion": (2, 1.5, 1.5), "epoch_size": 181},
    {"epoch_size": 110},
)
SAVE_AND_RESUME = [{"batches": 3}, {"load": "last", "epochs": 2}]


def case_of(shuffle, method, weights, workers, *, runs=SAVE_AND_RESUME, drop_last=False, **more):
    """What the oracle is asked to make and read; folders of streams come later."""
    dataset = {"batch_size": 4, "batching_method": method}
    if shuffle is not None:
        dataset |= {"shuffle": True, "shuffle_algo": shuffle, "shuffle_block_size": 40}
    if method != "random":
        dataset["num_canonical_nodes"] = 2
    streams = [{} for _ in SHARDS]
    for name, values in weights.items():
        if name == "epoch_size":
            dataset[name] = values
            continue
        for stream, value in zip(streams, values, strict=True):
            stream.update({name: value} if value is not None else {})
    loader = {"num_workers": workers, "drop_last": drop_last}
    return {"streams": streams, "dataset": dataset | more, "loader": loader, "runs": runs}


def matrix(every, batch_size):
    """Every method with every shuffle; weights, sampling and workers take turns beside them."""
    cases = {}
    for number, (shuffle, method) in enumerate(itertools.product(SHUFFLES, METHODS)):
        if number % every != batch_size % every:
            continue
        workers = (0, 2, 0, 3, 0, 0, 1)[number % 7]
        cases[f"{shuffle}-{method}-{workers}workers"] = case_of(
            shuffle,
            method,
            WEIGHTS[number % len(WEIGHTS)],
            workers,
            batch_size=batch_size,
            sampling_method=("balanced", "fixed")[number // 2 % 2],
            sampling_granularity=(1, 7)[number // 3 % 2],
        )
    return cases


def state(epoch, sample_in_epoch, **more):
    fields = {"num_canonical_nodes": 2, "shuffle_seed": 9176, "initial_physical_nodes": 1, **more}
    return {"epoch": epoch, "sample_in_epoch": sample_in_epoch, **fields}


def from_state(method, loaded, workers=0, **more):
    runs = [{"load": loaded, "epochs": 2, "start": True}]
    return case_of("py1e", method, {}, workers, runs=runs, **more)


HAND = {
    "batch_size": 3, "shuffle": True, "shuffle_algo": "py1br", "shuffle_block_size": 40,
    "shuffle_seed": 5, "num_canonical_nodes": 2,
}  # fmt: skip
ONE = {
    **matrix(1, batch_size=4),
    "orig partitions": case_of("py1e", "random", {}, 3, partition_algo="orig", batch_size=5),
    "short batches dropped": case_of("py1s", "random", {}, 3, drop_last=True, batch_size=7),
    "default block size": case_of("py1e", "random", {}, 0, shuffle_block_size=None),
    "another seed": from_state("random", state(1, 24, shuffle_seed=7), 2, shuffle_seed=6),
    "other canonical nodes": from_state("random", state(0, 24, num_canonical_nodes=6)),
    "not started": from_state("random", state(-1, 0, num_canonical_nodes=6), 2),
    "end of epoch": from_state("random", state(0, 138)),
    "old state": from_state("random", {k: v for k, v in state(0, 20).items() if "init" not in k}),
    "inside a batch": from_state("random", state(0, 13)),
    "inside a stratified batch": from_state("stratified", state(0, 13)),
    "inside a batch of a stream": from_state("per_stream", state(0, 13)),
    "inside a device batch of a stream": from_state("device_per_stream", state(0, 13)),
}
TWO = {
    **matrix(4, batch_size=3),
    "replicated": case_of("py1e", "random", {}, 0, replication=2),
}
FOUR = {
    **matrix(7, batch_size=2),
    "replicated": case_of("py1e", "random", {}, 2, replication=2),
    "replicated, stratified": case_of("py1s", "stratified", {}, 0, replication=2),
}
NODES = {
    **matrix(7, batch_size=5),
    "more nodes than canonical": case_of("py1e", "random", {}, 0, num_canonical_nodes=1),
    "default canonical nodes": case_of("py2s", "random", {}, 0),
    "replicated": case_of("py1br", "random", {}, 2, replication=2),
    "replicated over nodes": case_of("py1br", "random", {}, 0, replication=4),
    "odd sample": from_state("random", state(0, 13)),
    "a swap": from_state("random", state(1, 40, initial_physical_nodes=2)),
}
# What we save after four batches on two nodes, for a global batch of six samples.
OURS_ON_TWO_NODES = state(0, 24, shuffle_seed=5, initial_physical_nodes=2)
THREE_NODES = {
    "a state of ours from two nodes": {
        "streams": [{} for _ in SHARDS],
        "dataset": {**HAND, "batch_size": 2},
        "loader": {"num_workers": 2, "drop_last": False},
        "runs": [{"load": OURS_ON_TWO_NODES, "epochs": 2, "start": True}],
    }
}
WORLDS = {
    "1": (1, 1, ONE),
    "2": (2, 2, TWO),
    "4": (4, 4, FOUR),
    "2x2": (4, 2, NODES),
    "3x1": (3, 1, THREE_NODES),
}
ASKED = [(world, case) for world, (_, _, cases) in WORLDS.items() for case in cases]


def write_corpora(streaming, root):
    """Write streams whose shards hold as many samples as SHARDS says, each with its id."""
    ids = itertools.count()
    for stream, sizes in enumerate(SHARDS):
        for number, size in enumerate(sizes):
            out = str(root / f"{stream}" / f"{number}")
            with streaming.MDSWriter(out=out, columns={"id": "int"}) as writer:
                write_ids(writer, itertools.islice(ids, size))
        streaming.base.util.merge_index(str(root / f"{stream}"), keep_local=True)


def write_ids(writer, ids):
    for i in ids:
        writer.write({"id": i})


def hand_plan(**more):
    """A plan over the tests' streams, written without a dataset."""
    streams = tuple(MosaicStream(samples_per_shard=sizes) for sizes in SHARDS)
    return MosaicPlan(streams=streams, **{**HAND, **more})


def ask(jobs, folder):
    """Run the oracle; return its answers and the names of shared memory that it left behind."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(ORACLE), str(folder / "jobs.json"), str(folder / "out.json")]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as oracle:  # fmt: skip
        try:
            output, _ = oracle.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(oracle.pid, signal.SIGKILL)
            raise
    assert oracle.returncode == 0, output[-4000:]
    numbers = [re.match(r"(\d+)_", name) for name in os.listdir("/dev/shm")]
    left = [n.string for n in numbers if n and int(n.group(1)) // 100_000 == oracle.pid]
    return json.loads((folder / "out.json").read_text()), left


@pytest.fixture(scope="module")
def theirs(streaming, tmp_path_factory):
    """What real loaders yield: world -> case -> rank -> run, and what they left behind."""
    folder = tmp_path_factory.mktemp("mosaic")
    write_corpora(streaming, folder)
    jobs = []
    for ranks, ranks_per_node, cases in WORLDS.values():
        for case in cases.values():
            for number, stream in enumerate(case["streams"]):
                stream["local"] = str(folder / f"{number}")
        jobs.append({"ranks": ranks, "ranks_per_node": ranks_per_node, "cases": [*cases.values()]})
    answers, left = ask(jobs, folder)
    by_case = {}
    for (world, (_, _, cases)), of_ranks in zip(WORLDS.items(), answers, strict=True):
        by_case[world] = dict(zip(cases, zip(*of_ranks, strict=True), strict=True))
    return by_case, left


def order_of(plan, rank, world, case):
    ranks, ranks_per_node, _ = WORLDS[world]
    return MosaicOrder(
        plan, rank, ranks, ranks_per_node, case["loader"]["num_workers"],
        drop_last=case["loader"]["drop_last"],
    )  # fmt: skip


def listed(batches):
    return [batch[batch != -1].tolist() for batch in batches]


def check_run(order, epoch, sample, run, leader, count):
    """Compare the epochs of one run, and the state after the last."""
    for batches, of_leader in zip(run["epochs"], leader["epochs"], strict=True):
        assert listed(order.batches(epoch, sample)[:count]) == batches
        after = order.state_after(epoch, sample, len(of_leader)).to_dict()
        epoch, sample = epoch + 1, 0
    assert after == leader["state"]


@pytest.mark.parametrize(("world", "name"), ASKED, ids=[f"{w}: {c}" for w, c in ASKED])
def test_ids_and_states_are_theirs(theirs, world, name):
    case = WORLDS[world][2][name]
    of_ranks = theirs[0][world][name]
    for rank, runs in enumerate(of_ranks):
        last = None
        for asked, run, leader in zip(case["runs"], runs, of_ranks[0], strict=True):
            plan, epoch, sample = MosaicPlan.from_dict(run["plan"]), 0, 0
            loaded = last if asked.get("load") == "last" else asked.get("load")
            if loaded is not None:
                plan, epoch, sample = plan.resume(MosaicState.from_dict(loaded))
            order = order_of(plan, rank, world, case)
            check_run(order, epoch, sample, run, leader, asked.get("batches"))
            if run["start"] is not None:
                assert run["start"] == order.state_after(epoch, sample, 0).to_dict()
            last = leader["state"]


def test_a_plan_written_by_hand_saves_the_state_that_they_continue(streaming):
    saved = MosaicOrder(hand_plan(), 0, 2, 1).state_after(0, 0, 4)
    assert saved.to_dict() == OURS_ON_TWO_NODES  # "3x1" above reads on from it


def test_they_leave_nothing_behind(theirs):
    assert theirs[1] == []


def test_a_plan_from_a_dataset_equals_the_one_written_by_hand(theirs):
    (run, _), *_ = theirs[0]["1"]["orig partitions"]
    plan = MosaicPlan.from_dict(run["plan"])
    block = {"shuffle_block_size": 40, "partition_algo": "orig", "batch_size": 5}
    by_hand = hand_plan(**block, shuffle_algo="py1e", shuffle_seed=9176, num_canonical_nodes=None)
    assert replace(plan, streams=by_hand.streams) == by_hand
    for ours, theirs_ in zip(by_hand.streams, plan.streams, strict=True):
        assert ours.samples_per_shard == theirs_.samples_per_shard
        assert (ours.chosen, ours.proportion) == (theirs_.chosen, theirs_.proportion)


@pytest.mark.parametrize("method", METHODS)
def test_global_batches_hold_every_ranks_batches(streaming, method):
    plan = hand_plan(batching_method=method)
    together = MosaicOrder(plan, 0, 4, 2, 3).global_batches(1, 24)
    assert together.shape[1:] == (4, 3)
    for rank in range(4):
        mine = MosaicOrder(plan, rank, 4, 2, 3).batches(1, 24)
        assert listed(mine) == [ids for ids in listed(together[:, rank]) if ids]


def test_global_batches_count_replicas_once(streaming):
    plan = hand_plan(replication=2)
    together = MosaicOrder(plan, 3, 4, 4).global_batches(0)
    assert together.shape[1] == 2
    assert np.array_equal(together[:, 1], MosaicOrder(plan, 3, 4, 4).batches(0))
    assert np.array_equal(together[:, 1], MosaicOrder(plan, 2, 4, 4).batches(0))


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_workers_changes_nothing(streaming, method):
    for sample in (0, 24):
        one, three = (
            MosaicOrder(hand_plan(batching_method=method), 1, 4, 2, workers).batches(0, sample)
            for workers in (1, 3)
        )
        assert np.array_equal(one, three)


def test_ids_lead_to_shards_and_rows(streaming):
    order = MosaicOrder(hand_plan(), 0, 1)
    shards, rows = order.locate(np.array([0, 12, 13, 59, 60, 137]))
    assert shards.tolist() == [0, 0, 1, 4, 5, 10]
    assert rows.tolist() == [0, 12, 0, 7, 0, 18]


def test_reading_in_pieces_is_reading_at_once(streaming):
    order = MosaicOrder(hand_plan(), 1, 2)
    whole = listed(order.batches(0))
    for count in range(len(whole)):
        saved = order.state_after(0, 0, count)
        plan, epoch, sample = hand_plan().resume(saved)
        rest = listed(MosaicOrder(plan, 1, 2).batches(epoch, sample))
        assert rest == whole[count:]
    done = order.state_after(0, 0, len(whole))
    assert order.batches(0, done.sample_in_epoch).shape == (0, 3)


def test_batches_are_not_to_be_written_to(streaming):
    with pytest.raises(ValueError, match="read-only"):
        MosaicOrder(hand_plan(), 0, 1).batches(0)[0, 0] = 7


def test_plans_and_states_pass_through_json():
    plan = hand_plan(replication=2, initial_physical_nodes=3)
    assert MosaicPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    saved = MosaicState.from_dict(state(3, 72))
    assert MosaicState.from_dict(json.loads(json.dumps(saved.to_dict()))) == saved


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (b"\x80\x04pickle", "pickled states are not read"),
        ([1, 2], "is a dict, not list"),
        ({"epoch": 0}, "lacks .*num_canonical_nodes"),
        ({**state(0, 0), "worker": 1}, "unknown .'worker'"),
        (state(0.0, 0), "epoch is 0.0"),
        (state(0, "12"), "sample_in_epoch is '12'"),
        (state(0, -1), "sample_in_epoch is -1"),
        (state(True, 0), "epoch is True"),
        (state(0, 0, num_canonical_nodes=None), "num_canonical_nodes is None"),
    ],
)
def test_states_of_another_kind_are_refused(loaded, message):
    with pytest.raises(StateError, match=message):
        MosaicState.from_dict(loaded)


def test_a_state_older_than_the_stream_is_refused():
    plan = hand_plan()
    assert plan.resume(MosaicState.from_dict(state(2, 6)), next_epoch=2)[1:] == (2, 6)
    with pytest.raises(StateError, match="epoch 1, this stream has begun epoch 1"):
        plan.resume(MosaicState.from_dict(state(1, 6)), next_epoch=2)
    with pytest.raises(StateError, match="epoch -1"):
        plan.resume(MosaicState.from_dict(state(-1, 0)), next_epoch=1)


def test_a_state_past_the_end_is_refused(streaming):
    with pytest.raises(StateError, match="further into the dataset .* at the next epoch"):
        MosaicOrder(hand_plan(), 0, 1).batches(0, 1000)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"shuffle_seed": -1}, "shuffle_seed"),
        ({"num_canonical_nodes": -2}, "num_canonical_nodes"),
        ({"replication": 0}, "replication"),
        ({"shuffle": 1}, "shuffle must be True or False"),
        ({"sampling_method": "none"}, "'balanced' or 'fixed'"),
        ({"streams": ()}, "at least one stream"),
        ({"streams": (MosaicStream(samples_per_shard=(3,), choose=0),)}, "draw no sample"),
    ],
)
def test_plans_that_no_dataset_has_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        replace(hand_plan(), **wrong)


def test_plans_name_what_they_do_not_know():
    body = hand_plan().to_dict()
    with pytest.raises(ConfigError, match="MosaicPlan has no shuffle_algorithm"):
        MosaicPlan.from_dict({**body, "shuffle_algorithm": "py1e"})
    with pytest.raises(ConfigError, match="MosaicStream has no repeat"):
        MosaicPlan.from_dict({**body, "streams": [{"samples_per_shard": [1], "repeat": 2}]})
    with pytest.raises(ConfigError, match="needs `samples_per_shard`"):
        MosaicPlan.from_dict({**body, "streams": [{"choose": 3}]})
    with pytest.raises(ConfigError, match="proportion must be"):
        MosaicStream(samples_per_shard=(3,), proportion=-0.5)
    with pytest.raises(ConfigError, match="needs `streams`"):
        MosaicPlan.from_dict({"batch_size": 3})
    with pytest.raises(ConfigError, match="holds no samples"):
        MosaicStream(samples_per_shard=())
    mixed = [{"samples_per_shard": [1]}, {"samples_per_shard": [1], "proportion": 1.0}]
    with pytest.raises(ConfigError, match="stream 0 has no proportion"):
        MosaicPlan.from_dict({**body, "streams": mixed})


@pytest.mark.parametrize(
    ("wrong", "world", "message"),
    [
        ({"shuffle_algo": "py1b"}, (0, 1), "py1b.*py1br.*py1e"),
        ({"batching_method": "sorted"}, (0, 1), "device_per_stream"),
        ({"partition_algo": "new"}, (0, 1), "relaxed"),
        ({}, (2, 2), "rank 2 of 2"),
        ({}, (0, 4, 3), "with 3 a node"),
        ({}, (0, 1, 1, -1), "-1 workers"),
        ({"replication": 2}, (0, 3), "replicated by 2"),
    ],
)
def test_worlds_that_do_not_fit_are_refused(streaming, wrong, world, message):
    with pytest.raises(ConfigError, match=message):
        MosaicOrder(hand_plan(**wrong), *world)


def test_their_refusal_names_the_plan(streaming):
    order = MosaicOrder(hand_plan(batching_method="stratified", batch_size=1), 0, 1)
    with pytest.raises(ConfigError, match="refuses stratified batching on 1 ranks.*too low"):
        order.batches(0)
    with pytest.raises(ValueError, match="must not be negative"):
        order.batches(-1)


def test_datasets_with_an_order_of_their_own_are_refused(streaming):
    class Sorted(streaming.StreamingDataset):
        def resample_streams(self, epoch, stream_id=None):
            raise NotImplementedError

    class Cooked(streaming.StreamingDataset):
        def __getitem__(self, at):
            raise NotImplementedError

    with pytest.raises(ConfigError, match="Sorted overrides resample_streams"):
        MosaicPlan.from_dataset(Sorted.__new__(Sorted))
    with pytest.raises(ConfigError, match="needed, not list"):
        MosaicPlan.from_dataset([])
    unsized = Cooked.__new__(Cooked)  # transforms samples only: its order is the usual one
    unsized.batch_size = None
    with pytest.raises(ConfigError, match="batch_size is None"):
        MosaicPlan.from_dataset(unsized)


def test_a_swap_takes_all_that_a_loader_needs(theirs):
    runs = theirs[0]["2x2"]["a swap"]
    for rank, (run,) in enumerate(runs):
        swap = run["swap"]
        assert (swap["rank"], swap["world_size"], swap["local_world_size"]) == (rank, 4, 2)
        assert [Path(url).name for url in swap["urls"]] == ["0", "1", "2"]
        assert swap["plan"] == run["plan"]
        assert swap["state"] == run["start"] == state(1, 40, initial_physical_nodes=2)


def test_a_class_that_changes_samples_is_swapped_only_if_asked_to(streaming):
    class Cooked(streaming.StreamingDataset):
        def __getitem__(self, at):
            raise NotImplementedError

    with pytest.raises(ConfigError, match="Cooked changes samples in __getitem__.*as_stored=True"):
        MosaicSwap.from_dataset(Cooked.__new__(Cooked))


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "streaming", None)
    with pytest.raises(ConfigError, match=r"pip install 'moot\[mosaic\]'"):
        MosaicOrder(hand_plan(), 0, 1)

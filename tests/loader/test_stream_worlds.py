# SPDX-License-Identifier: Apache-2.0
"""The same global batches at every world size, with replicas, and from a mesh as well."""

import json

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from corpora import random_lengths, tokens_of, write_corpus
from moot.loader import ConfigError, Loader
from moot.loader.corpus import Stream
from moot.loader.shards import MDSWriter
from moot.loader.storage import open_store
from servers import FaultServer

PACKINGS = ["contiguous", "first_fit", "best_fit", "pad"]
SETTINGS = {"batch_rows": 8, "seq_len": 64, "num_slots": 4, "seed": 3, "window_shards": 4}
FIELDS = ("tokens", "input_ids", "labels", "position_ids")
STEPS = 12
CHANGE = 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    write_corpus(root / "a", random_lengths(150), size_limit=1 << 12)
    write_corpus(root / "b", random_lengths(90, 1), size_limit=1 << 12)
    store = open_store(str(root / "rows"))
    with MDSWriter(store, {"tokens": "ndarray:uint16:64"}, size_limit=1 << 11) as writer:
        for i in range(400):
            writer.write({"tokens": tokens_of(i, 0, 64).astype(np.uint16)})
    return root


def corpus_of(folder, is_mixed):
    a, b = str(folder / "a"), str(folder / "b")
    return [Stream(a, proportion=2), Stream(b, proportion=1)] if is_mixed else a


class World:
    """The loaders of all ranks, read side by side."""

    def __init__(self, url, world_size, **changes):
        settings = SETTINGS | {"fields": FIELDS} | changes
        ranks = range(world_size)
        self.loaders = [Loader(url, **settings, rank=r, world_size=world_size) for r in ranks]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for loader in self.loaders:
            loader.close()

    def read(self, num):
        """Global batches: the ranks' rows one below the other."""
        streams = [iter(loader) for loader in self.loaders]
        steps = [[next(stream) for stream in streams] for _ in range(num)]
        return [{f: torch.cat([part[f] for part in step]) for f in FIELDS} for step in steps]

    def load(self, state):
        for loader in self.loaders:
            loader.load_state_dict(json.loads(json.dumps(state)))

    @property
    def state(self):
        """The state, which is equal on all ranks."""
        states = [loader.state_dict() for loader in self.loaders]
        assert all(state == states[0] for state in states)
        return states[0]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for name in FIELDS:
            assert torch.equal(one[name], other[name])


@pytest.mark.parametrize("is_mixed", [False, True], ids=["one stream", "mixture"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_worlds_of_1_2_and_4_see_the_same_global_batches(folder, packing, is_mixed):
    url = corpus_of(folder, is_mixed)
    with World(url, 1, packing=packing) as world:
        whole, state = world.read(STEPS), world.state
    for world_size in (2, 4):
        with World(url, world_size, packing=packing) as world:
            assert_equal(world.read(STEPS), whole)
            assert world.state == state


@pytest.mark.parametrize("is_mixed", [False, True], ids=["one stream", "mixture"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_state_of_two_ranks_goes_on_with_four_and_with_one(folder, packing, is_mixed):
    url = corpus_of(folder, is_mixed)
    with World(url, 1, packing=packing) as world:
        whole = world.read(STEPS)
    with World(url, 2, packing=packing) as world:
        assert_equal(world.read(5), whole[:5])
        state = world.state
    for world_size in (4, 1):
        with World(url, world_size, packing=packing) as world:
            world.load(state)
            assert_equal(world.read(3), whole[5:8])
            between = world.state
    with World(url, 2, packing=packing) as world:
        world.load(between)
        assert_equal(world.read(STEPS - 8), whole[8:])


def test_a_change_of_the_mixture_falls_on_the_same_step_everywhere(folder):
    url = corpus_of(folder, True)
    with World(url, 1) as world:
        world.loaders[0].set_mixture([1, 9], step=CHANGE)
        whole = world.read(CHANGE + 8)
        kept = world.state
    with World(url, 2) as world:
        for loader in world.loaders:
            loader.set_mixture([1, 9], step=CHANGE)
        assert_equal(world.read(CHANGE - 3), whole[: CHANGE - 3])
        state = world.state
    with World(url, 4) as world:
        world.load(state)
        assert_equal(world.read(11), whole[CHANGE - 3 :])
        assert world.state == kept
    with World(url, 1) as world:
        unchanged = world.read(CHANGE + 8)
    assert_equal(unchanged[:CHANGE], whole[:CHANGE])
    assert any(
        not torch.equal(a["input_ids"], b["input_ids"])
        for a, b in zip(unchanged[CHANGE:], whole[CHANGE:], strict=True)
    )


@pytest.mark.parametrize("packing", PACKINGS)
def test_replicas_next_to_each_other_get_the_same_batch(folder, packing):
    url = corpus_of(folder, False)
    with World(url, 2, packing=packing) as world:
        alone = [list(map(next, map(iter, world.loaders))) for _ in range(4)]
    with World(url, 4, packing=packing, replication=2) as world:
        pairs = [list(map(next, map(iter, world.loaders))) for _ in range(4)]
        assert world.loaders[0].batch_size == 4
    for step, ranks in zip(alone, pairs, strict=True):
        for rank, batch in enumerate(ranks):
            for name in FIELDS:
                assert torch.equal(batch[name], step[rank // 2][name])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_rank_asks_for_the_shards_of_its_strands_alone(folder, world_size):
    """Where lengths are fixed, nothing else has to be known of other ranks' documents."""
    asked = []
    for rank in range(world_size):
        with FaultServer(folder) as server:
            ranks = {"rank": rank, "world_size": world_size}
            with Loader(f"{server.url}/rows", **SETTINGS, **ranks, epoch_batches=60) as loader:
                assert len(list(loader)) == 60  # to read all of the corpus takes 50
            asked.append({seen.path for seen in server.requests() if "shard." in seen.path})
    num_shards = len(list((folder / "rows").glob("shard.*")))
    assert set().union(*asked) == {f"/rows/{p.name}" for p in (folder / "rows").glob("shard.*")}
    shared = sum(map(len, asked)) - num_shards
    # A quarter each of one shard, two that pairs share, and the last ones, cut to fit.
    assert shared <= {1: 0, 2: 4, 4: 8}[world_size]
    assert num_shards >= 10


# A mesh of processes --------------------------------------------------------------------------


def _in_mesh(rank, url, shape, names, path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    store = dist.FileStore(f"{path}/rendezvous", 4)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=4)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    with Loader(url, **SETTINGS, mesh=mesh) as loader:
        stream = iter(loader)
        batches = [next(stream)["input_ids"] for _ in range(3)]
        torch.save((loader.config.ranks, batches, loader.state_dict()), f"{path}/{rank}.pt")
    dist.destroy_process_group()


MESHES = [
    ((2, 2), ("dp_shard", "tp"), [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ((2, 2), ("dp_replicate", "dp_shard"), [(0, 4), (1, 4), (2, 4), (3, 4)]),
]


@pytest.mark.parametrize(("shape", "names", "ranks"), MESHES, ids=["dp tp", "hsdp"])
def test_a_mesh_says_which_rows_a_process_gets(folder, tmp_path, shape, names, ranks):
    url = corpus_of(folder, False)
    arguments = (url, shape, names, str(tmp_path))
    multiprocessing.start_processes(_in_mesh, arguments, nprocs=4, start_method="fork")
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(4)]
    assert [one[0] for one in found] == ranks
    assert all(one[2] == found[0][2] for one in found)
    with World(url, 1) as world:
        whole = [batch["input_ids"] for batch in world.read(3)]
    for (rank, world_size), batches, _ in found:
        rows = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
        for batch, both in zip(batches, whole, strict=True):
            assert torch.equal(batch, both[rows])


def test_a_mesh_without_a_data_dimension_is_refused(folder):
    class Mesh:
        mesh_dim_names = ("tp",)

    with pytest.raises(ConfigError, match="none of mesh_dims"):
        Loader(corpus_of(folder, False), **SETTINGS, mesh=Mesh())

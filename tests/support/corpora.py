"""Small corpora whose tokens name their sample: token j of sample i is (131 i + j) mod 8000 + 1."""

import numpy as np
import torch
from moot.loader import AgentInfo, AgentSet
from moot.loader.shards import MDSWriter
from moot.loader.storage import open_store
from moot.triton_kernels import NgramModel

NUM_DOMAINS = 3


def tokens_of(sample_id, start, stop):
    return (131 * sample_id + np.arange(start, stop)) % 8000 + 1


def write_corpus(path, lengths, size_limit=1 << 14, compression="zstd:3"):
    columns = {"tokens": "ndarray:uint16", "domain": "uint8", "id": "str"}
    store = open_store(str(path))
    with MDSWriter(store, columns, compression=compression, size_limit=size_limit) as writer:
        for i, length in enumerate(lengths):
            tokens = tokens_of(i, 0, length).astype(np.uint16)
            writer.write({"tokens": tokens, "domain": np.uint8(i % NUM_DOMAINS), "id": f"doc{i}"})
    return str(path)


def random_lengths(num, seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(rng.lognormal(4.5, 1.2, num).astype(int), 1, 3000)


def small_agents(seed=0):
    """A quality agent (binned), a domain agent (stored) and a topic agent (argmax)."""
    rng = np.random.default_rng(seed)
    num_topics = 4
    heads = 1 + num_topics
    model = NgramModel(
        table=torch.from_numpy(rng.integers(-127, 128, (256, 16)).astype(np.int8)),
        heads=torch.from_numpy(rng.integers(-3000, 3000, (heads, 16)).astype(np.int16)),
        bias=torch.zeros(heads, dtype=torch.int32),
        scale=torch.full((heads,), 1e-5),
        orders=(1, 2),
    )
    agents = (
        AgentInfo("quality", 5, tuple("01234"), "binned", None, 0, (-0.4, -0.1, 0.1, 0.4)),
        AgentInfo("domain", NUM_DOMAINS, tuple("abc"), "stored", "domain", 0, ()),
        AgentInfo("topic", num_topics, tuple("wxyz"), "argmax", None, 1, ()),
    )
    states = np.stack(np.meshgrid(range(5), range(3), range(4), indexing="ij"), -1).reshape(-1, 3)
    share = np.full(len(states), 1 / len(states))
    return AgentSet(agents, model, states.astype(np.int32), share)

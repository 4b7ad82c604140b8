# SPDX-License-Identifier: Apache-2.0
"""Accept before download: the wanted documents alone, each once an epoch, wherever they lie."""

import warnings

import numpy as np
import pytest
from corpora import random_lengths, small_agents, tokens_of, write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader import ConfigError, ConsoleConfig, Loader, ShardError, StateError
from moot.loader._core import POSITION_BITS
from moot.loader.corpus import LabelPlan, Stream, Wanted, Where, open_corpus, write_labels
from moot.loader.order import WantedOrder
from moot.loader.prefetch import footprint
from moot.loader.shards import Ask, MDSWriter, ranges, read_shard
from moot.loader.shards.tokenise import Tokeniser
from moot.loader.storage import ForbiddenError, open_store
from servers import Answer, FaultServer
from shard_formats import FORMATS, documents, make_tokenizer

NUM, TOKENS, ROWS, SLOTS = 192, 32, 8, 4
SETTINGS = {"batch_rows": ROWS, "seq_len": TOKENS, "num_slots": SLOTS, "packing": "pad", "seed": 3}


def write(url, samples, columns, **settings):
    store = open_store(str(url))
    with MDSWriter(store, columns, **settings) as writer:
        for sample in samples:
            writer.write(sample)
    store.close()
    return str(url)


def label(url, plan):
    corpus = open_corpus(str(url))
    write_labels(corpus, plan)
    corpus.close()


@pytest.fixture(scope="module", params=["cells", "no cells"])
def corpus_url(request, tmp_path_factory):
    """Rows of equal length in a dozen shards; the label of a sample is its id."""
    url = tmp_path_factory.mktemp("where")
    samples = [
        {"tokens": tokens_of(i, 0, TOKENS).astype(np.uint16), "ordinal": np.uint16(i)}
        for i in range(NUM)
    ]
    columns = {"tokens": "ndarray:uint16", "ordinal": "uint16"}
    write(url, samples, columns, compression=None, size_limit=1500)
    label(url, LabelPlan(columns=("ordinal",), cells=None if request.param == "cells" else ()))
    return str(url)


def wanted_ids(num_most):
    """Clustered, in one shard, or scattered."""
    clustered = st.tuples(st.integers(0, NUM - 16), st.integers(8, num_most)).map(
        lambda two: list(range(two[0], min(sum(two), NUM)))
    )
    last_third = st.just(list(range(2 * NUM // 3, NUM)))
    scattered = st.sets(st.integers(0, NUM - 1), min_size=8, max_size=num_most).map(sorted)
    one_shard = st.integers(0, 10).map(lambda shard: list(range(16 * shard, 16 * shard + 8)))
    return st.one_of(clustered, last_third, scattered, one_shard)


def read(loader, num):
    stream = iter(loader)
    return [next(stream)["input_ids"].numpy() for _ in range(num)]


def ids_of(url, world_size, steps, **changes):
    """The ids of the documents of global batches, [steps, rows]."""
    found = np.full((steps, ROWS), -1)
    for rank in range(world_size):
        ranks = {"rank": rank, "world_size": world_size}
        with Loader(url, **SETTINGS, **ranks, **changes) as loader:
            share = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
            read(loader, steps)
            for step in range(steps):
                found[step, share] = loader.pieces(step).sample_id
    return found


@settings(max_examples=8)
@given(st.data())
def test_an_epoch_delivers_the_wanted_once_at_every_world_size(corpus_url, data):
    ids = data.draw(wanted_ids(64))
    ids = ids[: len(ids) // ROWS * ROWS]  # else strands do not end at the same step
    where, steps = f"ordinal in {ids}", len(ids) // ROWS
    whole = ids_of(corpus_url, 1, steps, where=where)
    assert sorted(whole.flatten().tolist()) == ids
    for world_size in (2, 4):
        assert np.array_equal(ids_of(corpus_url, world_size, steps, where=where), whole)


@given(st.data(), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.booleans(), st.integers(0, 9))
def test_every_strand_holds_its_share_of_the_wanted(
    corpus_url, data, num_strands, ways, shuffle, seed
):
    ids = data.draw(wanted_ids(NUM))
    corpus = open_corpus(corpus_url)
    wanted = Wanted(corpus, Where.parse(f"ordinal in {ids}"), kept_shards=2)
    order = WantedOrder(
        [wanted.samples_per_shard],
        wanted.locate,
        seed=seed,
        num_strands=num_strands,
        ways=ways,
        shuffle=shuffle,
    )
    for epoch in (0, 1):
        found = []
        for strand in range(num_strands):
            size = order.num_samples(strand, 0)
            assert size in (len(ids) // num_strands, -(-len(ids) // num_strands))
            keys = (strand << POSITION_BITS) | np.arange(epoch * size, (epoch + 1) * size)
            shards, rows = order.locate(keys)
            found += (corpus.first_sample[shards] + rows).tolist()
        assert sorted(found) == ids
    corpus.close()


def test_without_shuffling_the_wanted_come_as_they_are_stored(corpus_url):
    ids = [3, 17, 18, 19, 77, 120, 121, 191]
    one = {"shuffle": False, "num_strands": 1, "where": f"ordinal in {ids}"}
    assert sorted(ids_of(corpus_url, 1, 1, **one)[0].tolist()) == ids
    one["batch_rows"] = one["num_slots"] = 1
    with Loader(corpus_url, **(SETTINGS | one)) as loader:
        read(loader, 8)
        assert [loader.pieces(step).sample_id[0] for step in range(8)] == ids


def test_what_nothing_or_too_little_fulfils_is_refused_at_once(corpus_url):
    with pytest.raises(ConfigError, match="no sample of .* is wanted by where 'ordinal == 999'"):
        Loader(corpus_url, **SETTINGS, where="ordinal == 999")
    with pytest.raises(ConfigError, match="3 samples are wanted, for 4 strands"):
        Loader(corpus_url, **SETTINGS, where="ordinal < 3", num_strands=4)
    with pytest.raises(ConfigError, match="no column 'topic'"):
        Loader(corpus_url, **SETTINGS, where="topic == 1")
    assert (ids_of(corpus_url, 1, 3, where="ordinal < 3") < 3).all()


def test_a_mixture_counts_the_wanted(tmp_path):
    """Without weights an epoch holds each wanted sample of each stream once."""
    columns = {"tokens": "ndarray:uint16", "good": "uint8"}
    for name, share in (("a", 8), ("b", 2)):
        samples = [
            {"tokens": np.full(TOKENS, 7, np.uint16), "good": np.uint8(i % share == 0)}
            for i in range(64)
        ]
        label(
            write(tmp_path / name, samples, columns, size_limit=1500), LabelPlan(columns=("good",))
        )
    streams = [Stream(str(tmp_path / name)) for name in "ab"]
    ids = ids_of(streams, 1, 5, where="good == 1", num_strands=1)
    assert sorted(ids.flatten().tolist()) == [*range(0, 64, 8), *range(64, 128, 2)]


def test_a_console_chooses_among_the_wanted_and_probes_them_alone(tmp_path):
    """Those wanted lie together, far from the shards that tell the mean length of a piece."""
    lengths = random_lengths(240)
    write_corpus(tmp_path / "c", lengths, size_limit=4096)
    wanted = range(100, 140)

    def mark(shard):
        ids = [int(name[3:]) for name in shard.values("id", range(shard.num_samples))]
        return {"good": np.isin(ids, wanted)}

    label(tmp_path / "c", LabelPlan(label=mark))
    chosen = {"console": ConsoleConfig(), "agents": small_agents(), "num_probes": 16, "seed": 3}
    shape = {"batch_rows": 4, "seq_len": 64, "num_slots": 2}
    with Loader(tmp_path / "c", **shape, **chosen, where="good == 1") as loader:
        read(loader, 4)
        ids = [i for step in range(4) for i in loader.pieces(step).sample_id.tolist()]
        probes = loader.probes(0)
        whole = lengths[100:140]
        mean = whole.sum() / np.ceil(whole / 64).sum()
        assert loader._source.mean_piece_tokens(64) == pytest.approx(mean, rel=0.2)
    assert set(ids) <= set(wanted) and set(probes.sample_id.tolist()) <= set(wanted)
    assert len(probes.ids) == 16


def test_labels_that_want_others_now_do_not_continue_a_state(tmp_path):
    columns = {"tokens": "ndarray:uint16"}
    samples = [{"tokens": tokens_of(i, 0, TOKENS).astype(np.uint16)} for i in range(64)]
    url = write(tmp_path, samples, columns, size_limit=1500)

    def relabel(value):
        def mark(shard):
            return {"good": np.full(shard.num_samples, value + (shard.info.shard_id == 1))}

        label(url, LabelPlan(label=mark))

    relabel(0)
    with Loader(url, **SETTINGS, where="good == 1") as loader:
        next(iter(loader))
        state = loader.state_dict()
    relabel(1)
    with (
        Loader(url, **SETTINGS, where="good == 1") as loader,
        pytest.raises(StateError, match="wanted was"),
    ):
        loader.load_state_dict(state)


def test_what_is_stored_of_a_shard_takes_two_requests(corpus_url):
    """Labels and lengths, then sizes and hashes; the others are found beside them."""
    corpus = open_corpus(corpus_url)
    num_shards, counts_first = len(corpus.shards), corpus.cell_counts(0) is None
    corpus.close()
    even = [*range(0, NUM, 2)]
    with FaultServer(corpus_url) as server:
        ids = ids_of(server.url, 1, len(even) // ROWS, where=f"ordinal in {even}")
        asked = [seen for seen in server.requests() if "labels.parquet" in seen.path]
    assert sorted(ids.flatten().tolist()) == even
    assert len(asked) <= 2 + (2 + counts_first) * num_shards


# Memory ------------------------------------------------------------------------------------------


BIG = 1 << 18


@pytest.fixture(scope="module")
def big_url(tmp_path_factory):
    """Eight shards of 4 MiB; a sample in each is wanted."""
    tokens = [tokens_of(i, 0, BIG if i % 8 else TOKENS).astype(np.uint16) for i in range(64)]
    samples = [{"tokens": one, "good": np.uint8(i % 8 == 0)} for i, one in enumerate(tokens)]
    columns = {"tokens": "ndarray:uint16", "good": "uint8"}
    url = tmp_path_factory.mktemp("big")
    write(url, samples, columns, compression=None, size_limit=7 * 2 * BIG + 4096)
    label(url, LabelPlan(columns=("good",)))
    return str(url)


def test_a_budget_below_one_shard_does_where_few_samples_are_wanted(big_url):
    budget = 1 << 20
    corpus = open_corpus(big_url)
    assert len(corpus.shards) == 8 and corpus.shards.raw_bytes.min() > 3 * budget
    corpus.close()
    with Loader(big_url, **SETTINGS, where="good == 1", budget_bytes=budget) as loader:
        read(loader, 4)
        assert loader._source.cache.pool.high_water_bytes <= budget
        ids = [i for step in range(4) for i in loader.pieces(step).sample_id.tolist()]
    assert sorted(ids[:8]) == list(range(0, 64, 8)) and len(ids) == 32
    with (
        Loader(big_url, **SETTINGS, budget_bytes=budget) as loader,
        pytest.raises(ConfigError, match="raise budget_bytes"),
    ):
        next(iter(loader))


@pytest.mark.parametrize("form", [f for f in FORMATS if f.reads_rows], ids=str)
@given(data=st.data())
@settings(max_examples=10)
def test_a_fetch_takes_no_more_than_was_reserved(form, tmp_path_factory, data):
    store = open_store(str(tmp_path_factory.mktemp("sizes")))
    form.write(store, documents(40), 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "GAP_BYTES", data.draw(st.sampled_from([0, 60, 1000])))
        corpus = open_corpus([Stream(store.url, format=form.format_name, options=form.options)])
        write_labels(corpus, LabelPlan())
        for shard_id in range(len(corpus.shards)):
            num, info = int(corpus.samples_per_shard[shard_id]), corpus.shards[shard_id]
            rows = np.array(sorted(data.draw(st.sets(st.integers(0, num - 1), min_size=1))))
            need = footprint(info, rows, corpus.sample_bytes(shard_id))
            taken = []

            def allocate(num_bytes, taken=taken):
                taken.append(num_bytes)
                return np.empty(num_bytes, np.uint8)

            read_shard(store, info, Ask(rows=rows, verify="none", allocate=allocate))
            assert sum(taken) <= need <= footprint(info)
            if len(rows) == 1 < num:
                assert need < footprint(info)
        corpus.close()


def test_sizes_that_cannot_be_are_refused(big_url):
    corpus = open_corpus(big_url)
    sizes = corpus.sample_bytes(0) * np.uint64(2)
    with pytest.raises(ShardError, match="label the corpus again"):
        footprint(corpus.shards[0], np.array([0]), sizes)
    corpus.close()


# Lengths that are somebody else's ----------------------------------------------------------------


@pytest.fixture(scope="module")
def two_columns(tmp_path_factory):
    rng = np.random.default_rng(0)
    samples = [
        {
            "tokens": tokens_of(i, 0, int(rng.integers(1, 90))).astype(np.uint16),
            "other": tokens_of(i, 0, int(rng.integers(1, 90))).astype(np.uint16),
            "text": "the cat sat " * int(rng.integers(1, 20)),
        }
        for i in range(120)
    ]
    columns = {"tokens": "ndarray:uint16", "other": "ndarray:uint16", "text": "str"}
    return write(tmp_path_factory.mktemp("two"), samples, columns, size_limit=4096)


def batches(url, num=12, **changes):
    with Loader(url, **(SETTINGS | {"packing": "contiguous"} | changes)) as loader:
        return np.stack(read(loader, num))


def test_lengths_of_another_column_are_not_used(two_columns):
    label(two_columns, LabelPlan(token_column="other"))
    rest = [batches(two_columns, column="other")]
    with pytest.warns(UserWarning, match="lengths of column 'other'"):
        rest.append(batches(two_columns, column="tokens"))
    label(two_columns, LabelPlan())
    with pytest.warns(
        UserWarning, match="lengths of column 'tokens', not of column 'other'"
    ) as seen:
        assert np.array_equal(batches(two_columns, column="other"), rest[0])
    assert len(seen) == 1 and "moot index URL" in str(seen[0].message)
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(batches(two_columns, column="tokens"), rest[1])


def fetched_by_rank_0(url, **changes):
    """The shards that rank 0 of 2 asks for, which owns half of the strands."""
    with FaultServer(url) as server:
        batches(server.url, 4, world_size=2, rank=0, prefetch_batches=1, **changes)
        return {seen.path for seen in server.requests() if "shard." in seen.path}


def test_lengths_of_a_fixed_shape_need_not_be_stored_for_a_where(tmp_path):
    tokens = np.arange(TOKENS, dtype=np.uint16)
    samples = [{"tokens": tokens, "good": np.uint8(i % 2)} for i in range(NUM)]
    columns = {"tokens": f"ndarray:uint16:{TOKENS}", "good": "uint8"}
    write(tmp_path, samples, columns, size_limit=1500)
    label(tmp_path, LabelPlan(columns=("good",), token_column=None))
    asked = fetched_by_rank_0(tmp_path, where="good == 1", window_shards=4)
    assert len(asked) <= len(list(tmp_path.glob("shard.*"))) / 2 + 2


def test_lengths_of_a_tokenizer_are_used_by_its_loader_alone(two_columns):
    text = make_tokenizer()
    changes = {"column": "text", "tokenizer": text, "eod": "<eod>"}
    label(two_columns, LabelPlan(token_column=None, label=lambda s: {"x": s.lengths("text") > 0}))
    plain, fetched = batches(two_columns, **changes), fetched_by_rank_0(two_columns, **changes)
    tokeniser = Tokeniser.load(text, eod="<eod>")
    label(two_columns, LabelPlan(token_column="text", tokeniser=tokeniser))
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(batches(two_columns, **changes), plain)
        assert len(fetched_by_rank_0(two_columns, **changes)) < len(fetched)
    with pytest.warns(UserWarning, match="under tokenizer .* not of column 'text' under tokenizer"):
        batches(two_columns, 1, **(changes | {"eod": None}))
    with pytest.warns(UserWarning, match="under tokenizer .* not of column 'tokens'"):
        batches(two_columns, 1)


# Refusals ----------------------------------------------------------------------------------------


def test_refused_labels_stop_a_where_and_nothing_else(corpus_url):
    with FaultServer(corpus_url) as server:
        for method in ("GET", "HEAD"):
            server.plan(Answer(403), path="labels.parquet", method=method, forever=True)
        with pytest.raises(ForbiddenError, match="may not read .* it is not there"):
            Loader(server.url, **SETTINGS, where="ordinal < 64")
        with (
            pytest.warns(UserWarning, match=r"labels\.parquet.*taken as missing") as seen,
            Loader(server.url, **SETTINGS) as loader,
        ):
            next(iter(loader))
        assert len([one for one in seen if "labels" in str(one.message)]) == 1


def test_a_predicate_spelt_otherwise_continues_a_state(corpus_url):
    with Loader(corpus_url, **SETTINGS, where="ordinal < 100") as loader:
        next(iter(loader))
        state = loader.state_dict()
        expected = next(iter(loader))["input_ids"].clone()
    with Loader(corpus_url, **SETTINGS, where=" ordinal<100 ") as loader:
        loader.load_state_dict(state)
        assert (next(iter(loader))["input_ids"] == expected).all()

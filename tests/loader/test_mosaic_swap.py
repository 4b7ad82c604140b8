"""`Loader.from_streaming_dataset`: the swap is one line, and the samples are the same ones."""

import json

import numpy as np
import pytest
from corpora import random_lengths, tokens_of, write_corpus
from moot.loader import ConfigError, Loader, StateError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("mosaic"), random_lengths(400), size_limit=1 << 13)


def open_dataset(streaming, corpus, **settings):
    streaming.base.util.clean_stale_shared_memory()
    settings = {"batch_size": 8, "shuffle": True, "shuffle_seed": 3} | settings
    return streaming.StreamingDataset(local=corpus, **settings)


def rows_of_theirs(batch):
    return [np.asarray(tokens)[:64].tolist() for tokens in batch["tokens"]]


def rows_of(batch):
    ids, positions = batch["input_ids"], batch["position_ids"]
    rows = []
    for row, place in zip(ids.tolist(), positions.tolist(), strict=True):
        segments = [i for i, position in enumerate(place) if position == 0]
        rows.append(row[: segments[1] if len(segments) > 1 else len(row)])
    return rows


def their_batches(dataset, streaming, num, state=None):
    loader = streaming.StreamingDataLoader(
        dataset, batch_size=8, collate_fn=lambda s: {"tokens": [x["tokens"] for x in s]}
    )
    if state is not None:
        loader.load_state_dict(state)
    batches, iterator = [], iter(loader)
    for _ in range(num):
        batches.append(rows_of_theirs(next(iterator)))
    return batches, loader.state_dict()


@pytest.mark.parametrize("algorithm", ["py1e", "py1br", "naive"])
def test_the_swap_reads_the_same_rows_in_the_same_order(streaming, corpus, algorithm):
    theirs, _ = their_batches(
        open_dataset(streaming, corpus, shuffle_algo=algorithm), streaming, 40
    )
    dataset = open_dataset(streaming, corpus, shuffle_algo=algorithm)
    with Loader.from_streaming_dataset(dataset, seq_len=64) as loader:
        batches = iter(loader)
        assert [rows_of(next(batches)) for _ in range(40)] == theirs


def test_their_state_is_continued_and_ours_leads_back(streaming, corpus):
    whole, _ = their_batches(open_dataset(streaming, corpus), streaming, 30)
    first, state = their_batches(open_dataset(streaming, corpus), streaming, 10)
    assert first == whole[:10]
    with Loader.from_streaming_dataset(open_dataset(streaming, corpus), seq_len=64) as loader:
        loader.load_state_dict(json.loads(json.dumps(state)))
        batches = iter(loader)
        assert [rows_of(next(batches)) for _ in range(10)] == whole[10:20]
        back, own = loader.mosaic_state_dict(), loader.state_dict()
        assert [rows_of(next(batches)) for _ in range(5)] == whole[20:25]
    again, _ = their_batches(open_dataset(streaming, corpus), streaming, 10, state=back)
    assert again == whole[20:30]
    with Loader.from_streaming_dataset(open_dataset(streaming, corpus), seq_len=64) as loader:
        loader.load_state_dict(json.loads(json.dumps(own)))
        batches = iter(loader)
        assert [rows_of(next(batches)) for _ in range(10)] == whole[20:30]


def test_the_next_epoch_follows_and_resumes(streaming, corpus):
    with Loader.from_streaming_dataset(open_dataset(streaming, corpus), seq_len=64) as loader:
        batches = iter(loader)
        seen = [rows_of(next(batches)) for _ in range(70)]  # 50 batches an epoch
        state = loader.state_dict()
        following = [rows_of(next(batches)) for _ in range(45)]
    first = {tuple(row) for batch in seen[:50] for row in batch}
    second = {tuple(row) for batch in seen[50:] for row in batch}
    assert second < first and seen[:20] != seen[50:70]
    with Loader.from_streaming_dataset(open_dataset(streaming, corpus), seq_len=64) as loader:
        loader.load_state_dict(state)
        batches = iter(loader)
        assert [rows_of(next(batches)) for _ in range(45)] == following


def test_samples_are_named_in_the_batch(streaming, corpus):
    dataset = open_dataset(streaming, corpus, shuffle=False)
    with Loader.from_streaming_dataset(dataset, seq_len=64) as loader:
        next(iter(loader))
        ids = loader.pieces(0).sample_id
    assert ids.tolist() == list(range(8))
    assert tokens_of(0, 0, 3).tolist() == [1, 2, 3]


def test_what_does_not_fit_is_refused_by_name(streaming, corpus, tmp_path):
    dataset = open_dataset(streaming, corpus)
    with pytest.raises(ConfigError, match="give seq_len"):
        Loader.from_streaming_dataset(dataset)
    with pytest.raises(ConfigError, match="go together"):
        Loader(corpus, batch_rows=8, seq_len=64, order="mosaic")
    with pytest.raises(ConfigError, match="need order='strands'"):
        Loader.from_streaming_dataset(dataset, seq_len=64, where="domain == 1")
    other = write_corpus(tmp_path, random_lengths(50))
    with Loader.from_streaming_dataset(dataset, seq_len=64) as loader:
        plan = loader.config.mosaic_plan
        with pytest.raises(StateError):
            loader.load_state_dict({"epoch": -7, "sample_in_epoch": "x"})
    with pytest.raises(ConfigError, match="in its order"):
        Loader(other, batch_rows=8, seq_len=64, order="mosaic", mosaic_plan=plan)

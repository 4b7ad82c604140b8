# SPDX-License-Identifier: Apache-2.0
"""A loader used wrongly, or on the smallest of corpora: one clear error, or right batches."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpora import random_lengths, tokens_of, write_corpus
from moot.loader import ConfigError, Loader, StateError
from moot.loader.corpus import Stream
from moot.loader.state import decode, encode

PACKINGS = ["contiguous", "first_fit", "best_fit", "pad"]
SETTINGS = {"batch_rows": 8, "seq_len": 64, "num_slots": 2, "seed": 5, "window_shards": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), random_lengths(300))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("other"), random_lengths(100, 1))


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    """Fifty documents without a token."""
    folder = tmp_path_factory.mktemp("nothing")
    empty = pa.array([[]] * 50, pa.list_(pa.uint16()))
    pq.write_table(pa.table({"tokens": empty}), folder / "a.parquet")
    return str(folder)


def read(url, num=2, **changes):
    with Loader(url, **(SETTINGS | changes)) as loader:
        return [batch["input_ids"] for batch, _ in zip(loader, range(num), strict=False)]


@pytest.mark.parametrize(
    "url", ["", None, 3, [], ["a folder", "another"], [3], {"url": "x"}, "ftp://host/x"]
)
def test_what_is_no_corpus_is_refused(url):
    with pytest.raises(ConfigError):
        Loader(url, **SETTINGS)


def test_a_path_and_a_single_stream_are_corpora(corpus, tmp_path):
    expected = torch.stack(read(corpus))
    assert torch.equal(torch.stack(read(Path(corpus))), expected)
    assert torch.equal(torch.stack(read(Stream(corpus))), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_rows": "8"}, "batch_rows must be a whole number"),
        ({"batch_rows": 8.0}, "batch_rows must be a whole number"),
        ({"seq_len": True}, "seq_len must be a whole number"),
        ({"seq_len": None}, "seq_len must be a whole number"),
        ({"budget_bytes": 0}, "budget_bytes must be at least 1"),
        ({"budget_bytes": 20_000}, "raise budget_bytes"),
        ({"seed": 1 << 64}, "seed must be below"),
        ({"fields": "tokens"}, "batch fields"),
        ({"device": "nope"}, "no device 'nope'"),
        ({"num_strands": 3}, "num_strands"),
        ({"replication": 3}, "replication"),
        ({"column": "id"}, "'id' is str, no token ids; pass tokenizer="),
        ({"column": "domain"}, "'domain' is uint8, no token ids"),
        ({"where": "quality >>> 3"}, "cannot be read"),
        ({"where": "quality >= 3"}, "no labels.parquet"),
        ({"storage_options": {"endpiont": "x"}}, "did you mean 'endpoint'"),
        ({"storage_options": "x"}, "storage_options"),
        ({"batch_timeout_s": float("nan")}, "batch_timeout_s"),
    ],
)
def test_settings_that_cannot_work_are_named(corpus, changes, message):
    with pytest.raises(ConfigError, match=message):
        read(corpus, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
@pytest.mark.parametrize("changes", [{"device": "cuda"}, {"pin_memory": True}])
def test_a_device_that_is_not_there_is_named(corpus, changes):
    with pytest.raises(ConfigError, match="needs CUDA"):
        Loader(corpus, **SETTINGS, **changes)


def test_numbers_of_numpy_are_numbers(corpus):
    changes = {"batch_rows": np.int64(8), "seq_len": np.int32(64), "seed": np.uint8(5)}
    with Loader(corpus, **(SETTINGS | changes)) as loader:
        assert torch.equal(next(iter(loader))["input_ids"], read(corpus, 1)[0])
        loader.state_dict()


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_corpus_without_a_token_is_an_error_not_a_hang(nothing, packing):
    with pytest.raises(ConfigError, match="hold no token: look at the corpus"):
        read(nothing, packing=packing)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_corpus_of_one_document_fills_large_batches(tmp_path, packing):
    path = write_corpus(tmp_path, [5])
    (batch,) = read(path, 1, packing=packing, batch_rows=256, num_slots=32)
    held = batch.flatten().numpy()
    assert set(held[held > 0].tolist()) == set(tokens_of(0, 0, 5).tolist())
    assert (batch[:, 0] > 0).all()


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(
    "changes",
    [
        {"seq_len": 100_000},
        {"seq_len": 2},
        {"batch_rows": 9, "num_slots": 3},
        {"num_slots": 8, "lanes": 1},
        {"prefetch_batches": 1, "fetch_threads": 1, "window_shards": 1},
        {"window_shards": 1000},
        {"num_strands": 3, "num_slots": 3, "batch_rows": 9},
    ],
    ids=str,
)
def test_extreme_shapes_hold_the_tokens_they_claim(corpus, packing, changes):
    settings = SETTINGS | {"packing": packing} | changes
    with Loader(corpus, **settings) as loader:
        for step, batch in zip(range(2), loader, strict=False):
            flat, pieces = batch["input_ids"].flatten().numpy(), loader.pieces(step)
            held = np.zeros(len(flat), bool)
            spans = zip(pieces.sample_id, pieces.offset, pieces.length, pieces.start, strict=True)
            for sample, offset, length, start in spans:
                expected = tokens_of(sample, offset, offset + length)
                assert np.array_equal(flat[start : start + length], expected)
                assert not held[start : start + length].any()
                held[start : start + length] = True
            assert not flat[~held].any()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"proportion": (0, 0)}, "proportions are 0"),
        ({"proportion": (float("nan"), 1)}, "finite"),
        ({"proportion": (1, None)}, "all streams or to none"),
        ({"choose": (0, 0)}, "no sample"),
    ],
)
def test_weights_that_draw_nothing_are_refused(corpus, other, weights, message):
    ((name, values),) = weights.items()
    streams = [Stream(u, **{name: w}) for u, w in zip((corpus, other), values, strict=True)]
    with pytest.raises(ConfigError, match=message):
        Loader(streams, **SETTINGS)


def test_a_mixture_cannot_change_in_the_past(corpus, other):
    streams = [Stream(corpus), Stream(other)]
    with Loader(streams, **SETTINGS) as loader:
        assert loader.set_mixture([1, 1], step=0) == 0
        for _ in zip(range(3), loader, strict=False):
            pass
        earliest = loader.set_mixture([1, 2])
        for step in (-1, 0, 2, 3, earliest - 1):
            with pytest.raises(StateError, match=f"from step {earliest} on"):
                loader.set_mixture([1, 2], step)
        for bad in ([0, 0], [1], [-1, 1], [1, float("nan")]):
            with pytest.raises(ConfigError, match="weights"):
                loader.set_mixture(bad)
        with pytest.raises(ConfigError, match="whole number"):
            loader.set_mixture([1, 1], 500.5)
        state = loader.state_dict()
    with Loader(streams, **SETTINGS) as loader:
        loader.load_state_dict(state)
        with pytest.raises(StateError, match=r"steps before \d are delivered"):
            loader.set_mixture([1, 1], step=1)


@pytest.mark.parametrize(
    ("place", "value"),
    [((0, 0), -2), ((0, 0), 2**62), ((-1, 0), -2), ((-1, 0), 2**63 - 1), ((-1, 1), -2)],
)
def test_a_state_of_impossible_positions_is_refused_and_changes_nothing(corpus, place, value):
    with Loader(corpus, **SETTINGS) as loader:
        next(iter(loader))
        state = loader.state_dict()
        body, table = decode(state)
        table[place] = value
        with pytest.raises(StateError, match="damaged"):
            loader.load_state_dict(encode(body, table))
        assert loader.state_dict() == state
        next(iter(loader))


def test_two_iterators_share_one_stream(corpus):
    expected = read(corpus, 4)
    with Loader(corpus, **SETTINGS) as loader:
        first, second = iter(loader), iter(loader)
        got = [next(one)["input_ids"] for one in (first, second, first, second)]
    assert torch.equal(torch.stack(got), torch.stack(expected))


def test_an_error_of_the_consumer_leaves_no_thread(corpus):
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), Loader(corpus, **SETTINGS) as loader:
        for _ in loader:
            1 / 0  # noqa: B018
    assert set(threading.enumerate()) <= before


def test_a_closed_loader_still_tells_its_state(corpus):
    loader = Loader(corpus, **SETTINGS)
    stream = iter(loader)
    next(stream)
    state = loader.state_dict()
    loader.close()
    loader.close()
    assert loader.state_dict() == state
    assert loader.pieces(0).length.sum() == 512
    loader.metrics()
    for use in (lambda: next(stream), loader.peek, lambda: next(iter(loader))):
        with pytest.raises(StateError, match="closed"):
            use()


def test_a_forked_process_is_told_to_open_its_own(corpus):
    expected = read(corpus, 2)
    with Loader(corpus, **SETTINGS) as loader:
        next(iter(loader))
        child = os.fork()
        if not child:
            signal.alarm(30)
            status = 1
            try:
                next(iter(loader))
            except StateError as error:
                status = 0 if "another process" in str(error) else 2
            loader.close()
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert torch.equal(next(iter(loader))["input_ids"], expected[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", -5),
        ("step", 2.0),
        ("step", "two"),
        ("step", None),
        ("plan", []),
        ("plan", None),
        ("mixture", [[0, [0, 0]]]),
        ("mixture", [[0, [-1, 2]]]),
        ("mixture", [[7, [1, 1]]]),
        ("mixture", [[0, [1, 1]], [0, [1, 2]]]),
        ("mixture", [[0, [1]]]),
        ("mixture", []),
        ("mixture", 5),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(corpus, other, name, value):
    with Loader([Stream(corpus), Stream(other)], **SETTINGS) as loader:
        stream = iter(loader)
        next(stream)
        state = loader.state_dict()
        body, table = decode(state)
        with pytest.raises(StateError):
            loader.load_state_dict(encode(body | {name: value}, table))
        del body[name]
        with pytest.raises(StateError):
            loader.load_state_dict(encode(body, table))
        assert loader.state_dict() == state
        next(stream)


@pytest.mark.parametrize("state", [5, "text", [1], {"version": 1, "cursor": "5"}])
def test_what_is_no_state_is_refused(corpus, state):
    with Loader(corpus, **SETTINGS) as loader, pytest.raises(StateError):
        loader.load_state_dict(state)


def test_a_state_of_another_version_of_the_order_is_refused(corpus):
    with Loader(corpus, **SETTINGS) as loader:
        body, table = decode(loader.state_dict())
        del body["plan"]["order"]
        with pytest.raises(StateError, match="order was None"):
            loader.load_state_dict(encode(body, table))


def test_a_constructor_that_fails_leaves_no_thread(corpus, other):
    before = set(threading.enumerate())
    streams = [Stream(corpus, proportion=0.5), Stream(other, repeat=2)]
    with pytest.raises(ConfigError):
        Loader(streams, **SETTINGS)
    assert set(threading.enumerate()) <= before


_LEFT_OPEN = """
import sys
from moot.loader import Loader

loader = Loader(sys.argv[1], batch_rows=8, seq_len=64, window_shards=3, budget_bytes=200_000)
stream = iter(loader)
for _ in range(3):
    next(stream)
if sys.argv[2] == "error":
    raise SystemExit(7)
if sys.argv[2] == "dropped":
    del stream, loader
"""


@pytest.mark.parametrize(("way", "code"), [("end", 0), ("error", 7), ("dropped", 0)])
def test_a_loader_that_nobody_closes_does_not_abort_the_process(corpus, way, code):
    for _ in range(3):  # it did so in one run of two
        done = subprocess.run(
            [sys.executable, "-c", _LEFT_OPEN, corpus, way], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (code, "")

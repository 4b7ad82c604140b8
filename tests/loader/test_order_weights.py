# SPDX-License-Identifier: Apache-2.0
"""What an epoch draws from each stream, against `Stream.apply_weights` of mosaicml-streaming."""

import importlib.util

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from moot.loader.errors import ConfigError
from moot.loader.order.weights import Weight, epoch_choose

needs_streaming = pytest.mark.skipif(
    importlib.util.find_spec("streaming") is None,
    reason="mosaicml-streaming is not installed (extra `mosaic`)",
)
SIZES = st.lists(st.integers(1, 10**6), min_size=1, max_size=8)
EPOCHS = st.none() | st.integers(1, 10**7)


def theirs(streaming, samples, weights, epoch_size):
    streams = [streaming.Stream(local="unused", **weight.given) for weight in weights]
    total = streaming.Stream.apply_weights(streams, np.array(samples), epoch_size, 9176)
    return np.array([stream.choose for stream in streams]), total


@st.composite
def absolute(draw):
    weight = st.one_of(
        st.just(Weight()),
        st.builds(Weight, repeat=st.floats(0, 5)),
        st.builds(Weight, choose=st.integers(0, 10**6)),
    )
    samples = draw(SIZES)
    return samples, [draw(weight) for _ in samples]


@st.composite
def relative(draw):
    samples = draw(SIZES)
    proportions = draw(st.lists(st.floats(0, 10), min_size=len(samples), max_size=len(samples)))
    assume(sum(proportions) > 1e-3)
    return samples, [Weight(proportion=value) for value in proportions]


@needs_streaming
@given(case=absolute())
def test_repeat_and_choose_draw_what_theirs_draw(streaming, case):
    samples, weights = case
    assume(any(weight.given.get("choose", 1) for weight in weights))
    expected, total = theirs(streaming, samples, weights, None)
    assume(total > 0)
    chosen = epoch_choose(samples, weights)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == expected.tolist()


@needs_streaming
@given(case=relative(), epoch_size=EPOCHS)
def test_proportions_draw_what_theirs_draw_but_for_the_odd_sample(streaming, case, epoch_size):
    check_shares(streaming, *case, epoch_size)


@needs_streaming
@given(samples=SIZES, epoch_size=EPOCHS)
def test_an_epoch_size_alone_draws_by_size(streaming, samples, epoch_size):
    check_shares(streaming, samples, [Weight()] * len(samples), epoch_size)


def check_shares(streaming, samples, weights, epoch_size):
    expected, total = theirs(streaming, samples, weights, epoch_size)
    chosen = epoch_choose(samples, weights, epoch_size)
    assert chosen.sum() == total == (sum(samples) if epoch_size is None else epoch_size)
    assert np.abs(chosen - expected).max() <= 1


def test_whole_shares_are_exact_and_odd_samples_go_to_the_largest_fractions():
    thirds = [Weight(proportion=1)] * 3
    assert epoch_choose([9, 9, 9], thirds, 30).tolist() == [10, 10, 10]
    assert epoch_choose([9, 9, 9], thirds, 31).tolist() == [11, 10, 10]
    assert epoch_choose(
        [10, 10], [Weight(proportion=0.26), Weight(proportion=0.74)], 10
    ).tolist() == [3, 7]
    assert epoch_choose([5, 7], [Weight(), Weight()]).tolist() == [5, 7]
    assert epoch_choose([5, 7], [Weight(repeat=2.5), Weight(choose=0)]).tolist() == [12, 0]


@pytest.mark.parametrize(
    ("weights", "epoch_size", "message"),
    [
        ([Weight(proportion=1), Weight()], None, "stream 1 has no proportion"),
        ([Weight(choose=1), Weight(proportion=1)], None, "stream 0 has no proportion"),
        ([Weight(choose=1), Weight()], 7, "epoch_size contradicts"),
        ([Weight(repeat=1), Weight(repeat=1)], 7, "epoch_size contradicts"),
        ([Weight(proportion=0), Weight(proportion=0)], None, "all proportions are 0"),
        ([Weight(choose=0), Weight(repeat=0)], None, "draw no sample"),
        ([Weight(), Weight()], 0, "epoch_size must be at least 1"),
        ([Weight()], None, "one weight each"),
    ],
)
def test_contradictions_are_refused(weights, epoch_size, message):
    with pytest.raises(ConfigError, match=message):
        epoch_choose([4, 5], weights, epoch_size)


def test_an_empty_stream_is_named():
    with pytest.raises(ConfigError, match="stream 1 holds no samples"):
        epoch_choose([4, 0], [Weight(), Weight()])


@pytest.mark.parametrize(
    "values",
    [
        {"proportion": 1.0, "repeat": 1.0},
        {"repeat": 1.0, "choose": 0},
        {"proportion": -0.5},
        {"repeat": float("nan")},
        {"proportion": float("inf")},
        {"choose": -1},
        {"choose": 1.5},
    ],
)
def test_impossible_weights_are_refused(values):
    with pytest.raises(ConfigError):
        Weight(**values)

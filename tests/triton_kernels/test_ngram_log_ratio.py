# SPDX-License-Identifier: Apache-2.0
"""ngram_log_ratio: exact sums, the same bits everywhere, tables from counts, clear refusals."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.triton_kernels import LogRatioTable, log_ratio_table, ngram_counts, ngram_log_ratio
from moot.triton_kernels.ngram_log_ratio import kernel
from moot.triton_kernels.ngram_log_ratio.native import ngram_log_ratio_native

IMPLEMENTATIONS = ["reference", "native", "triton"]
ORDERS = [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
DTYPES = [torch.uint16, torch.int32, torch.int64]
LENGTHS = [0, 1, 2, 3, 5, 64, 255, 256, 257, 258, 300, 513]


def make_table(generator, buckets=64, orders=(1, 2)):
    """Steps over the whole range of int32, with which a sum in int32 or fp32 would be wrong."""
    steps = torch.randint(-(2**31), 2**31, (buckets,), generator=generator)
    return LogRatioTable(steps.to(torch.int32), orders)


def make_batch(generator, lengths, dtype=torch.uint16, vocabulary=2**16):
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    tokens = torch.randint(0, vocabulary, (int(cu_seqlens[-1]),), generator=generator)
    return tokens.to(dtype), cu_seqlens


def same_bits(left, right):
    return left.dtype == right.dtype and torch.equal(
        left.view(torch.int64), right.view(torch.int64)
    )


def plain_buckets(document, num_buckets, orders):
    """Buckets of a document's n-grams in Python integers, written apart from the package."""
    buckets = []
    for start in range(len(document)):
        state = 0x6D6F6F74
        for order, token in enumerate(document[start : start + max(orders)], 1):
            state = (state ^ token) * 0x9E3779B1 % 2**32
            state ^= state >> 15
            last = (state ^ state >> 16) * 0x85EBCA6B % 2**32
            last = (last ^ last >> 13) * 0xC2B2AE35 % 2**32
            if order in orders:
                buckets.append((last ^ last >> 16) % num_buckets)
    return buckets


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("orders", ORDERS, ids=str)
def test_ratio_is_the_exact_sum_of_the_table(implementation, orders):
    generator = torch.Generator().manual_seed(7)
    table = make_table(generator, orders=orders)
    tokens, cu = make_batch(generator, [0, 1, 2, 3, 63, 300])
    ratios = ngram_log_ratio(tokens, cu, table, implementation=implementation)
    steps = table.table.tolist()
    for i, ratio in enumerate(ratios.tolist()):
        buckets = plain_buckets(tokens[cu[i] : cu[i + 1]].tolist(), len(steps), orders)
        assert ratio == sum(steps[bucket] for bucket in buckets) * 2.0**-20


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.sampled_from(LENGTHS), max_size=8),
    dtype=st.sampled_from(DTYPES),
    orders=st.sampled_from(ORDERS),
    buckets=st.sampled_from([1, 2, 64, 1 << 14]),
)
def test_native_equals_reference_bit_for_bit(seed, lengths, dtype, orders, buckets):
    generator = torch.Generator().manual_seed(seed)
    table = make_table(generator, buckets, orders)
    arguments = (*make_batch(generator, lengths, dtype), table)
    assert same_bits(
        ngram_log_ratio(*arguments, implementation="reference"), ngram_log_ratio(*arguments)
    )


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.sampled_from(LENGTHS), max_size=4),
    dtype=st.sampled_from(DTYPES),
    orders=st.sampled_from(ORDERS),
    buckets=st.sampled_from([1, 64]),
)
def test_kernel_equals_reference_bit_for_bit(seed, lengths, dtype, orders, buckets):
    generator = torch.Generator().manual_seed(seed)
    table = make_table(generator, buckets, orders)
    arguments = (*make_batch(generator, lengths, dtype), table)
    assert same_bits(
        ngram_log_ratio(*arguments, implementation="reference"),
        ngram_log_ratio(*arguments, implementation="triton"),
    )


@pytest.mark.parametrize("wanted", [1, 4, 64])
def test_splitting_a_document_changes_nothing(monkeypatch, wanted):
    generator = torch.Generator().manual_seed(1)
    arguments = (*make_batch(generator, [1500, 3]), make_table(generator))
    monkeypatch.setattr(kernel, "WANTED_PROGRAMS", wanted)
    assert kernel.num_splits(2, 1503) == {1: 1, 4: 2, 64: 4}[wanted]
    split = ngram_log_ratio(*arguments, implementation="triton")
    assert same_bits(split, ngram_log_ratio(*arguments))


@pytest.mark.parametrize("implementation", ["native", "triton"])
@pytest.mark.parametrize("lengths", [[0, 1, 2, 65, 0], [600, 0, 300]], ids=["whole", "split"])
def test_every_output_is_written(poisoned_empty, implementation, lengths):
    generator = torch.Generator().manual_seed(1)
    tokens, cu = make_batch(generator, lengths)
    table = LogRatioTable(torch.full((8,), 1 << 20, dtype=torch.int32), (1,))
    ratios = ngram_log_ratio(tokens, cu, table, implementation=implementation)
    assert ratios.tolist() == [float(length) for length in lengths]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ratio_does_not_depend_on_neighbours_or_order(implementation):
    generator = torch.Generator().manual_seed(2)
    table, lengths = make_table(generator, orders=(1, 2, 3)), [3, 0, 300, 1, 12]
    tokens, cu = make_batch(generator, lengths)
    together = ngram_log_ratio(tokens, cu, table, implementation=implementation)
    documents = [tokens[cu[i] : cu[i + 1]].clone() for i in range(len(lengths))]
    order = [4, 2, 0, 3, 1]
    shuffled = torch.cat([documents[i] for i in order])
    shuffled_cu = torch.tensor([0, *(lengths[i] for i in order)]).cumsum(0)
    again = ngram_log_ratio(shuffled, shuffled_cu, table, implementation=implementation)
    assert same_bits(again, together[order])
    for i, document in enumerate(documents):
        alone = ngram_log_ratio(
            document, torch.tensor([0, len(document)]), table, implementation=implementation
        )
        assert same_bits(alone, together[i : i + 1])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_offsets_may_leave_tokens_out(implementation):
    generator = torch.Generator().manual_seed(3)
    table = make_table(generator, orders=(1, 2, 3))
    tokens, _ = make_batch(generator, [50])
    ratio = ngram_log_ratio(tokens, torch.tensor([7, 31]), table, implementation=implementation)
    alone = ngram_log_ratio(tokens[7:31].clone(), torch.tensor([0, 24]), table)
    assert same_bits(ratio, alone)


def test_slices_of_offsets_split_the_work_over_threads():
    generator = torch.Generator().manual_seed(5)
    table = make_table(generator)
    tokens, cu = make_batch(generator, [i % 37 for i in range(200)])
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(
            lambda start: ngram_log_ratio(tokens, cu[start : start + 26], table), range(0, 200, 25)
        )
    assert same_bits(torch.cat(list(parts)), ngram_log_ratio(tokens, cu, table))


def test_long_document_does_not_overflow():
    """2 million n-grams of the least entry pass the range of int32 and of exact fp64."""
    table = LogRatioTable(torch.full((4,), -(2**31), dtype=torch.int32), (1, 2))
    tokens = torch.arange(1_000_001, dtype=torch.int32)
    ratio = ngram_log_ratio(tokens, torch.tensor([0, len(tokens)]), table)
    assert ratio.item() == -2_000_001 * 2.0**11


@pytest.mark.parametrize("implementation", ["native", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_are_those_of_the_documents(implementation, dtype):
    generator = torch.Generator().manual_seed(4)
    tokens, cu = make_batch(generator, [0, 1, 2, 300, 7], dtype)
    counts = ngram_counts(tokens, cu, 32, (1, 3), implementation=implementation)
    wanted = torch.zeros(32, dtype=torch.int64)
    for i in range(5):
        for bucket in plain_buckets(tokens[cu[i] : cu[i + 1]].tolist(), 32, (1, 3)):
            wanted[bucket] += 1
    assert torch.equal(counts, wanted)


def test_table_holds_smoothed_log_ratios():
    target, source = torch.tensor([5, 0, 15, 0]), torch.tensor([1, 1, 0, 0])
    table = log_ratio_table(target, source, (1, 2), smoothing=0.25)
    exact = [
        math.log(p + 0.25) - math.log(q + 0.25)
        for p, q in [(0.25, 0.5), (0.0, 0.5), (0.75, 0.0), (0.0, 0.0)]
    ]
    for steps, ratio in zip(table.table.tolist(), exact, strict=True):
        assert abs(steps * 2.0**-20 - ratio) <= 2.0**-21
    unseen = log_ratio_table(target, source, (1, 2)).table.tolist()
    assert unseen[3] == 0 and unseen[1] == round(math.log(1e-8 / (0.5 + 1e-8)) * 2**20)


def test_ratio_is_the_log_likelihood_ratio_of_the_counts():
    """The whole way, against DSIR's formula in fp64: inner product of counts and log ratios."""
    generator = torch.Generator().manual_seed(9)
    tokens, cu = make_batch(generator, [40] * 30, vocabulary=50)
    target = ngram_counts(tokens, cu[:11], 256, (1, 2))
    source = ngram_counts(tokens, cu, 256, (1, 2))
    ratios = ngram_log_ratio(tokens, cu, log_ratio_table(target, source, (1, 2)))
    logs = (target.double() / target.sum() + 1e-8).log()
    logs -= (source.double() / source.sum() + 1e-8).log()
    for i, ratio in enumerate(ratios.tolist()):
        features = ngram_counts(tokens, cu[i : i + 2], 256, (1, 2))
        assert abs(ratio - float(features.double() @ logs)) <= 79 * 2.0**-21 + 1e-12
    assert ratios[:10].min() > ratios[10:].max()


def test_op_passes_opcheck():
    generator = torch.Generator().manual_seed(0)
    tokens, cu = make_batch(generator, [3, 0, 40])
    arguments = (tokens, cu, make_table(generator).table, 0b110)
    for implementation in IMPLEMENTATIONS:
        torch.library.opcheck(torch.ops.moot.ngram_log_ratio.default, (*arguments, implementation))


def test_compiled_function_holds_one_node():
    generator = torch.Generator().manual_seed(0)
    tokens, cu = make_batch(generator, [3, 0, 40])
    table = make_table(generator)
    compiled = torch.compile(lambda *a: ngram_log_ratio(*a, table) + 1, backend="aot_eager")
    assert same_bits(compiled(tokens, cu), ngram_log_ratio(tokens, cu, table) + 1)


def broken(**changes):
    """Arguments of a good call with some of them replaced."""
    generator = torch.Generator().manual_seed(0)
    tokens, cu = make_batch(generator, [3, 4])
    return {"tokens": tokens, "cu_seqlens": cu, "table": make_table(generator)} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": torch.zeros(7)}, "tokens are torch.float32"),
        ({"tokens": [1, 2]}, "tokens are list"),
        ({"tokens": torch.zeros(7, 1, dtype=torch.int32)}, "tokens is torch.int32 of shape"),
        ({"tokens": torch.zeros(14, dtype=torch.int32)[::2]}, "tokens is not contiguous"),
        ({"cu_seqlens": torch.tensor([0, 3], dtype=torch.int32)}, "cu_seqlens is torch.int32"),
        ({"cu_seqlens": torch.zeros(0, dtype=torch.int64)}, "cu_seqlens is empty"),
        ({"cu_seqlens": torch.tensor([0, 5, 3])}, "must not descend"),
        ({"cu_seqlens": torch.tensor([0, 8])}, r"within \[0, 7\]"),
        ({"cu_seqlens": torch.tensor([-1, 7])}, "runs from -1"),
        ({"table": torch.zeros(4, dtype=torch.int32)}, "make it with log_ratio_table"),
        ({"implementation": "fast"}, "choose one of"),
    ],
)
def test_bad_calls_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ngram_log_ratio(**broken(**changes))


@pytest.mark.parametrize(
    ("table", "orders", "message"),
    [
        (torch.zeros(3, dtype=torch.int32), (1,), "there are 3 buckets"),
        (torch.zeros(4), (1,), "table is torch.float32"),
        (torch.zeros(4, dtype=torch.int32), (2, 1), "orders is"),
        (torch.zeros(4, dtype=torch.int32), (), "orders is"),
        (torch.zeros(4, dtype=torch.int32), (4,), "orders is"),
    ],
)
def test_bad_tables_are_refused(table, orders, message):
    with pytest.raises(ValueError, match=message):
        LogRatioTable(table, orders)


def test_bad_counts_are_refused():
    good = torch.ones(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="target_counts must not be negative nor all 0"):
        log_ratio_table(good * 0, good, (1,))
    with pytest.raises(ValueError, match="source_counts must not be negative"):
        log_ratio_table(good, -good, (1,))
    with pytest.raises(ValueError, match="source_counts is torch.int64 of shape"):
        log_ratio_table(good, good[:2], (1,))
    with pytest.raises(ValueError, match="smoothing is 0"):
        log_ratio_table(good, good, (1,), smoothing=0.0)
    with pytest.raises(ValueError, match="no Triton kernel"):
        ngram_counts(good, torch.tensor([0, 4]), 4, (1,), implementation="triton")
    with pytest.raises(ValueError, match="there are 5 buckets"):
        ngram_counts(good, torch.tensor([0, 4]), 5, (1,))


def test_native_core_refuses_lies_of_its_own():
    """The core guards memory even where the Python checks are passed by."""
    tokens, table = torch.zeros(7, dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
    with pytest.raises(ValueError, match="cu_seqlens leaves the tokens"):
        ngram_log_ratio_native(tokens, torch.tensor([0, 5, 1 << 40]), table, 0b10)

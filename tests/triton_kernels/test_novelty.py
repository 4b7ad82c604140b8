# SPDX-License-Identifier: Apache-2.0
"""novelty: cosines against fp64, the nearest centroid, independence, ties, clear refusals."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.triton_kernels import CentroidBank, Novelty, novelty
from moot.triton_kernels.novelty import kernel
from moot.triton_kernels.novelty.bank import ELEMENT_DTYPES
from moot.triton_kernels.novelty.native import find_nearest
from moot.triton_kernels.novelty.reference import novelty_reference

IMPLEMENTATIONS = ["reference", "native", "triton"]


def make_inputs(seed, num_vectors, num_centroids, dim, dtype=torch.float32):
    """Vectors and centroids of lengths from 0.1 to 10."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_vectors + num_centroids, dim, generator=generator)
    rows *= 10 ** (2 * torch.rand(len(rows), 1, generator=generator) - 1)
    rows = rows.to(dtype)
    return rows[:num_vectors].clone(), CentroidBank.of(rows[num_vectors:].clone())


def cosines(vectors, bank, dtype):
    """All cosines in one precision, as one would write them."""
    vectors, centroids = vectors.to(dtype), bank.centroids.to(dtype)
    products = vectors @ centroids.T
    return products / vectors.norm(dim=1)[:, None] / centroids.norm(dim=1)


def assert_close(result, vectors, bank):
    """Within twice the naive error and 4 ulp; the centroid named has a cosine that close.

    The scale is that of the products that are added: a cosine near 0 may be the rest of large ones.
    """
    exact = cosines(vectors, bank, torch.float64)
    naive = cosines(vectors, bank, torch.float32)
    wanted = exact.amax(1)
    centroids = bank.centroids.abs()
    scale = cosines(vectors.abs(), CentroidBank(centroids, bank.inverse_norms), torch.float64).max()
    allowed = 2 * (naive.amax(1) - wanted).abs().max() + 4 * scale * 2.0**-23
    assert result.similarity.dtype == torch.float32 and result.nearest.dtype == torch.int32
    assert (result.similarity - wanted).abs().max() <= allowed
    named = exact.gather(1, result.nearest.long()[:, None])[:, 0]
    assert (named - wanted).abs().max() <= 2 * allowed


def same_bits(left, right):
    return torch.equal(
        left.similarity.view(torch.int32), right.similarity.view(torch.int32)
    ) and torch.equal(left.nearest, right.nearest)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(
        st.sampled_from([1, 2, 6, 13, 14, 15, 43, 337]),
        st.sampled_from([1, 2, 16, 31, 32, 33, 100]),
        st.sampled_from([1, 2, 8, 17, 255, 256, 257, 600]),
    ),
    dtype=st.sampled_from(ELEMENT_DTYPES),
    may_be_wide=st.booleans(),
)
def test_native_is_close_to_fp64(seed, shape, dtype, may_be_wide):
    """With AVX-512 where the machine has it, and with the loop of machines that lack it."""
    vectors, bank = make_inputs(seed, *shape, dtype)
    found = find_nearest(vectors, bank.centroids, bank.inverse_norms, may_be_wide=may_be_wide)
    assert_close(Novelty(*found), vectors, bank)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(
        st.sampled_from([1, 2, 15, 16, 17]),
        st.sampled_from([1, 31, 32, 33, 65]),
        st.sampled_from([1, 2, 15, 16, 17, 48]),
    ),
    dtype=st.sampled_from(ELEMENT_DTYPES),
)
def test_kernel_is_close_to_fp64(seed, shape, dtype):
    vectors, bank = make_inputs(seed, *shape, dtype)
    assert_close(novelty(vectors, bank, implementation="triton"), vectors, bank)


@pytest.mark.parametrize("dtype", ELEMENT_DTYPES, ids=str)
def test_reference_is_close_to_fp64(dtype):
    vectors, bank = make_inputs(3, 20, 30, 64, dtype)
    assert_close(novelty(vectors, bank, implementation="reference"), vectors, bank)


@pytest.mark.parametrize("implementation", ["reference", "native"])
def test_errors_are_no_larger_than_those_of_a_plain_product(implementation):
    """Over many vectors, where chance evens out: without any ulp granted."""
    vectors, bank = make_inputs(11, 400, 50, 1500)
    wanted = cosines(vectors, bank, torch.float64).amax(1)
    naive = cosines(vectors, bank, torch.float32).amax(1)
    error = novelty(vectors, bank, implementation=implementation).similarity - wanted
    assert error.square().mean().sqrt() <= 2 * (naive - wanted).square().mean().sqrt()


def test_reference_computes_in_fp64():
    vectors, bank = make_inputs(4, 9, 7, 33)
    double = CentroidBank.of(bank.centroids).centroids.double()
    inverse = 1 / double.norm(dim=1)
    similarity, nearest = novelty_reference(vectors.double(), double, inverse)
    exact = cosines(vectors, bank, torch.float64)
    assert similarity.dtype == torch.float64
    assert (similarity - exact.amax(1)).abs().max() < 1e-14
    assert torch.equal(nearest.long(), exact.argmax(1))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_all_cosines_negative(implementation):
    """What lies past the last centroid or dimension must not count as a cosine of 0."""
    vectors = -torch.rand(5, 19) - 0.1
    bank = CentroidBank.of(torch.rand(37, 19) + 0.1)
    result = novelty(vectors, bank, implementation=implementation)
    assert result.similarity.max() < 0
    assert_close(result, vectors, bank)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("places", [(0, 99), (31, 32), (40, 41), (16, 64), (97, 98, 99)], ids=str)
def test_the_first_of_equal_centroids_is_named(implementation, places):
    vectors, bank = make_inputs(5, 4, 100, 24)
    centroids = bank.centroids.clone()
    centroids[list(places)] = vectors[2] * 2
    result = novelty(vectors, CentroidBank.of(centroids), implementation=implementation)
    assert result.nearest[2] == places[0]
    assert abs(float(result.similarity[2]) - 1) < 1e-6


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_vectors_without_a_direction(implementation):
    vectors, bank = make_inputs(6, 6, 40, 20)
    whole = novelty(vectors, bank, implementation=implementation)
    vectors[1] = 0
    vectors[2, 3] = float("nan")
    vectors[3, 19] = float("inf")
    vectors[4] = 1e30
    result = novelty(vectors, bank, implementation=implementation)
    assert result.similarity[1] == 0
    assert result.similarity[2:5].isnan().all()
    assert (result.nearest >= 0).all() and (result.nearest < 40).all()
    for i in (0, 5):
        assert result.similarity[i] == whole.similarity[i]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_centroid_of_length_zero_has_cosine_zero(implementation):
    vectors = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    bank = CentroidBank.of(torch.tensor([[-3.0, -1.0], [0.0, 0.0], [2.0, 0.0]]))
    result = novelty(vectors, bank, implementation=implementation)
    assert result.nearest.tolist() == [2, 0]
    assert abs(float(result.similarity[1]) - 0.1**0.5) < 1e-6
    alone = CentroidBank.of(torch.zeros(1, 2))
    assert novelty(vectors, alone, implementation=implementation).similarity.tolist() == [0, 0]


def test_all_numbers_of_16_bits_are_read():
    """Denormals and largest values of both short formats, one a vector, against an axis."""
    for dtype in (torch.float16, torch.bfloat16):
        bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
        values = bits.view(dtype)
        usable = values.isfinite() & (values.double().square().float() >= 2.0**-126)
        usable &= values.double().square().float().isfinite()
        vectors = values[usable, None].contiguous()
        result = novelty(vectors, CentroidBank.of(torch.ones(1, 1, dtype=dtype)))
        assert len(vectors) > 30_000
        assert (result.similarity - vectors[:, 0].float().sign()).abs().max() <= 2.0**-22


@pytest.mark.parametrize("implementation", ["native", "triton"])
def test_every_output_is_written(poisoned_empty, implementation):
    vectors, bank = make_inputs(7, 21, 70, 20)
    result = novelty(vectors, bank, implementation=implementation)
    assert result.similarity.isfinite().all()
    assert (result.nearest >= 0).all() and (result.nearest < 70).all()


@pytest.mark.parametrize("implementation", ["native", "triton"])
@pytest.mark.parametrize("dtype", ELEMENT_DTYPES, ids=str)
def test_result_does_not_depend_on_other_vectors_or_order(implementation, dtype):
    vectors, bank = make_inputs(8, 39, 70, 50, dtype)
    together = novelty(vectors, bank, implementation=implementation)
    order = torch.randperm(39, generator=torch.Generator().manual_seed(0))
    again = novelty(vectors[order], bank, implementation=implementation)
    assert torch.equal(again.similarity, together.similarity[order])
    assert torch.equal(again.nearest, together.nearest[order])
    for i in (0, 13, 38):
        alone = novelty(vectors[i : i + 1], bank, implementation=implementation)
        assert torch.equal(alone.similarity, together.similarity[i : i + 1])
    assert same_bits(novelty(vectors, bank, implementation=implementation), together)


@pytest.mark.parametrize("wanted", [1, 2, 3, 512])
def test_sharing_the_bank_changes_nothing(monkeypatch, wanted):
    vectors, bank = make_inputs(9, 9, 200, 20)
    bank.centroids[150] = bank.centroids[3]  # a tie over shares
    vectors[4] = bank.centroids[3]
    monkeypatch.setattr(kernel, "WANTED_PROGRAMS", 1)
    whole = novelty(vectors, CentroidBank.of(bank.centroids), implementation="triton")
    monkeypatch.setattr(kernel, "WANTED_PROGRAMS", wanted)
    assert kernel.shares(1, 200, 32)[1] == {1: 1, 2: 2, 3: 3, 512: 7}[wanted]
    shared = novelty(vectors, CentroidBank.of(bank.centroids), implementation="triton")
    assert same_bits(shared, whole) and shared.nearest[4] == 3


def test_slices_of_vectors_split_the_work_over_threads():
    vectors, bank = make_inputs(10, 200, 90, 40)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda start: novelty(vectors[start : start + 33], bank),
                              range(0, 200, 33)))  # fmt: skip
    whole = novelty(vectors, bank)
    assert torch.equal(torch.cat([part.similarity for part in parts]), whole.similarity)
    assert torch.equal(torch.cat([part.nearest for part in parts]), whole.nearest)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_vectors(implementation):
    _, bank = make_inputs(0, 1, 5, 8)
    result = novelty(torch.zeros(0, 8), bank, implementation=implementation)
    assert result.similarity.shape == result.nearest.shape == (0,)


def test_op_passes_opcheck():
    vectors, bank = make_inputs(0, 3, 5, 8)
    for implementation in IMPLEMENTATIONS:
        arguments = (vectors, bank.centroids, bank.inverse_norms, implementation)
        torch.library.opcheck(torch.ops.moot.novelty.default, arguments)


def test_compiled_function_gives_the_same():
    vectors, bank = make_inputs(0, 3, 5, 8)
    compiled = torch.compile(lambda x: 1 - novelty(x, bank).similarity, backend="aot_eager")
    assert torch.equal(compiled(vectors), 1 - novelty(vectors, bank).similarity)


def test_bad_calls_are_refused():
    vectors, bank = make_inputs(0, 3, 5, 8)
    for changed, message in [
        (vectors.double(), "vectors is torch.float64"),
        ([1.0], "vectors is list"),
        (vectors[0], "vectors is torch.float32 of shape"),
        (vectors.t(), "vectors is not contiguous"),
        (vectors[:, :4].clone(), "dtype and columns must be equal"),
        (vectors.half(), "dtype and columns must be equal"),
    ]:
        with pytest.raises(ValueError, match=message):
            novelty(changed, bank)
    with pytest.raises(ValueError, match="make it with CentroidBank.of"):
        novelty(vectors, bank.centroids)
    with pytest.raises(ValueError, match="choose one of"):
        novelty(vectors, bank, implementation="fast")


def test_bad_banks_are_refused():
    good = torch.ones(3, 4)
    for centroids, message in [
        (torch.zeros(0, 4), "must be at least 1"),
        (torch.zeros(3, 0), "must be at least 1"),
        (good.to(torch.int8), "centroids is torch.int8"),
        (good * torch.tensor([[1.0], [float("nan")], [1.0]]), "centroid 1 has no finite length"),
        (good * 1e30, "centroid 0 has no finite length"),
    ]:
        with pytest.raises(ValueError, match=message):
            CentroidBank.of(centroids)
    with pytest.raises(ValueError, match="inverse_norms is"):
        CentroidBank(good, torch.ones(2))

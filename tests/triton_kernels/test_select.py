# SPDX-License-Identifier: Apache-2.0
"""select: noise against fp64, the same bits everywhere, budgets, ties, order, clear refusals."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.triton_kernels import Quotas, select
from moot.triton_kernels.hashing import hash_ids
from moot.triton_kernels.select.candidates import NO_LIMIT, Candidates, Rule
from moot.triton_kernels.select.native import select_native
from moot.triton_kernels.select.reference import gumbel, log_fp32

IMPLEMENTATIONS = ["reference", "native", "triton"]


def make_candidates(seed, rows=2, candidates=9, agents=3, *, absent=True, coarse=False):
    """Votes, theta, lengths, ids; coarse votes are small integers, so that scores tie."""
    generator = torch.Generator().manual_seed(seed)
    votes = torch.randn(rows, candidates, agents, generator=generator)
    if coarse:
        votes = (votes * 0.7).round()
    theta = torch.ones(agents) if coarse else torch.rand(agents, generator=generator)
    low = -2 if absent else 0
    lengths = torch.randint(low, 20, (rows, candidates), generator=generator).to(torch.int32)
    ids = torch.randint(-(2**63), 2**63 - 1, (rows, candidates), generator=generator)
    return votes, theta, lengths, ids


def kept_ids(selection, ids, row=0):
    """Ids of the kept candidates of a row, best first."""
    return ids[row, selection.order[row, : selection.num_kept[row]].long()].tolist()


def assert_same_bits(left, right):
    for field in dataclasses.fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert a.dtype == b.dtype and a.shape == b.shape, field.name
        assert torch.equal(a.view(torch.int32), b.view(torch.int32)), field.name


def plain_order(scores, lengths, ids, seed):
    """The order of one row by Python's sort over the key of the specification."""
    tie = hash_ids(ids, seed).tolist()
    places = [c for c, length in enumerate(lengths.tolist()) if length >= 0]
    places.sort(key=lambda c: (-scores[c].item(), tie[c], ids[c].item(), c))
    return places + [c for c, length in enumerate(lengths.tolist()) if length < 0]


def test_logarithm_is_within_a_few_ulp():
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([
        torch.rand(100_000, generator=generator).clamp(min=2.0**-126),
        torch.exp(torch.empty(100_000).uniform_(-80, 80, generator=generator)),
        torch.tensor([2.0**-126, 1 - 2.0**-24, 1.0, 1 + 2.0**-23, math.sqrt(0.5), 3.4e38]),
    ])  # fmt: skip
    exact = np.log(x.double().numpy())
    error = np.abs(log_fp32(x).double().numpy() - exact)
    ulp = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert (error <= 3 * ulp).all()


def test_noise_is_gumbel():
    """Against -log(-log u) in fp64 on the same uniforms, and in distribution."""
    tie = hash_ids(torch.arange(200_000), seed=11)
    noise = gumbel(tie).double()
    state = [(int(t) + 0x2545F491) % 2**32 for t in tie[:2000].tolist()]
    exact = []
    for s in state:
        s = (s ^ s >> 16) * 0x85EBCA6B % 2**32
        s = (s ^ s >> 13) * 0xC2B2AE35 % 2**32
        exact.append(-math.log(-math.log((((s ^ s >> 16) >> 9) + 0.5) / 2**23)))
    error = (noise[:2000] - torch.tensor(exact, dtype=torch.float64)).abs()
    assert float(error.max()) <= 4 * 2.0**-23 * max(1.0, max(map(abs, exact)))
    uniform = torch.exp(-torch.exp(-noise)).sort().values
    grid = (torch.arange(len(uniform)) + 0.5) / len(uniform)
    assert float((uniform - grid).abs().max()) < 1.63 / math.sqrt(len(uniform))  # KS, 1 %


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(0, 3), st.integers(0, 130), st.integers(0, 4)),
    coarse=st.booleans(),
    rule=st.fixed_dictionaries({
        "seed": st.integers(-(2**63), 2**63 - 1),
        "temperature": st.sampled_from([0.0, 1e-3, 0.5, 3.0]),
        "max_count": st.none() | st.integers(0, 140),
        "budget_tokens": st.none() | st.integers(0, 1500),
    }),
)  # fmt: skip
def test_native_equals_reference_bit_for_bit(seed, shape, coarse, rule):
    arguments = make_candidates(seed, *shape, coarse=coarse)
    extra = {"shift": torch.randn(shape[2]), "scale": torch.rand(shape[2])} if seed % 2 else {}
    assert_same_bits(
        select(*arguments, **rule, **extra, implementation="reference"),
        select(*arguments, **rule, **extra),
    )


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(
        st.integers(0, 2), st.sampled_from([0, 1, 2, 15, 63, 64, 65, 130]), st.integers(0, 4)
    ),
    coarse=st.booleans(),
    rule=st.fixed_dictionaries({
        "seed": st.integers(-(2**63), 2**63 - 1),
        "temperature": st.sampled_from([0.0, 0.5]),
        "max_count": st.none() | st.integers(0, 140),
        "budget_tokens": st.none() | st.integers(0, 1500) | st.just(2**40),
    }),
)  # fmt: skip
def test_kernel_equals_reference_bit_for_bit(seed, shape, coarse, rule):
    arguments = make_candidates(seed, *shape, coarse=coarse)
    extra = {"shift": torch.randn(shape[2]), "scale": torch.rand(shape[2])} if seed % 2 else {}
    assert_same_bits(
        select(*arguments, **rule, **extra, implementation="reference"),
        select(*arguments, **rule, **extra, implementation="triton"),
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_scores_follow_their_definition(implementation):
    votes, theta, lengths, ids = make_candidates(3, absent=False)
    shift, scale = torch.tensor([0.1, -2.0, 0.0]), torch.tensor([3.0, 0.5, 1.0])
    selection = select(
        votes, theta, lengths, ids, shift=shift, scale=scale, seed=5, temperature=0.25,
        implementation=implementation,
    )  # fmt: skip
    exact = ((votes.double() - shift.double()) * scale.double() * theta.double()).sum(-1)
    exact += 0.25 * gumbel(hash_ids(ids, 5)).double()
    naive = ((votes - shift) * scale * theta).sum(-1) + 0.25 * gumbel(hash_ids(ids, 5))
    bound = 2 * (naive - exact).abs().max() + 4 * exact.abs().max() * 2.0**-23
    assert float((selection.scores - exact).abs().max()) <= float(bound)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), candidates=st.sampled_from([1, 2, 17, 65]), coarse=st.booleans())
def test_order_is_score_then_tie_then_id(implementation, seed, candidates, coarse):
    votes, theta, lengths, ids = make_candidates(seed, 2, candidates, coarse=coarse)
    selection = select(votes, theta, lengths, ids, seed=seed, implementation=implementation)
    for row in range(2):
        wanted = plain_order(selection.scores[row], lengths[row], ids[row], seed)
        assert selection.order[row].tolist() == wanted


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), candidates=st.sampled_from([1, 5, 64, 70]), k=st.integers(0, 80))
def test_exactly_k_are_kept_under_ties(implementation, seed, candidates, k):
    _, theta, lengths, ids = make_candidates(seed, 2, candidates)
    votes = torch.zeros(2, candidates, 3)
    selection = select(
        votes, theta, lengths, ids, seed=seed, max_count=k, implementation=implementation
    )
    present = (lengths >= 0).sum(1)
    assert selection.num_kept.tolist() == present.clamp(max=k).tolist()
    for row in range(2):
        assert sorted(selection.order[row].tolist()) == list(range(candidates))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31), candidates=st.sampled_from([1, 9, 65]), budget=st.integers(0, 600)
)
def test_kept_is_the_longest_prefix_within_the_budget(implementation, seed, candidates, budget):
    votes, theta, lengths, ids = make_candidates(seed, 1, candidates)
    selection = select(
        votes, theta, lengths, ids, seed=seed, temperature=1.0, budget_tokens=budget,
        implementation=implementation,
    )  # fmt: skip
    ordered = lengths[0, selection.order[0].long()].tolist()
    kept = int(selection.num_kept[0])
    assert sum(ordered[:kept]) <= budget and all(length >= 0 for length in ordered[:kept])
    next_fits = kept < candidates and ordered[kept] >= 0 and sum(ordered[: kept + 1]) <= budget
    assert not next_fits


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31), coarse=st.booleans(), temperature=st.sampled_from([0.0, 1.0]))
def test_order_of_candidates_does_not_matter(implementation, seed, coarse, temperature):
    votes, theta, lengths, ids = make_candidates(seed, 1, 66, coarse=coarse)
    shuffle = torch.randperm(66, generator=torch.Generator().manual_seed(seed))
    options = {
        "seed": 4, "temperature": temperature, "max_count": 40, "budget_tokens": 300,
        "implementation": implementation,
    }  # fmt: skip
    straight = select(votes, theta, lengths, ids, **options)
    mixed_ids = ids[:, shuffle].contiguous()
    mixed = select(
        votes[:, shuffle].contiguous(),
        theta,
        lengths[:, shuffle].contiguous(),
        mixed_ids,
        **options,
    )
    assert kept_ids(straight, ids) == kept_ids(mixed, mixed_ids)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_do_not_see_each_other(implementation):
    votes, theta, lengths, ids = make_candidates(8, rows=4, candidates=20)
    options = {"seed": 1, "temperature": 1.0, "max_count": 7, "implementation": implementation}
    together = select(votes, theta, lengths, ids, **options)
    for row in range(4):
        part = slice(row, row + 1)
        alone = select(votes[part], theta, lengths[part], ids[part], **options)
        assert torch.equal(alone.order[0], together.order[row])
        assert alone.num_kept[0] == together.num_kept[row]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_temperature_zero_is_plain_top_k(implementation):
    votes, theta, lengths, ids = make_candidates(21, rows=1, candidates=50, absent=False)
    selection = select(
        votes, theta, lengths, ids, seed=1, max_count=8, implementation=implementation
    )
    top = selection.scores[0].topk(8).indices
    assert selection.order[0, :8].tolist() == top.tolist()
    assert int(selection.num_kept[0]) == 8


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_seed_decides_the_noise(implementation):
    votes, theta, lengths, ids = make_candidates(2, rows=1, candidates=60)

    def run(seed):
        return select(
            votes, theta, lengths, ids, seed=seed, temperature=2.0, implementation=implementation
        )

    assert_same_bits(run(3), run(3))
    assert run(3).order.tolist() != run(4).order.tolist()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_seed_decides_ties(implementation):
    _, theta, lengths, ids = make_candidates(2, rows=1, candidates=40, absent=False)
    votes = torch.ones(1, 40, 3)
    orders = {
        tuple(
            select(votes, theta, lengths, ids, seed=seed, implementation=implementation)
            .order[0].tolist()
        )
        for seed in range(3)
    }  # fmt: skip
    assert len(orders) == 3


def test_kept_shares_follow_the_softmax():
    """Gumbel top-1 at temperature 1 draws candidate c with probability softmax(score)_c."""
    draws, scores = 20_000, torch.tensor([0.0, 1.0, 2.0])
    votes = scores.view(1, 3, 1).repeat(draws, 1, 1)
    lengths = torch.ones(draws, 3, dtype=torch.int32)
    ids = torch.arange(3 * draws).view(draws, 3)
    selection = select(votes, torch.ones(1), lengths, ids, seed=9, temperature=1.0, max_count=1)
    share = torch.bincount(selection.order[:, 0], minlength=3) / draws
    assert float((share - torch.softmax(scores, 0)).abs().max()) < 4 * 0.5 / math.sqrt(draws)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_absent_candidates_are_last_and_may_hold_garbage(implementation):
    votes, theta, _, ids = make_candidates(0, rows=1, candidates=5)
    votes[0, 1], votes[0, 3] = math.nan, math.inf
    lengths = torch.tensor([[4, -1, 0, -7, 2]], dtype=torch.int32)
    selection = select(votes, theta, lengths, ids, seed=0, implementation=implementation)
    assert selection.order[0, 3:].tolist() == [1, 3] and int(selection.num_kept[0]) == 3
    assert selection.scores[0, [1, 3]].tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("implementation", ["native", "triton"])
def test_every_output_is_written(poisoned_empty, implementation):
    votes, theta, lengths, ids = make_candidates(4, rows=3, candidates=70)
    selection = select(votes, theta, lengths, ids, seed=0, implementation=implementation)
    assert not torch.isnan(selection.scores).any()
    assert torch.equal(
        selection.order.sort(1).values, torch.arange(70, dtype=torch.int32).expand(3, 70)
    )
    assert torch.equal(selection.num_kept, (lengths >= 0).sum(1).to(torch.int32))
    for quotas in (None, make_quotas(4, 3, 70)):
        kept = select(
            votes, theta, lengths, ids, max_count=20, full_order=False, quotas=quotas,
            implementation=implementation,
        )  # fmt: skip
        assert not torch.isnan(kept.scores).any() and int(kept.order.max()) < 70
        assert int(kept.num_kept.max()) <= 20


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("implementation", ["native", "triton"])
def test_score_that_overflows_is_refused_and_ranked_last(poisoned_empty, implementation):
    """inf - inf: the score is NaN though every vote is finite; CUDA calls do not look at it."""
    votes = torch.tensor([[[3e38, 3e38], [1.0, 1.0], [2.0, 1.0]]])
    theta = torch.tensor([10.0, -10.0])
    lengths, ids = torch.ones(1, 3, dtype=torch.int32), torch.arange(3).view(1, 3)
    with pytest.raises(ValueError, match="overflow float32"):
        select(votes, theta, lengths, ids, implementation=implementation)
    candidates = Candidates(votes, theta, lengths, ids, torch.zeros(2), torch.ones(2))
    run = {"native": select_native, "triton": import_kernel()}[implementation]
    assert run(candidates, None, Rule(0, 0.0, NO_LIMIT, NO_LIMIT))[0].tolist() == [[2, 1, 0]]
    assert run(candidates, None, Rule(0, 0.0, 2, NO_LIMIT, False))[0].tolist() == [[1, 2, 0]]


def import_kernel():
    """The launcher, imported late as the public function does."""
    from moot.triton_kernels.select.kernel import select_fwd

    return select_fwd


def make_quotas(seed, rows, candidates, groups=3, *, counted=True, budgeted=True):
    """Groups, some of them without a quota, and limits that bind."""
    generator = torch.Generator().manual_seed(seed)
    limits = torch.randint(0, max(candidates, 1), (2, rows, groups), generator=generator)
    return Quotas(
        torch.randint(-1, groups, (rows, candidates), generator=generator).to(torch.int32),
        limits[0] // 2 if counted else None,
        limits[1] * 5 if budgeted else None,
    )


def plain_selection(selection, lengths, ids, seed, quotas, limits, row):
    """Order and number of kept ones of a row by Python lists; scores are taken as given."""
    order = plain_order(selection.scores[row], lengths[row], ids[row], seed)
    tie = hash_ids(ids[row], seed).tolist()
    order = [c for c in order if lengths[row, c] >= 0]
    absent = [c for c in range(len(tie)) if lengths[row, c] < 0]
    used, inside, over = {}, [], []
    for c in order:
        group = int(quotas.groups[row, c]) if quotas else -1
        if group < 0:
            inside.append(c)
            continue
        count, tokens = used.get(group, (0, 0))
        used[group] = (count + 1, tokens + int(lengths[row, c]))
        fits = quotas.max_count is None or used[group][0] <= quotas.max_count[row, group]
        budget = quotas.budget_tokens
        fits = fits and (budget is None or used[group][1] <= budget[row, group])
        (inside if fits else over).append(c)
    over.sort(key=lambda c: (tie[c], int(ids[row, c]), c))
    kept, tokens = 0, 0
    for c in inside:
        tokens += int(lengths[row, c])
        if kept >= limits["max_count"] or tokens > limits["budget_tokens"]:
            break
        kept += 1
    return inside, over + absent, kept


QUOTA_CASES = st.fixed_dictionaries({
    "seed": st.integers(0, 2**31),
    "shape": st.tuples(st.integers(1, 2), st.sampled_from([1, 2, 9, 65, 130])),
    "coarse": st.booleans(),
    "full_order": st.booleans(),
    "counted": st.booleans(),
    "budgeted": st.booleans(),
    "max_count": st.integers(0, 140),
    "budget_tokens": st.integers(0, 1500),
})  # fmt: skip


def check_against_lists(case, implementation):
    seed, (rows, num), full_order = case["seed"], case["shape"], case["full_order"]
    votes, theta, lengths, ids = make_candidates(seed, rows, num, coarse=case["coarse"])
    if seed % 3 == 0:
        ids = ids % 4  # equal ids fall by position
    quotas = None
    if case["counted"] or case["budgeted"]:
        quotas = make_quotas(
            seed, rows, num, counted=case["counted"], budgeted=case["budgeted"]
        )  # fmt: skip
    limits = {name: case[name] for name in ("max_count", "budget_tokens")}
    selection = select(
        votes, theta, lengths, ids, seed=seed, quotas=quotas, full_order=full_order, **limits,
        implementation=implementation,
    )  # fmt: skip
    for row in range(rows):
        inside, rest, kept = plain_selection(selection, lengths, ids, seed, quotas, limits, row)
        assert int(selection.num_kept[row]) == kept
        wanted = inside + rest
        if not full_order:
            wanted = sorted(inside[:kept]) + inside[kept : kept + 1]
            wanted += [-1] * (num - len(wanted))
        assert selection.order[row].tolist() == wanted


@pytest.mark.parametrize("implementation", ["reference", "native"])
@settings(max_examples=60, deadline=None)
@given(case=QUOTA_CASES)
def test_quotas_and_kept_are_what_python_lists_give(implementation, case):
    check_against_lists(case, implementation)


@settings(max_examples=10, deadline=None)
@given(case=QUOTA_CASES)
def test_kernels_give_what_python_lists_give(case):
    check_against_lists(case, "triton")


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("full_order", [False, True])
@pytest.mark.parametrize("quotas", [False, True])
@pytest.mark.parametrize("candidates", [1100, 20_000])
def test_long_rows_by_native_equal_reference(candidates, quotas, full_order, coarse):
    """Beyond the comparison sort: radix passes, and ties of all scores at once."""
    votes, theta, lengths, ids = make_candidates(candidates, 2, candidates, coarse=coarse)
    if candidates == 1100:
        votes = torch.zeros_like(votes)
    options = {
        "seed": 5, "temperature": 0.0 if coarse else 0.5, "budget_tokens": candidates * 3,
        "full_order": full_order, "quotas": make_quotas(1, 2, candidates) if quotas else None,
    }  # fmt: skip
    assert_same_bits(
        select(votes, theta, lengths, ids, **options, implementation="reference"),
        select(votes, theta, lengths, ids, **options),
    )


@pytest.mark.parametrize("full_order", [False, True])
def test_rows_of_many_tiles_by_kernel_equal_native(full_order):
    """The interpreter's tiles hold 32 candidates: here are four and a part of a fifth."""
    votes, theta, lengths, ids = make_candidates(3, 1, 150, coarse=True)
    for quotas in (None, make_quotas(2, 1, 150)):
        options = {"seed": 9, "budget_tokens": 450, "full_order": full_order, "quotas": quotas}
        assert_same_bits(
            select(votes, theta, lengths, ids, **options),
            select(votes, theta, lengths, ids, **options, implementation="triton"),
        )


def test_one_launch_names_what_is_kept_of_a_long_row(monkeypatch):
    from moot.triton_kernels.select import kernel

    shapes = dataclasses.replace(kernel.SHAPES[0], most_kept=1024)
    monkeypatch.setitem(kernel.SHAPES, 0, shapes)
    for coarse, temperature in ((True, 0.0), (False, 0.5)):
        candidates = make_candidates(3, 2, 700, coarse=coarse)
        for budget in (0, 2000, 1 << 40):
            options = {"temperature": temperature, "budget_tokens": budget, "full_order": False}
            assert_same_bits(
                select(*candidates, **options),
                select(*candidates, **options, implementation="triton"),
            )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_zeros_of_both_signs_tie(implementation):
    votes = torch.tensor([0.0, -0.0] * 20).view(1, 40, 1)
    theta, lengths = torch.tensor([-1.0]), torch.ones(1, 40, dtype=torch.int32)
    ids = torch.arange(40).view(1, 40)
    selection = select(votes, theta, lengths, ids, seed=3, implementation=implementation)
    tie = hash_ids(ids[0], 3).tolist()
    assert selection.order[0].tolist() == sorted(range(40), key=lambda c: tie[c])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_op_is_registered_whole(implementation):
    candidates = make_candidates(0, 2, 9, absent=False)
    quotas = make_quotas(0, 2, 9)
    flat = (quotas.groups, quotas.max_count, quotas.budget_tokens)
    for groups in (flat, (None, None, None)):
        arguments = (*candidates, torch.zeros(3), torch.ones(3), *groups, 7, 0.5, 5, 60, True)
        torch.library.opcheck(torch.ops.moot.select.default, (*arguments, implementation))


def test_compiled_call_is_the_eager_one():
    candidates = make_candidates(0, 2, 9, absent=False)

    def keep(*candidates):
        selection = select(*candidates, seed=3, temperature=0.5, max_count=4, full_order=False)
        return selection.order + 1, selection.num_kept, selection.scores

    compiled = torch.compile(keep, backend="eager", fullgraph=True)
    for left, right in zip(compiled(*candidates), keep(*candidates), strict=True):
        assert torch.equal(left, right)


def with_vote(value):
    votes = make_candidates(0, absent=False)[0]
    votes[1, 4, 2] = value
    return {"votes": votes}


REFUSALS = {
    "nan vote": (with_vote(math.nan), r"votes\[1, 4, 2\] is nan"),
    "infinite vote": (with_vote(math.inf), r"votes\[1, 4, 2\] is inf"),
    "minus infinite vote": (with_vote(-math.inf), r"votes\[1, 4, 2\] is -inf"),
    "nan theta": ({"theta": torch.tensor([1.0, math.nan, 1.0])}, "theta is"),
    "infinite scale": ({"scale": torch.tensor([1.0, math.inf, 1.0])}, "scale is"),
    "votes shape": ({"votes": torch.zeros(2, 9)}, "votes is"),
    "theta shape": ({"theta": torch.zeros(2)}, "theta is"),
    "theta type": ({"theta": [1.0]}, "theta is a list"),
    "lengths dtype": ({"lengths": torch.zeros(2, 9, dtype=torch.int64)}, "lengths is"),
    "ids shape": ({"ids": torch.zeros(2, 8, dtype=torch.int64)}, "ids is"),
    "strided votes": ({"votes": torch.zeros(2, 3, 9).transpose(1, 2)}, "not contiguous"),
    "negative count": ({"max_count": -1}, "max_count is -1"),
    "negative budget": ({"budget_tokens": -1}, "budget_tokens is -1"),
    "negative temperature": ({"temperature": -0.5}, "temperature is"),
    "nan temperature": ({"temperature": math.nan}, "temperature is"),
    "wide seed": ({"seed": 1 << 63}, "seed is"),
    "quotas of other rows": (
        {"quotas": Quotas(torch.zeros(3, 9, dtype=torch.int32), torch.ones(3, 2).long())},
        "groups is",
    ),
    "group too high": (
        {"quotas": Quotas(torch.full((2, 9), 2, dtype=torch.int32), torch.ones(2, 2).long())},
        r"groups\[0, 0\] is 2",
    ),
    "negative quota": (
        {"quotas": Quotas(torch.zeros(2, 9, dtype=torch.int32), -torch.ones(2, 2).long())},
        "limit is -1",
    ),
    "unknown implementation": ({"implementation": "cuda"}, "choose one of"),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", REFUSALS)
def test_bad_arguments_are_refused(name, implementation):
    changes, message = REFUSALS[name]
    votes, theta, lengths, ids = make_candidates(0, absent=False)
    good = {"votes": votes, "theta": theta, "lengths": lengths, "ids": ids}
    with pytest.raises(ValueError, match=message):
        select(**(good | {"implementation": implementation} | changes))


def test_quotas_without_a_limit_are_refused():
    with pytest.raises(ValueError, match="without a limit"):
        Quotas(torch.zeros(1, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match="max_count is"):
        Quotas(torch.zeros(1, 2, dtype=torch.int32), torch.ones(1, 2))

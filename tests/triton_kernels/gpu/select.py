# SPDX-License-Identifier: Apache-2.0
"""select on CUDA gives the bits of the native routine: one launch, two levels, quotas."""

import test_select as selecting
from moot.triton_kernels import Selection, select
from on_gpu import to_cuda, without_waiting

SIZES = (1, 200, 8192, 30_000)
"""Candidates a row; the last two take different launches."""


def on_cpu(result):
    return Selection(**{name: value.cpu() for name, value in vars(result).items()})


def check_one(seed, candidates, full_order, quotas):
    arguments = selecting.make_candidates(seed, 3, candidates, coarse=seed % 2 == 0)
    rule = {"seed": seed, "temperature": seed % 3 / 2, "max_count": candidates // 2}
    rule |= {"budget_tokens": 3 * candidates, "full_order": full_order}
    native = select(*arguments, quotas=quotas, **rule)
    inputs = [to_cuda(value) for value in arguments]
    limits = to_cuda(quotas)
    for result in without_waiting(lambda: select(*inputs, quotas=limits, **rule)):
        selecting.assert_same_bits(native, on_cpu(result))


def check():
    for seed in range(4):
        for candidates in SIZES:
            for full_order in (True, False):
                quotas = selecting.make_quotas(seed, 3, candidates) if seed % 2 else None
                check_one(seed, candidates, full_order, quotas)

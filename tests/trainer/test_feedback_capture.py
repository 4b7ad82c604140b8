# SPDX-License-Identifier: Apache-2.0
"""The capture by itself: against per-sample autograd, what it keeps, what it refuses by name."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from moot.trainer.feedback import GhostCapture
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

VOCAB, DIM, HEADS, ROWS, LENGTH = 11, 6, 3, 3, 5
CU_ROWS = torch.arange(ROWS + 1) * LENGTH


class Mixer(nn.Module):
    """Norm and two linears on a residual path; tokens see those before them in their row."""

    def __init__(self, bias=True):
        super().__init__()
        self.norm = nn.LayerNorm(DIM, bias=bias)
        self.up = nn.Linear(DIM, 2 * DIM, bias=bias)
        self.down = nn.Linear(2 * DIM, DIM, bias=bias)

    def forward(self, x):
        mixed = self.norm(x).cumsum(1) / LENGTH
        return x + self.down(F.relu_(self.up(mixed)))  # in place, behind a hook


class Toy(nn.Module):
    """Every supported layer, norms over heads, and a head that may share the embedding's matrix."""

    def __init__(self, tied=True, bias=True, padding_idx=None):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, DIM, padding_idx=padding_idx)
        self.blocks = nn.ModuleList(Mixer(bias) for _ in range(2))
        self.head_norm = nn.RMSNorm(DIM // HEADS)
        self.plain_norm = nn.LayerNorm(DIM, elementwise_affine=False)
        self.head = nn.Linear(DIM, VOCAB, bias=bias)
        if tied:
            self.head.weight = self.embedding.weight
        self.run = lambda block, x: block(x)

    def forward(self, ids):
        x = self.embedding(ids)
        x = self.head_norm(x.unflatten(-1, (HEADS, -1))).flatten(-2)
        for block in self.blocks:
            x = self.run(block, x)
        return self.head(self.plain_norm(x).flatten(0, 1)).unflatten(0, ids.shape)


def make(model=None, **settings):
    """Return a model, its random parameters, random directions and token ids, in fp64."""
    torch.manual_seed(0)
    model = (Toy(**settings) if model is None else model).double()
    directions = {}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
            if parameter.requires_grad:
                directions[parameter] = torch.randn_like(parameter)
    return model, directions, torch.randint(VOCAB, (ROWS, LENGTH))


def summed_loss(model, ids):
    logits = model(ids)[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")


def expected_influence(model, directions, ids):
    """<G, g_x> of each row, its gradient from autograd."""
    found = []
    for row in ids:
        gradients = torch.autograd.grad(
            summed_loss(model, row[None]), list(directions), allow_unused=True
        )
        pairs = zip(gradients, directions.values(), strict=True)
        found.append(sum(float((g * d).sum()) for g, d in pairs if g is not None))
    return torch.tensor(found, dtype=torch.float64)


def captured_influence(model, directions, ids):
    with GhostCapture(model, directions).measure(tuple(ids.shape)) as influence:
        summed_loss(model, ids).backward()
    return influence.documents(torch.arange(len(ids) + 1) * ids.shape[1])


def assert_right(model, directions, ids, run=None):
    """Compare with autograd, which runs the model as `run` had it before."""
    expected = expected_influence(model, directions, ids)
    if run is not None:
        model.run = run
    got = captured_influence(model, directions, ids)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in directions)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("padding_idx", [None, 4], ids=["dense", "padded"])
def test_influence_equals_per_sample_autograd(tied, bias, padding_idx):
    model, directions, ids = make(tied=tied, bias=bias, padding_idx=padding_idx)
    ids[0, 1] = ids[2, 3] = 4
    assert_right(model, directions, ids)


def test_a_row_of_the_padding_token_gets_nothing_from_a_tied_embedding():
    model, directions, ids = make(padding_idx=4)
    for parameter, direction in directions.items():
        if parameter is not model.embedding.weight:
            direction.zero_()
    ids[:] = 4
    assert_right(model, directions, ids)


def test_tokens_and_layers_add_up_to_documents():
    model, directions, ids = make()
    with GhostCapture(model, directions).measure(tuple(ids.shape)) as influence:
        summed_loss(model, ids).backward()
    assert influence.layers().shape == (9, ROWS, LENGTH)
    torch.testing.assert_close(influence.layers().sum(0), influence.tokens())
    torch.testing.assert_close(influence.documents(CU_ROWS), influence.tokens().sum(1))


def test_a_matrix_shared_by_two_linears_counts_for_both():
    model = Toy()
    model.blocks[1].up.weight = model.blocks[0].up.weight
    assert_right(*make(model))


def test_a_part_of_the_parameters_takes_part():
    model, directions, ids = make(tied=False)
    for name in ("embedding.weight", "blocks.0.up.weight", "blocks.1.norm.bias"):
        model.get_parameter(name).requires_grad_(False)
    directions = {p: d for p, d in directions.items() if p.requires_grad}
    assert_right(model, directions, ids)
    assert not model.embedding.weight.requires_grad


def checkpointed(reentrant):
    return lambda block, x: checkpoint(block, x, use_reentrant=reentrant)


def nested(outer, inner):
    """A checkpoint around a checkpoint, of either kind."""

    def run(block, x):
        return checkpoint(
            lambda y: checkpoint(block, y, use_reentrant=inner), x, use_reentrant=outer
        )

    return run


@pytest.mark.parametrize("reentrant", [False, True], ids=["non_reentrant", "reentrant"])
def test_checkpoints_are_captured_once(reentrant):
    model, directions, ids = make()
    assert_right(model, directions, ids, checkpointed(reentrant))


@pytest.mark.parametrize("outer", [False, True], ids=["in_non_reentrant", "in_reentrant"])
@pytest.mark.parametrize("inner", [False, True], ids=["non_reentrant", "reentrant"])
def test_nested_checkpoints_are_captured_once(outer, inner):
    model, directions, ids = make()
    assert_right(model, directions, ids, nested(outer, inner))


def test_a_checkpoint_still_saves_memory_under_the_capture():
    model, directions, ids = make()
    storages = []
    handle = model.blocks[0].down.register_forward_hook(
        lambda module, args, output: storages.append(weakref.ref(args[0].untyped_storage()))
    )
    capture = GhostCapture(model, directions)
    for run, is_kept in ((model.run, True), (checkpointed(False), False)):
        model.run = run
        storages.clear()
        with capture.measure(tuple(ids.shape)):
            loss = summed_loss(model, ids)
            assert (storages[0]() is not None) == is_kept
            loss.backward()
    handle.remove()


def test_the_first_trainable_layer_may_stand_inside_a_checkpoint():
    model, directions, ids = make(tied=False)
    model.embedding.requires_grad_(False)
    model.head_norm.requires_grad_(False)
    directions = {p: d for p, d in directions.items() if p.requires_grad}
    assert_right(model, directions, ids, checkpointed(False))
    model.run = checkpointed(True)
    with (
        pytest.warns(UserWarning, match="requires_grad=True"),
        pytest.raises(RuntimeError, match=r"blocks\.0\.norm runs with gradients off"),
    ):
        captured_influence(model, directions, ids)


def test_compiled_parts_run_uncompiled_and_are_seen():
    model, directions, ids = make()
    compiled = torch.compile(model.blocks[1], backend="eager")
    parts = {model.blocks[0]: model.blocks[0], model.blocks[1]: compiled}
    model.run = lambda block, x: parts[block](x)
    summed_loss(model, ids)  # compiled before any hook stands
    assert_right(model, directions, ids)


def test_bf16_autocast_follows_fp64():
    model, directions, _ = make()
    ids = torch.randint(VOCAB, (40, LENGTH))
    expected = expected_influence(model, directions, ids)
    model.float()
    directions = {p: d.float() for p, d in directions.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = captured_influence(model, directions, ids)
    assert float(torch.corrcoef(torch.stack((got, expected)))[0, 1]) > 0.99


class Formed(TorchDispatchMode):
    """Notes every new tensor of one of the given shapes, whatever op makes it."""

    def __init__(self, parameters, given):
        super().__init__()
        self.shapes = {tuple(p.shape) for p in parameters if p.dim() == 2}
        self.shapes |= {shape[::-1] for shape in self.shapes}
        self.given = {t.untyped_storage().data_ptr() for t in (*parameters, *given)}
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            is_new = torch.is_tensor(tensor) and tuple(tensor.shape) in self.shapes
            if is_new and tensor.untyped_storage().data_ptr() not in self.given:
                self.found.append((str(func), tuple(tensor.shape)))
        return out


def test_no_weight_gradient_is_formed():
    model, directions, ids = make()
    with (
        GhostCapture(model, directions).measure(tuple(ids.shape)),
        Formed(list(directions), directions.values()) as formed,
    ):
        summed_loss(model, ids).backward()
    assert formed.found == []
    assert all(p.grad is None for p in model.parameters())
    with Formed(list(directions), directions.values()) as formed:
        summed_loss(model, ids).backward()
    assert len(formed.found) >= 6, "what training forms is seen"


def test_gradients_being_accumulated_are_left_alone():
    model, directions, ids = make()
    summed_loss(model, ids).backward()
    before = [(id(p.grad), p.grad.clone()) for p in model.parameters()]
    captured_influence(model, directions, ids)
    for parameter, (identity, value) in zip(model.parameters(), before, strict=True):
        assert id(parameter.grad) == identity
        assert torch.equal(parameter.grad, value)


def test_inputs_are_let_go_as_the_backward_pass_leaves_their_layer():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(VOCAB, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, VOCAB)
    )
    directions = {p: torch.randn_like(p) for p in model.parameters()}
    storages, kept = [], []

    def look(module, args, output):
        storages.append(weakref.ref(output.untyped_storage()))
        output.register_hook(lambda grad: kept.append([s() is not None for s in storages]))

    with GhostCapture(model, directions).measure((ROWS, LENGTH)):
        handles = [layer.register_forward_hook(look) for layer in model]
        loss = summed_loss(model, torch.randint(VOCAB, (ROWS, LENGTH)))
        assert [s() is not None for s in storages[:3]] == [True] * 3, "inputs wait for gradients"
        loss.backward()
    for handle in handles:
        handle.remove()
    # When the gradient of a layer's output comes, that output has served as an input and is gone.
    by_layer = kept[::-1]
    assert [by_layer[i][i] for i in range(3)] == [False] * 3
    assert by_layer[2][0], "while inputs of layers further back are still there"


def test_an_input_written_to_after_its_layer_is_refused_by_autograd():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.up = nn.Embedding(VOCAB, DIM), nn.Linear(DIM, DIM)
            self.head = nn.Linear(DIM, VOCAB)

        def forward(self, ids):
            x = self.embedding(ids)
            y = self.up(x)
            return self.head(x.add_(1) + y)

    model, directions, ids = make(Writing())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        captured_influence(model, directions, ids)


class WithPart(nn.Module):
    """A model with one more part."""

    def __init__(self, part):
        super().__init__()
        self.embedding, self.part = nn.Embedding(VOCAB, DIM), part


class OwnNorm(nn.RMSNorm):
    pass


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(DIM))


def with_extra_parameter():
    layer = nn.Linear(DIM, DIM)
    layer.gate = nn.Parameter(torch.ones(DIM))
    return layer


REFUSED = {
    "Conv1d": lambda: nn.Conv1d(DIM, DIM, 1),
    "GroupNorm": lambda: nn.GroupNorm(2, DIM),
    "BatchNorm1d": lambda: nn.BatchNorm1d(DIM),
    "OwnNorm": lambda: OwnNorm(DIM),
    "Gain": Gain,
    "EmbeddingBag": lambda: nn.EmbeddingBag(VOCAB, DIM),
    "Bilinear": lambda: nn.Bilinear(DIM, DIM, DIM),
    "MultiheadAttention": lambda: nn.MultiheadAttention(DIM, 2),
    "GRU": lambda: nn.GRU(DIM, DIM),
    "PReLU": nn.PReLU,
    "ParametrizedLinear": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(DIM, DIM)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_layers_without_a_ghost_form_are_refused_by_name(kind):
    model = WithPart(REFUSED[kind]())
    with pytest.raises(TypeError, match=rf"no ghost form for {kind} \(part"):
        GhostCapture(model, {})
    model.part.requires_grad_(False)
    GhostCapture(model, {})


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        (with_extra_parameter(), TypeError, "parameters gate of 'part'"),
        (nn.LayerNorm((2, DIM)), ValueError, "'part', which normalises over 2 axes"),
        (nn.RMSNorm((2, DIM)), ValueError, "'part', which normalises over 2 axes"),
        (nn.Embedding(4, DIM, sparse=True), ValueError, "embedding 'part' with sparse"),
        (nn.Embedding(4, DIM, max_norm=1.0), ValueError, "embedding 'part' with sparse"),
        (nn.DataParallel(nn.Linear(DIM, DIM)), TypeError, r"DataParallel \(part\)"),
    ],
)
def test_settings_without_a_ghost_form_are_refused_by_name(part, error, message):
    with pytest.raises(error, match=message):
        GhostCapture(WithPart(part), {})


class Laid(nn.Module):
    """A linear layer that sees its tokens in another order."""

    def __init__(self, there, back):
        super().__init__()
        self.embedding, self.inner = nn.Embedding(VOCAB, DIM), nn.Linear(DIM, DIM)
        self.head = nn.Linear(DIM, VOCAB)
        self.there, self.back = there, back

    def forward(self, ids):
        return self.head(self.back(self.inner(self.there(self.embedding(ids)))))


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (lambda x: x.transpose(0, 1), lambda x: x.transpose(0, 1)),
        (lambda x: x[:, :-1], lambda x: F.pad(x, (0, 0, 0, 1))),
        (lambda x: x[:1].expand(2, -1, -1), lambda x: x[:1].expand(ROWS, -1, -1)),
        # As many heads as tokens: [B, heads, L, D] may not pass for [B, L, heads, D].
        (lambda x: x[:, None].expand(-1, LENGTH, -1, -1), lambda x: x.sum(1)),
    ],
    ids=["sequence_first", "cut", "other_rows", "heads_first"],
)
def test_layouts_that_are_not_by_token_are_refused(there, back):
    model, directions, ids = make(Laid(there, back))
    with pytest.raises(RuntimeError, match="inner sees inputs of shape"):
        captured_influence(model, directions, ids)


def test_no_grad_inside_the_model_is_refused_by_name():
    model, directions, ids = make()
    model.run = lambda block, x: torch.no_grad()(block)(x)
    with pytest.raises(RuntimeError, match=r"blocks\.0\.norm runs with gradients off"):
        captured_influence(model, directions, ids)


def test_misuse_says_what_to_do():
    model, directions, ids = make()
    capture = GhostCapture(model, directions)
    with capture.measure(tuple(ids.shape)) as influence:
        pass
    with pytest.raises(RuntimeError, match="run the backward pass of a summed loss inside"):
        influence.tokens()
    with capture.measure(tuple(ids.shape)):
        with pytest.raises(RuntimeError, match="measured already"), capture.measure((1, 1)):
            pass
        loss = summed_loss(model, ids)
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="the second of its graph"):
            loss.backward()
    with pytest.raises(ValueError, match="belongs to no parameter"):
        GhostCapture(model, {nn.Parameter(torch.ones(2)): torch.ones(2)})
    with pytest.raises(ValueError, match="direction of head.bias has shape"):
        GhostCapture(model, {model.head.bias: torch.ones(2)})


def test_a_failing_pass_leaves_no_hook_and_no_flag():
    model, directions, ids = make()
    capture = GhostCapture(model, directions)
    with pytest.raises(ArithmeticError), capture.measure(tuple(ids.shape)):
        model(ids)
        raise ArithmeticError
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert_right(model, directions, ids)

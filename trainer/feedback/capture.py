# SPDX-License-Identifier: Apache-2.0
"""Ghost capture: one forward and backward pass, every token's share of <G, gradient>.

Hooks see each layer's input a_t and, in the backward pass, its output gradient b_t; the layer's
share b_t . (G a_t) is computed there and then and the input let go, so that one number a token
and layer is all that stays. Parameters do not require gradients meanwhile: none is formed.

Inputs are kept as autograd keeps its own. So activation checkpointing recomputes them, hooks that
offload saved tensors move them, and an input that was written to in the meantime raises.
Checkpointing may be reentrant or not; compiled parts run uncompiled inside.
Source: docs/feedback.md, docs/ops/ghost_influence.md. Shapes: B rows, L positions, T = B * L.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...triton_kernels.ghost_influence import document_sums
from ..cross_entropy import loss_and_gradient
from ..model import autocast
from ..rows import Rows
from .layers import check_layout, check_supported, token_shares
from .scratch import Scratch
from .sharding import reshard, unwrapped, whole

Directions = Mapping[nn.Parameter, Tensor]


class Influence:
    """What one forward and backward pass measured."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        """[B, L] of the batch."""
        self._anchor = torch.zeros((), requires_grad=True)
        self._shares: list[Tensor | None] = []
        self._unseen: Counter[str] = Counter()

    def layers(self) -> Tensor:
        """Return the share of every layer call, [calls, B, L] float64.

        Raises:
            RuntimeError: no backward pass was run.
        """
        reached = [share for share in self._shares if share is not None]
        if not reached:
            raise RuntimeError(
                "no gradient has reached a layer: run the backward pass of a summed loss inside "
                "`with capture.measure(...)`, and read the influence after it"
            )
        zero = torch.zeros_like(reached[0])
        shares = [zero if share is None else share for share in self._shares]
        return torch.stack(shares).view(-1, *self.shape)

    def tokens(self) -> Tensor:
        """Return every token's share of <G, gradient>, [B, L] float64."""
        return self.layers().sum(0)

    def documents(self, cu_seqlens: Tensor) -> Tensor:
        """Return <G, g_x> of every document x, g_x the gradient of its summed loss.

        Args:
            cu_seqlens: [N + 1] int64, rising from 0 to B * L: document i holds the tokens
                [cu[i], cu[i + 1]) of the rows one behind the other; padding is a document too.

        Returns:
            [N] float64, added in a fixed order that its neighbours do not change.
        """
        return document_sums(self.layers().flatten(1), cu_seqlens)


class GhostCapture:
    """Measures influences along G; one pass at a time, not thread-safe.

    Args:
        model: built of Linear, Embedding, RMSNorm and LayerNorm as far as it trains; may be
            wrapped in DistributedDataParallel (call what it wraps then) or sharded by fully_shard.
        directions: G by parameter, each of the parameter's shape (a DTensor where that is one).
            Parameters that are not in it take no part.

    Raises:
        TypeError, ValueError: a layer, wrapper or direction that does not fit, by name.
    """

    def __init__(self, model: nn.Module, directions: Directions) -> None:
        self._model = unwrapped(model)
        reshard(self._model)
        check_supported(self._model)
        parameters = {p: name for name, p in self._model.named_parameters()}
        for parameter, direction in directions.items():
            if parameter not in parameters:
                raise ValueError(
                    f"a direction of shape {list(direction.shape)} belongs to no parameter of the "
                    "model; key them by the parameters themselves"
                )
            if direction.shape != parameter.shape:
                raise ValueError(
                    f"the direction of {parameters[parameter]} has shape {list(direction.shape)}, "
                    f"not the parameter's {list(parameter.shape)}"
                )
        self.directions = directions
        self.dtype = torch.float32
        """Of the logits of the last pass of `shares`."""
        self._now: Influence | None = None
        self._scratch = Scratch()

    @contextlib.contextmanager
    def measure(self, shape: tuple[int, int]) -> Iterator[Influence]:
        """Measure the one forward and backward pass that is run inside.

        Parameters require no gradient inside, and have their flags back after it, also when the
        pass fails; `.grad` is not written.

        Args:
            shape: B rows, L tokens each; (1, T) for packed tokens without rows.

        Yields:
            What is being measured, to be read after the backward pass.

        Raises:
            RuntimeError: a layer cannot be followed, by name; or a pass is being measured already.
        """
        if self._now is not None:
            raise RuntimeError("a pass is being measured already; finish it first")
        self._now = influence = Influence((shape[0], shape[1]))
        reshard(self._model)
        flags = [(p, p.requires_grad) for p in self._model.parameters()]
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, self, "_now", None)
            if "torch._dynamo" in sys.modules:
                # Code compiled without hooks would run on without them.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            for handle in self._hooks():
                stack.callback(handle.remove)
            for parameter, required_grad in flags:
                stack.callback(parameter.requires_grad_, required_grad)
                parameter.requires_grad_(False)
            stack.callback(reshard, self._model)
            yield influence
        unseen = [name for name, calls in influence._unseen.items() if calls > 0]
        if unseen:
            raise RuntimeError(
                f"{unseen[0]} runs with gradients off, so its output gradient cannot be seen; use "
                "no no_grad inside the model, and give a reentrant checkpoint an input that "
                "requires a gradient, or use_reentrant=False"
            )

    def shares(self, rows: Rows) -> Tensor:
        """Run one pass of the model on rows of documents and return every layer's shares.

        Args:
            rows: on the model's device.

        Returns:
            [layer calls, B, L] float64, in the order of the forward pass; zero at padding.

        Raises:
            RuntimeError: the model computes in a way hooks cannot follow; the message says how.
        """
        num_rows, row_tokens = rows.input_ids.shape
        with self.measure((num_rows, row_tokens)) as influence:
            with autocast(rows.input_ids.device):
                logits = self._model(rows.input_ids, rows.position_ids)
            self.dtype = logits.dtype
            gradient = self._scratch.like(logits)
            loss_and_gradient(logits, rows.labels, gradient)
            logits.backward(gradient)
        return influence.layers()

    def _hooks(self) -> Iterator[Any]:
        """Register a hook on every module with a direction; yield what removes it."""
        for name, module in self._model.named_modules():
            own = module.named_parameters(recurse=False)
            known = {key: self.directions[p] for key, p in own if p in self.directions}
            if known:
                hook = partial(self._on_forward, name, known)
                yield module.register_forward_hook(hook, with_kwargs=True)

    def _on_forward(
        self,
        name: str,
        known: dict[str, Tensor],
        module: nn.Module,
        args: tuple,
        kwargs: dict,
        output: Tensor,
    ) -> Tensor:
        """Keep a layer's input and wait for its output gradient."""
        influence = self._now
        assert influence is not None, "hooks stand only while a pass is measured"
        is_recomputing = torch._C._current_graph_task_id() != -1
        if not torch.is_grad_enabled():
            # The first run of a reentrant checkpoint, if its recomputation comes.
            influence._unseen[name] += not is_recomputing
            return output
        if not output.requires_grad:
            # The first trainable layers: with frozen parameters the graph has to begin here.
            output = _Begin.apply(influence._anchor, output)
        elif output._is_view():
            # Writing to a view in place, as relu_ does, leads the gradient past its hooks.
            output = torch.ops.aten._unsafe_view(output, output.shape)
        source = args[0] if args else kwargs["input"]
        # Also when a checkpoint recomputes: it has to find what was saved the first time.
        kept = [_Keep.apply(influence._anchor, source.detach()).grad_fn]
        if is_recomputing:
            if influence._unseen[name] == 0:
                return output  # seen in the forward pass, as non-reentrant checkpoints run it
            influence._unseen[name] -= 1
        is_embedding = isinstance(module, nn.Embedding)
        leading = source.shape if is_embedding else source.shape[:-1]
        check_layout(name, tuple(leading), influence.shape)
        slot = len(influence._shares)
        influence._shares.append(None)
        output.register_hook(partial(_on_grad, influence, slot, module, known, kept))
        return output


def _on_grad(
    influence: Influence,
    slot: int,
    module: nn.Module,
    known: dict[str, Tensor],
    kept: list[Any],
    grad: Tensor,
) -> None:
    """Turn a layer's output gradient into its shares, and let its input go."""
    if not kept:
        raise RuntimeError("one backward pass is measured, and this is the second of its graph")
    (source,) = kept.pop().saved_tensors
    with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
        gathered = {key: whole(direction) for key, direction in known.items()}
        num_tokens = influence.shape[0] * influence.shape[1]
        influence._shares[slot] = token_shares(module, source, grad, gathered, num_tokens)


class _Begin(torch.autograd.Function):
    """Let a tensor require a gradient without a leaf that would keep it."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor) -> Tensor:
        """Return a copy that requires a gradient: a view would forbid writing to it."""
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        """Pass nothing on."""
        return None, None


class _Keep(torch.autograd.Function):
    """Save a tensor the way autograd does: packed, checked for later writes, recomputed."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor) -> Tensor:
        """Return an empty tensor; its `grad_fn` holds x."""
        ctx.save_for_backward(x)
        return anchor.new_empty(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        """Never run: nothing is computed from the empty tensor."""
        return None, None

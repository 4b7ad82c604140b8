# SPDX-License-Identifier: Apache-2.0
"""Ghost capture: one forward and backward pass, every token's share of <G, gradient>.

Hooks see each layer's input a_t and, in the backward pass, its output gradient b_t; the layer's
share b_t . (G a_t) is computed there and then, so that nothing is kept but one number a token
and layer. Parameters do not require gradients meanwhile: no parameter gradient is formed.

Layers known by name: Linear, Embedding, RMSNorm, LayerNorm. A trainable parameter anywhere else
is refused. Activation checkpointing is followed when it is non-reentrant, refused otherwise.
Source: docs/ops/ghost_influence.md. Shape suffixes: B rows, L positions, T = B * L.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...triton_kernels.ghost_influence import (
    embedding_influence,
    ghost_influence,
    scale_influence,
)
from ..cross_entropy import loss_and_gradient
from ..model import autocast
from ..rows import Rows
from .scratch import Scratch

SUPPORTED = (nn.Linear, nn.Embedding, nn.RMSNorm, nn.LayerNorm)

Directions = Mapping[nn.Parameter, Tensor]


def check_supported(model: nn.Module) -> None:
    """Refuse models whose parameters have no ghost form here.

    Raises:
        TypeError: a trainable parameter sits in a module of another type, by name.
        ValueError: an embedding is set up in a way that has no ghost form.
    """
    for name, module in model.named_modules():
        if not any(p.requires_grad for p in module.parameters(recurse=False)):
            continue
        # The exact type: a subclass may compute something else with the same parameters.
        if type(module) not in SUPPORTED:
            raise TypeError(
                f"no ghost form for {type(module).__name__} ({name or 'the model itself'}): "
                f"rewards know {', '.join(kind.__name__ for kind in SUPPORTED)}; freeze its "
                "parameters or build the model from these"
            )
        if isinstance(module, nn.Embedding) and (
            module.sparse or module.scale_grad_by_freq or module.max_norm is not None
        ):
            raise ValueError(
                f"no ghost form for the embedding {name!r} with sparse, scale_grad_by_freq or "
                "max_norm; build it without"
            )


class GhostCapture:
    """The hooks of one model, and the shares they collect; one capture at a time."""

    def __init__(self, model: nn.Module, directions: Directions) -> None:
        self._model = model
        self.directions = directions
        self.dtype = torch.float32
        """Of the logits of the last pass."""
        self._leaves: list[Tensor] = []
        self._shares: list[Tensor | None] = []
        self._shape = (0, 0)
        self._is_recording = False
        self._scratch = Scratch()

    @contextlib.contextmanager
    def hooked(self) -> Iterator[GhostCapture]:
        """Keep the hooks in place; parameters require no gradient meanwhile.

        Flags are restored by `untouched`, which encloses this.
        """
        handles = []
        try:
            for name, module in self._model.named_modules():
                if any(p in self.directions for p in module.parameters(recurse=False)):
                    hook = partial(self._on_forward, name)
                    handles.append(module.register_forward_hook(hook, with_kwargs=True))
            for parameter in self._model.parameters():
                parameter.requires_grad_(False)
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def shares(self, rows: Rows) -> Tensor:
        """Run one pass and return every layer's shares.

        Args:
            rows: on the model's device.

        Returns:
            [layer calls, B, L] float64, in the order of the forward pass; zero at padding.

        Raises:
            RuntimeError: the model computes in a way hooks cannot follow; the message says how.
        """
        self._leaves, self._shares = [], []
        self._shape = (rows.input_ids.shape[0], rows.input_ids.shape[1])
        self._is_recording = True
        try:
            with autocast(rows.input_ids.device):
                logits = self._model(rows.input_ids, rows.position_ids)
        finally:
            self._is_recording = False
        self.dtype = logits.dtype
        gradient = self._scratch.like(logits)
        loss_and_gradient(logits, rows.labels, gradient)
        torch.autograd.grad(logits, self._leaves, gradient, allow_unused=True)
        zero = torch.zeros(self._shape, dtype=torch.float64, device=logits.device)
        shares = [zero if share is None else share.view(self._shape) for share in self._shares]
        self._leaves, self._shares = [], []
        return torch.stack(shares)

    def _on_forward(
        self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Tensor
    ) -> Tensor:
        """Note a layer's input and wait for its output gradient."""
        if not torch.is_grad_enabled():
            raise RuntimeError(
                f"{name} runs with gradients off, so its output gradient cannot be seen; "
                "use activation checkpointing with use_reentrant=False, and no no_grad inside"
            )
        leaf = None
        if not output.requires_grad:
            # The first trainable layers: with frozen parameters the graph has to begin here.
            leaf = output.detach().requires_grad_()
            output = leaf.clone()
        if not self._is_recording:
            return output  # the recomputation of a checkpoint
        if leaf is not None:
            self._leaves.append(leaf)
        source = (args[0] if args else kwargs["input"]).detach()
        self._check_layout(name, module, source)
        slot = len(self._shares)
        self._shares.append(None)
        output.register_hook(partial(self._on_grad, module, source, slot))
        return output

    def _on_grad(self, module: nn.Module, source: Tensor, slot: int, grad: Tensor) -> None:
        """Turn a layer's output gradient into its shares."""
        device = source.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            self._shares[slot] = _module_shares(module, source, grad, self.directions).double()

    def _check_layout(self, name: str, module: nn.Module, source: Tensor) -> None:
        """Refuse layers that do not see one row of features per token, in the batch's order."""
        leading = source.shape if isinstance(module, nn.Embedding) else source.shape[:-1]
        tokens = self._shape[0] * self._shape[1]
        if tuple(leading) not in (self._shape, (tokens,)):
            raise RuntimeError(
                f"{name} sees inputs of shape {list(source.shape)}, not one row for each of the "
                f"{self._shape[0]} x {self._shape[1]} tokens; rewards need [rows, tokens, ...]"
            )


def _module_shares(
    module: nn.Module, source: Tensor, grad: Tensor, directions: Directions
) -> Tensor:
    """Return the [T] shares of one call of one module."""
    known = {name: directions.get(p) for name, p in module.named_parameters(recurse=False)}
    weight, bias = known.get("weight"), known.get("bias")
    grad_TO = grad.reshape(-1, grad.shape[-1])
    if isinstance(module, nn.Embedding):
        assert weight is not None, "only modules with a direction are hooked"
        return embedding_influence(source.reshape(-1), grad_TO, weight)
    if isinstance(module, nn.Linear):
        activations_TI = source.reshape(-1, source.shape[-1])
        if weight is None:  # frozen beside a bias that trains
            weight = torch.zeros_like(module.weight)
        return ghost_influence(activations_TI, grad_TO, weight, bias)
    if isinstance(module, nn.RMSNorm):
        normalised = F.rms_norm(source, module.normalized_shape, None, module.eps)
    else:
        assert isinstance(module, nn.LayerNorm), "check_supported knows no other"
        shape = list(module.normalized_shape)
        normalised = F.layer_norm(source, shape, None, None, module.eps)
    return scale_influence(normalised.reshape(grad_TO.shape), grad_TO, weight, bias)

# SPDX-License-Identifier: Apache-2.0
"""The language model of the reference trainer: a small GPT under a document mask.

RMSNorm, rotary positions, SwiGLU, scaled dot-product attention. Rows hold several documents: a
segment starts wherever `position_ids` is 0, and no token sees another segment or a later token.
The loss (labels unshifted) is that of `cross_entropy`.
Parameters stay fp32 on every device; `autocast` gives the arithmetic: bf16 on CUDA, else fp32.

Shape suffixes: B rows, L positions, D width, H heads, K half of a head's width, V vocabulary.
Source: rotary positions, Su et al. 2021 (pairs of neighbours); SwiGLU, Shazeer 2020.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cross_entropy import loss, token_losses

__all__ = ["GPT", "GPTConfig", "autocast", "document_mask", "loss", "token_losses"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GPTConfig:
    """The shape of a GPT."""

    vocab_size: int
    """Number of token ids."""
    dim: int = 128
    """Width of the residual stream; a multiple of 2 * num_heads."""
    num_layers: int = 4
    """Number of blocks."""
    num_heads: int = 4
    """Attention heads in a block."""
    max_seq_len: int = 256
    """Longest row the rotary table covers, in tokens."""
    hidden_dim: int | None = None
    """Width of the feed-forward part; None: 8/3 of `dim`, rounded up to a multiple of 32."""
    tie_embeddings: bool = True
    """Whether the head shares its matrix with the embedding."""
    bias: bool = False
    """Whether the linear layers carry biases."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in ("vocab_size", "dim", "num_layers", "num_heads", "max_seq_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"GPTConfig.{name} is {getattr(self, name)}; it must be >= 1")
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"GPTConfig.dim is {self.dim}; it must be a multiple of 2 * num_heads "
                f"= {2 * self.num_heads}, so that every head splits into rotary pairs"
            )

    @property
    def feed_forward_dim(self) -> int:
        """Width of the feed-forward part."""
        return self.hidden_dim or -(-8 * self.dim // (3 * 32)) * 32

    def to_dict(self) -> dict[str, int | float | bool | None]:
        """Return the fields as plain values."""
        return asdict(self)


class Attention(nn.Module):
    """Multi-head attention with rotary positions under a given mask."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=config.bias)
        self.out = nn.Linear(config.dim, config.dim, bias=config.bias)

    def forward(self, x_BLD: Tensor, rotation_BLK: Tensor, mask_B1LL: Tensor) -> Tensor:
        """Return [B, L, D]; `rotation_BLK` is complex, `mask_B1LL` is added to the scores."""
        qkv_BL3HK = self.qkv(x_BLD).unflatten(-1, (3, self.num_heads, -1))
        value = qkv_BL3HK[:, :, 2].transpose(1, 2)
        query, key = _rotate(qkv_BL3HK[:, :, :2], rotation_BLK).to(value.dtype).unbind(2)
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value, attn_mask=mask_B1LL
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: silu(gate) * up, projected down."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.dim, 2 * config.feed_forward_dim, bias=config.bias)
        self.down = nn.Linear(config.feed_forward_dim, config.dim, bias=config.bias)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return [B, L, D]."""
        gate, up = self.gate_up(x_BLD).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and feed-forward, each behind its norm and beside a residual path."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x_BLD: Tensor, rotation_BLK: Tensor, mask_B1LL: Tensor) -> Tensor:
        """Return [B, L, D]."""
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), rotation_BLK, mask_B1LL)
        return x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD))


class GPT(nn.Module):
    """Tokens to next-token logits; initialised from torch's global generator."""

    rotary: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=config.bias)
        self.register_buffer("rotary", _rotary_table(config), persistent=False)
        self._initialise()
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return the logits of the token after each position.

        Args:
            input_ids: [B, L] int64, L <= max_seq_len.
            position_ids: [B, L] int64, 0 at the first token of every segment, then counting up.

        Returns:
            [B, L, V] in the arithmetic's dtype.

        Raises:
            ValueError: the rows are longer than `max_seq_len`.
        """
        if input_ids.shape[1] > self.config.max_seq_len:
            raise ValueError(
                f"rows of {input_ids.shape[1]} tokens do not fit max_seq_len = "
                f"{self.config.max_seq_len}; cut the rows or build a larger GPTConfig"
            )
        x_BLD = self.embedding(input_ids)
        mask_B1LL = document_mask(position_ids, _arithmetic_dtype(x_BLD))
        rotation_BLK = torch.view_as_complex(self.rotary[position_ids])
        for block in self.blocks:
            x_BLD = block(x_BLD, rotation_BLK, mask_B1LL)
        return self.head(self.norm(x_BLD))

    def num_parameters(self) -> int:
        """Count the parameters, a shared matrix once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _initialise(self) -> None:
        """Draw weights at 0.02, smaller where a branch joins the residual stream."""
        joining = 0.02 / (2 * self.config.num_layers) ** 0.5
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear | nn.Embedding):
                continue
            is_joining = name.endswith(("attention.out", "feed_forward.down"))
            nn.init.normal_(module.weight, std=joining if is_joining else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


def document_mask(position_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Build the additive mask of packed rows: causal inside a segment, -inf elsewhere.

    Args:
        position_ids: [B, L] int64, 0 at the first token of every segment.
        dtype: of the mask; that of the attention's queries.

    Returns:
        [B, 1, L, L]; a position always sees itself, so no row is empty.
    """
    length, device = position_ids.shape[1], position_ids.device
    segment_BL = (position_ids == 0).cumsum(1)
    later_LL = torch.ones(length, length, dtype=torch.bool, device=device).triu_(1)
    hidden_BLL = (segment_BL[:, :, None] != segment_BL[:, None, :]).logical_or_(later_LL)
    mask_BLL = torch.zeros(hidden_BLL.shape, dtype=dtype, device=device)
    return mask_BLL.masked_fill_(hidden_BLL, -torch.inf).unsqueeze(1)


def autocast(device: torch.device | str) -> contextlib.AbstractContextManager[None]:
    """Return the arithmetic of a forward pass on `device`: bf16 on CUDA, else as stored."""
    if torch.device(device).type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _rotary_table(config: GPTConfig) -> Tensor:
    """Return cosine and sine of each position's angles, [max_seq_len, K, 2] float32."""
    half = config.dim // config.num_heads // 2
    frequencies = config.rope_base ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(config.max_seq_len, dtype=torch.float64)[:, None] * frequencies
    return torch.stack((angles.cos(), angles.sin()), dim=-1).float()


def _rotate(x_BL2HK: Tensor, rotation_BLK: Tensor) -> Tensor:
    """Turn neighbouring pairs of the last dimension by the positions' angles."""
    pairs = x_BL2HK.to(rotation_BLK.real.dtype).unflatten(-1, (-1, 2))
    turned = torch.view_as_complex(pairs) * rotation_BLK[:, :, None, None]
    return torch.view_as_real(turned).flatten(-2)


def _arithmetic_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype matrix products take under the autocast in force."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype

# SPDX-License-Identifier: Apache-2.0
"""Images and lists of images as MDS stores them, taken apart without decoding a pixel.

`jpeg` and `png` are files and pass as bytes. A `pil` image becomes a `RawImage`; `jpeg_array` and
`list[...]` become lists of those. Every size is checked against the bytes it stands in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_WORD_BYTES = 4


class RawImage(NamedTuple):
    """An image as it lies in memory: `mode` as Pillow names it ("RGB"), rows from the top."""

    width: int
    height: int
    mode: str
    pixels: bytes


def image_decoder(encoding: str) -> Callable[[bytes], Any]:
    """Return what takes `pil`, `jpeg_array` or `list[...]` values apart; it raises ValueError."""
    if encoding == "pil":
        return _raw_image
    if not encoding.startswith("list["):
        return lambda data: _parts(data, 0)
    if encoding == "list[pil]":
        return lambda data: [_raw_image(part) for part in _parts(data, _WORD_BYTES)]
    return lambda data: _parts(data, _WORD_BYTES)


def _raw_image(data: bytes) -> RawImage:
    """Take apart: u32 width, u32 height, u32 length of the mode, the mode, pixels."""
    if len(data) < 3 * _WORD_BYTES:
        raise ValueError("an image without a head")
    width, height, mode_bytes = np.frombuffer(data, "<u4", 3).tolist()
    start = 3 * _WORD_BYTES + mode_bytes
    if start > len(data):
        raise ValueError("the mode of an image leaves its bytes")
    return RawImage(width, height, data[3 * _WORD_BYTES : start].decode("utf-8"), data[start:])


def _parts(data: bytes, at: int) -> list[bytes]:
    """Take apart, from byte `at` on: u32 n, u32 size of each, the parts."""
    if len(data) < at + _WORD_BYTES:
        raise ValueError("a list without a length")
    num = int.from_bytes(data[at : at + _WORD_BYTES], "little")
    start = at + _WORD_BYTES * (1 + num)
    if start > len(data):
        raise ValueError(f"a list of {num} images in {len(data)} bytes")
    sizes = np.frombuffer(data, "<u4", num, at + _WORD_BYTES).astype(np.int64)
    ends = (start + np.cumsum(sizes)).tolist()
    if (ends[-1] if ends else start) != len(data):
        raise ValueError(f"the images of a list do not fill its {len(data)} bytes")
    return [data[begin:end] for begin, end in zip([start, *ends], ends, strict=False)]

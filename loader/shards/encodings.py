# SPDX-License-Identifier: Apache-2.0
"""What the encodings of MDS columns mean: fixed sizes, values to bytes, bytes to values.

Scalars, `bytes`, `str`, `str_int`, `str_float`, `str_decimal`, `json` and `ndarray[:dtype[:shape]]`
are read and written. `jpeg` and `png` are the bytes of the encoded file both ways: decoding images
is the caller's. The other image encodings are read as raw pixels or lists of files (images.py) and
not written. `pkl` is refused everywhere: unpickling runs code from the data.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from ..errors import ShardError
from .images import image_decoder

Encoder = Callable[[Any], bytes]
Decoder = Callable[[bytes], Any]

# The number of a dtype inside an array whose column does not fix it.
DTYPE_CODES = {
    "uint8": 8,
    "int8": 9,
    "uint16": 16,
    "int16": 17,
    "float16": 18,
    "uint32": 32,
    "int32": 33,
    "float32": 34,
    "uint64": 64,
    "int64": 65,
    "float64": 66,
}
_DTYPE_NAMES = {code: name for name, code in DTYPE_CODES.items()}
_TEXTS = ("bytes", "str", "str_int", "str_float", "str_decimal", "json")
_IMAGES = ("jpeg", "png")
_UNWRITTEN = ("pil", "jpeg_array", "jpegarray", "list[pil]", "list[jpeg]", "list[png]")


def scalar_dtype(encoding: str) -> np.dtype | None:
    """Return the dtype of a fixed scalar encoding, None for every other."""
    if encoding == "int":
        return np.dtype("<i8")
    return np.dtype(encoding).newbyteorder("<") if encoding in DTYPE_CODES else None


def array_layout(encoding: str) -> tuple[str | None, tuple[int, ...] | None]:
    """Return what an `ndarray...` encoding fixes: its dtype's name, its shape.

    Raises:
        ShardError: It is malformed.
    """
    parts = encoding.split(":")[1:]
    dims = parts[1].split(",") if len(parts) == 2 else []
    is_known = not parts or parts[0] in DTYPE_CODES
    if len(parts) > 2 or not is_known or not all(d.isdecimal() and int(d) > 0 for d in dims):
        raise ShardError(
            f"malformed encoding {encoding!r}; write ndarray, ndarray:uint16 or ndarray:uint16:2048"
        )
    return (parts[0] if parts else None), (tuple(map(int, dims)) or None)


def fixed_size(encoding: str) -> int | None:
    """Return the bytes each value takes, None if each sample states its own.

    Raises:
        ShardError: The encoding is unknown, malformed, or `pkl`.
    """
    if encoding == "pkl":
        raise ShardError(
            "encoding 'pkl' is refused: unpickling runs code from the data; write json instead"
        )
    dtype = scalar_dtype(encoding)
    if dtype is not None:
        return dtype.itemsize
    if encoding == "ndarray" or encoding.startswith("ndarray:"):
        name, shape = array_layout(encoding)
        return None if shape is None else math.prod(shape) * np.dtype(name).itemsize
    if encoding in _TEXTS or encoding in _IMAGES or encoding in _UNWRITTEN:
        return None
    raise ShardError(f"unknown encoding {encoding!r}; known are {', '.join(known_encodings())}")


def known_encodings() -> list[str]:
    """Return the names of all encodings that a column may have."""
    return ["int", *DTYPE_CODES, *_TEXTS, "ndarray[:dtype[:shape]]", *_IMAGES, *_UNWRITTEN]


def make_encoder(encoding: str) -> Encoder:
    """Return the function from a value to its bytes; it raises TypeError or ValueError.

    Raises:
        ShardError: The encoding is unknown or is not written here.
    """
    fixed_size(encoding)
    if encoding in _UNWRITTEN:
        raise ShardError(f"encoding {encoding!r} is not written; store jpeg or png files as bytes")
    if encoding.startswith("ndarray"):
        return _array_encoder(*array_layout(encoding))
    dtype = scalar_dtype(encoding)
    if dtype is not None:
        return _integer_encoder(dtype) if dtype.kind in "ui" else _float_encoder(dtype)
    simple: dict[str, Encoder] = {
        "str": lambda value: _typed(value, str).encode("utf-8"),
        "str_int": lambda value: str(int(_typed(value, int))).encode(),
        "str_float": lambda value: str(float(_typed(value, float))).encode(),
        "str_decimal": lambda value: str(_typed(value, Decimal)).encode(),
        "json": _encode_json,
    }
    return simple.get(encoding, lambda value: _typed(value, bytes))


def make_decoder(encoding: str) -> Decoder:
    """Return the function from the bytes of a value to the value; it raises ValueError.

    Raises:
        ShardError: The encoding is unknown or refused.
    """
    fixed_size(encoding)
    if encoding in _UNWRITTEN:
        return image_decoder(encoding)
    if encoding.startswith("ndarray"):
        name, shape = array_layout(encoding)
        return lambda data: _decode_array(data, name, shape)
    dtype = scalar_dtype(encoding)
    if encoding == "int":
        return lambda data: int(np.frombuffer(data, dtype)[0])
    if dtype is not None:
        return lambda data: np.frombuffer(data, dtype)[0]
    simple: dict[str, Decoder] = {
        "str": lambda data: data.decode("utf-8"),
        "str_int": lambda data: int(data.decode("utf-8")),
        "str_float": lambda data: float(data.decode("utf-8")),
        "str_decimal": lambda data: Decimal(data.decode("utf-8")),
        "json": lambda data: json.loads(data.decode("utf-8")),
    }
    return simple.get(encoding, lambda data: data)


def _typed(value: Any, expected: type) -> Any:
    if not isinstance(value, expected):
        raise TypeError(f"expected {expected.__name__}, got {type(value).__name__}")
    return value


def _encode_json(value: Any) -> bytes:
    return json.dumps(value.tolist() if isinstance(value, np.ndarray) else value).encode("utf-8")


def _integer_encoder(dtype: np.dtype) -> Encoder:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    is_signed = dtype.kind == "i"

    def encode(value: Any) -> bytes:
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"expected an integer, got {type(value).__name__}") from None
        if not low <= number <= high:
            raise ValueError(f"{number} does not fit {dtype.name}")
        return number.to_bytes(dtype.itemsize, "little", signed=is_signed)

    return encode


def _float_encoder(dtype: np.dtype) -> Encoder:
    def encode(value: Any) -> bytes:
        if not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"expected a number, got {type(value).__name__}")
        with np.errstate(over="ignore"):
            stored = np.array(value, dtype)
        if np.isinf(stored) and not math.isinf(value):
            raise ValueError(f"{value} does not fit {dtype.name}")
        return stored.tobytes()

    return encode


def _array_encoder(name: str | None, shape: tuple[int, ...] | None) -> Encoder:
    def encode(value: Any) -> bytes:
        array = _typed(value, np.ndarray)
        if array.dtype.name not in DTYPE_CODES:
            raise ValueError(f"arrays of {array.dtype.name} cannot be stored")
        if name is not None and array.dtype.name != name:
            raise ValueError(f"expected an array of {name}, got {array.dtype.name}")
        if shape is not None and array.shape != shape:
            raise ValueError(f"expected an array of shape {shape}, got {array.shape}")
        if array.size == 0 or not 1 <= array.ndim <= 63:
            raise ValueError(f"an array needs 1 to 63 axes and a value, got shape {array.shape}")
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        tag = b"" if name is not None else bytes([DTYPE_CODES[array.dtype.name]])
        return tag + (b"" if shape is not None else _encode_shape(array.shape)) + little.tobytes()

    return encode


def _encode_shape(shape: tuple[int, ...]) -> bytes:
    width = next(k for k in range(4) if max(shape) < 1 << (8 << k))
    dims = b"".join(dim.to_bytes(1 << width, "little") for dim in shape)
    return bytes([len(shape) << 2 | width]) + dims


def _decode_array(data: bytes, name: str | None, shape: tuple[int, ...] | None) -> np.ndarray:
    position = 0
    if name is None:
        if not data or data[0] not in _DTYPE_NAMES:
            raise ValueError("an array of an unknown type")
        name, position = _DTYPE_NAMES[data[0]], 1
    if shape is None:
        if len(data) <= position or data[position] >> 2 == 0:
            raise ValueError("an array without a shape")
        ndim, width = data[position] >> 2, 1 << (data[position] & 3)
        stop = position + 1 + ndim * width
        if stop > len(data):
            raise ValueError("the shape of an array does not fit its bytes")
        dims = (data[at : at + width] for at in range(position + 1, stop, width))
        shape, position = tuple(int.from_bytes(dim, "little") for dim in dims), stop
    dtype = np.dtype(name).newbyteorder("<")
    if math.prod(shape) * dtype.itemsize != len(data) - position:
        raise ValueError(f"an array of shape {shape} in {len(data) - position} bytes")
    return np.frombuffer(data, dtype, offset=position).reshape(shape)

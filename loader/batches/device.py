# SPDX-License-Identifier: Apache-2.0
"""Batches on their way to the device: pooled or pinned memory, and a copy stream of our own.

A batch is packed right into the memory that it travels in. To a device it travels as its tokens are
stored, and the wide fields are made there, behind the copy. Pinned memory comes from torch's
caching allocator, which hands none out again before a copy from it has ended. Device memory belongs
to the copy stream, which takes none back before the caller's stream is done: `receive` tells it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

Queue = AbstractContextManager[object]
Finish = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
_TORCH_DTYPES = {
    name: getattr(torch, name)
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
}


def plain_memory(num_bytes: int) -> np.ndarray:
    """Return uint8 [num_bytes], uninitialised."""
    return np.empty(num_bytes, np.uint8)


class DeviceCopy:
    """Gives memory for batches, and copies them to a CUDA device on a stream of its own.

    Args:
        device: "cpu", or a CUDA device such as "cuda:0".
        pin: Pin batches that stay on the CPU; None pins where CUDA is there.
        allocate: Gives uint8 memory for batches that are not pinned.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        pin: bool | None = None,
        allocate: Callable[[int], np.ndarray] = plain_memory,
    ) -> None:
        self.device = torch.device(device)
        wants_pin = torch.cuda.is_available() if pin is None else pin
        self._pin = wants_pin or self.device.type == "cuda"
        self._allocate = allocate
        self._stream = torch.cuda.Stream(device=self.device) if self.device.type == "cuda" else None

    @property
    def crosses(self) -> bool:
        """Whether batches go to another memory than the CPU's."""
        return self._stream is not None

    def empty(self, shape: tuple[int, int], dtype: np.dtype) -> tuple[torch.Tensor, np.ndarray]:
        """Return an uninitialised tensor on the CPU for a batch that is to be sent.

        Returns:
            The tensor, and its memory as a flat array.
        """
        if self._pin:
            tensor = torch.empty(shape, dtype=_TORCH_DTYPES[dtype.name], pin_memory=True)
            return tensor, tensor.numpy().reshape(-1)
        flat = self._allocate(shape[0] * shape[1] * dtype.itemsize).view(dtype)
        return torch.from_numpy(flat.reshape(shape)), flat

    def send(
        self, batch: dict[str, torch.Tensor], finish: Finish = dict
    ) -> tuple[dict[str, torch.Tensor], torch.cuda.Event | None]:
        """Start the copy, and what `finish` makes of it where it arrives.

        The event, if any, is to be waited for before the result is used.
        """
        if self._stream is None:
            return finish(batch), None
        with torch.cuda.stream(self._stream):
            sent = {
                name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()
            }
            sent = finish(sent)
            event = torch.cuda.Event()
            event.record(self._stream)
        return sent, event

    def queued(self) -> Queue:
        """Queue what is done inside on the copy stream; without a device, do it at once."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def mark(self) -> torch.cuda.Event | None:
        """Return an event behind all that is queued by now."""
        if self._stream is None:
            return None
        event = torch.cuda.Event()
        event.record(self._stream)
        return event

    def put(self, array: np.ndarray) -> torch.Tensor:
        """Queue the copy of an array to the device, in the current stream.

        The array is staged in pinned memory, so the host waits for nothing and may change it.
        """
        tensor = torch.from_numpy(array)
        if self._stream is None:
            return tensor
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return pinned.copy_(tensor).to(self.device, non_blocking=True)

    def bring(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Queue copies to the host; call it inside `queued`, and `mark` behind it."""
        if self._stream is None:
            return list(tensors)
        return [
            torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
                tensor, non_blocking=True
            )
            for tensor in tensors
        ]

    def receive(
        self, batch: dict[str, torch.Tensor], event: torch.cuda.Event | None
    ) -> dict[str, torch.Tensor]:
        """Let the caller's stream wait for the copy; the host does not wait."""
        if event is not None:
            stream = torch.cuda.current_stream(self.device)
            event.wait(stream)
            for tensor in batch.values():
                tensor.record_stream(stream)
        return batch

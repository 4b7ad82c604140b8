# SPDX-License-Identifier: Apache-2.0
"""Batches on their way to the device: pinned memory, and a copy stream of the loader's own."""

import torch


class DeviceCopy:
    """Pins batches, or copies them to a CUDA device on a stream of its own.

    Args:
        device: "cpu", or a CUDA device such as "cuda:0".
        pin: Pin batches that stay on the CPU; None pins where CUDA is there.
    """

    def __init__(self, device: str | torch.device = "cpu", pin: bool | None = None) -> None:
        self.device = torch.device(device)
        self._pin = torch.cuda.is_available() if pin is None else pin
        self._stream = torch.cuda.Stream(device=self.device) if self.device.type == "cuda" else None

    def send(
        self, batch: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], torch.cuda.Event | None]:
        """Start the copy; the event, if any, is to be waited for before the batch is used."""
        if self._pin or self._stream is not None:
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        if self._stream is None:
            return batch, None
        with torch.cuda.stream(self._stream):
            sent = {
                name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()
            }
            event = torch.cuda.Event()
            event.record(self._stream)
        return sent, event

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

# SPDX-License-Identifier: Apache-2.0
"""The floor: what receiving, hashing, unpacking and one copy cost alone, in CPU s per raw GB.

One thread, shard after shard, every buffer used again: a bare socket into a buffer, xxh64 of the
stored bytes, zstd (Arrow's pooled memory or zstandard's reader into a buffer, whichever is cheaper
in this run), and one numpy call a batch that copies 64 shuffled rows.

Run under our Python: python -m stream.floor JSON
"""

import json
import socket
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import xxhash
import zstandard

from .reader import BATCH_ROWS, BUCKET, SEQ_LEN


class Connection:
    """One kept HTTP/1.1 connection that reads whole objects into one buffer."""

    def __init__(self, endpoint, authority):
        parts = urlsplit(endpoint)
        self._host = parts.netloc
        self._socket = socket.create_connection((parts.hostname, parts.port))
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=authority)
            self._socket = context.wrap_socket(self._socket, server_hostname=parts.hostname)

    def get_into(self, path, buffer):
        """Read an object; return its length."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._socket.recv(4096)
        head, _, rest = head.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        size, done = int(fields[b"Content-Length"]), len(rest)
        buffer[:done] = rest
        while done < size:
            done += self._socket.recv_into(buffer[done:size])
        return size

    def close(self):
        """Close the connection."""
        self._socket.close()


def main(ask):
    """Return the CPU seconds per raw GB of each step over one corpus."""
    shards = json.loads((Path(ask["folder"]) / "index.json").read_text())["shards"]
    connection = Connection(ask["endpoint"], ask["authority"])
    stored = memoryview(bytearray(max(shard["zip_data"]["bytes"] for shard in shards)))
    raw = np.empty(max(shard["raw_data"]["bytes"] for shard in shards), np.uint8)
    steps = dict.fromkeys(("receive", "hash", "arrow", "zstandard", "gather"), 0.0)
    rng = np.random.default_rng(0)
    for shard in shards:
        name = f"/{BUCKET}/{ask['corpus']}/mds/{shard['zip_data']['basename']}"
        clock = Clock(steps)
        size = connection.get_into(name, stored)
        clock.charge("receive")
        digest = xxhash.xxh64(stored[:size]).hexdigest()
        clock.charge("hash")
        assert digest == shard["zip_data"]["hashes"]["xxh64"], name
        num_raw = shard["raw_data"]["bytes"]
        clock.charge(None)
        pa.Codec("zstd").decompress(stored[:size], decompressed_size=num_raw)
        clock.charge("arrow")
        zstandard.ZstdDecompressor().stream_reader(stored[:size]).readinto(raw[:num_raw])
        clock.charge("zstandard")
        rows = raw[num_raw - shard["samples"] * SEQ_LEN * 2 : num_raw].view(np.uint16)
        rows = rows.reshape(-1, SEQ_LEN)
        order = rng.permutation(len(rows))
        batch = np.empty((BATCH_ROWS, SEQ_LEN), np.uint16)
        clock.charge(None)
        for first in range(0, len(order), BATCH_ROWS):
            chosen = order[first : first + BATCH_ROWS]
            np.take(rows, chosen, axis=0, out=batch[: len(chosen)], mode="clip")
        clock.charge("gather")
    connection.close()
    num_gb = sum(shard["samples"] for shard in shards) * SEQ_LEN * 2e-9
    figures = {f"{name}_s_per_gb": seconds / num_gb for name, seconds in steps.items()}
    figures["decompress_s_per_gb"] = min(figures["arrow_s_per_gb"], figures["zstandard_s_per_gb"])
    parts = ("receive", "hash", "decompress", "gather")
    return {**figures, "sum_s_per_gb": sum(figures[f"{part}_s_per_gb"] for part in parts)}


class Clock:
    """CPU seconds of this process since the last look, charged to a step."""

    def __init__(self, steps):
        self._steps = steps
        self._last = time.process_time()

    def charge(self, step):
        """Charge what was spent since the last call; None to nobody."""
        now = time.process_time()
        if step is not None:
            self._steps[step] += now - self._last
        self._last = now


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(json.loads(sys.argv[1]))), flush=True)

# SPDX-License-Identifier: Apache-2.0
"""How well does the order shuffle, beside mosaicml-streaming's? Run: python shuffle_quality.py.

Spread of a shard: positions between its first and last sample, in shards' worth of samples; a
perfect shuffle of n shards has nearly n. Serial correlation: of the shard numbers, in the order of
the corpus, at lag 1; 0 is perfect, 1 is no shuffle. Prints a Markdown table, medians of five seeds.
"""

import statistics

import numpy as np
from moot.loader.order import Order

SHARDS, SAMPLES, SLOTS = 64, 4096, 8


def ours(seed: int, window_shards: int) -> np.ndarray:
    """Shards in the order in which global batches hold them: the strands in turn."""
    strands = min(window_shards, SLOTS)
    order = Order(
        [np.full(SHARDS, SAMPLES)], seed=seed, num_strands=strands, ways=window_shards // strands
    )
    size = order.num_samples(0, 0)
    columns = [order.locate((strand << 44) | np.arange(size))[0] for strand in range(strands)]
    return np.stack(columns, axis=1).reshape(-1)


def theirs(seed: int, algorithm: str, block_size: int) -> np.ndarray:
    """Shards in the order of one canonical node."""
    from streaming.base.shuffle import get_shuffle

    sizes = np.full(SHARDS, SAMPLES)
    ids = get_shuffle(algorithm, sizes, 1, seed, 0, block_size)
    return np.asarray(ids)[np.asarray(ids) >= 0] // SAMPLES


def measure(shards: np.ndarray) -> tuple[float, float]:
    """Return the mean spread in shards, and the serial correlation."""
    places = [np.flatnonzero(shards == shard) for shard in range(SHARDS)]
    spread = float(np.mean([(p[-1] - p[0]) / SAMPLES for p in places]))
    return spread, float(np.corrcoef(shards[:-1], shards[1:])[0, 1])


def main() -> None:
    """Print the table."""
    rows = {f"moot, window_shards={w}": lambda s, w=w: ours(s, w) for w in (4, 8, 16, 32)}
    for blocks in (8, 16):
        for name in ("py1e", "py1br"):
            size = blocks * SAMPLES
            rows[f"{name}, block of {blocks} shards"] = lambda s, n=name, b=size: theirs(s, n, b)
    rows["stored order"] = lambda s: np.repeat(np.arange(SHARDS), SAMPLES)
    print("| order | spread of a shard (shards) | serial correlation |\n|---|---|---|")
    for name, make in rows.items():
        found = [measure(make(seed)) for seed in range(5)]
        spread, correlation = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {name} | {spread:.1f} | {correlation:.3f} |")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The same samples in every reader's format, made from a seed.

Tokens are phrases drawn from a fixed phrase book, both by Zipf's law: zstd:3 makes about 3:1 of the
uint16 tokens and unpacks them at the speed of tokenised prose and source code (2.9 to 3.3:1,
measured against a BPE of 32,000 words over this kind of machine's own text).

A corpus is a folder: `tokens.bin` (uint16, what every other copy is written from) and `starts.npy`
(int64 [n+1], where each sample begins), then `mds`, `mds-raw` (uncompressed), `litdata-zstd`,
`litdata-raw`, `tar`, `parquet`, each written by the package that reads it. Two kinds: "tokens",
samples of exactly 2,048 tokens; "documents", lognormal around 500, each beginning with MARK and
its number as two tokens, so that a packed row still tells whose tokens it holds.

A third kind, "many", is an index alone: N shards, all of them one small file under N names (the
server maps them), 10,000 samples of 16 tokens each.

Run in the peers' environment: python -m stream.corpora JSON
"""

import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np

SEQ_LEN = 2048
SHARD_BYTES = 1 << 26
MARK = 50256
ID_BASE = 50000
_PHRASES = 1 << 18
_MEAN_PHRASE = 6
_CHUNK_TOKENS = 1 << 22
_SAMPLES_A_FILE = 16384
_MANY_SAMPLES, _MANY_TOKENS = 10_000, 16


def make(folder: Path, kind: str, rows: int, form: str, shard_bytes: int = SHARD_BYTES) -> None:
    """Write one format of a corpus of `rows` times 2,048 tokens, or of `rows` shards ("many").

    `shard_bytes` limits the raw bytes of MDS shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "many":
        _write_many(folder, rows, form)
        return
    if form == "bin":
        _write_tokens(folder, kind, rows)
        return
    partial = folder / f"{form}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    if form.startswith("mds"):
        _write_mds(partial, Samples(folder), shard_bytes)
    else:
        writer = {"tar": _write_tar, "parquet": _write_parquet}
        writer.get(form, _write_litdata)(partial, Samples(folder))
    partial.rename(folder / form)


class Samples:
    """The samples of a corpus, as views into its token file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = np.memmap(folder / "tokens.bin", np.uint16, "r")
        self.starts = np.load(folder / "starts.npy")
        self.lengths = np.diff(self.starts)
        self.is_fixed = bool((self.lengths == SEQ_LEN).all())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.tokens[self.starts[row] : self.starts[row + 1]]


# ---- tokens


def _zipf(rng, num, count):
    """Return `count` numbers below `num`, each about as often as one over its rank."""
    return (np.exp(rng.random(count, np.float32) * np.log(num + 1)) - 1).astype(np.int64) % num


def _phrases(rng):
    """Yield runs of tokens without end."""
    lengths = np.minimum(1 + rng.geometric(1 / _MEAN_PHRASE, _PHRASES), 32)
    starts = np.cumsum(lengths) - lengths
    book = _zipf(rng, MARK, int(lengths.sum())).astype(np.uint16)
    while True:
        drawn = _zipf(rng, _PHRASES, _CHUNK_TOKENS // (1 + _MEAN_PHRASE))
        taken = lengths[drawn]
        ends = np.cumsum(taken)
        yield book[np.arange(ends[-1]) + np.repeat(starts[drawn] - (ends - taken), taken)]


def _lengths(kind, rows, rng):
    """Return the tokens of each sample, `rows` times 2,048 in sum."""
    total = rows * SEQ_LEN
    if kind == "tokens":
        return np.full(rows, SEQ_LEN)
    lengths = np.clip(rng.lognormal(5.85, 0.85, 3 * total // 500).astype(np.int64), 16, 1 << 16)
    num = int(np.searchsorted(np.cumsum(lengths), total))
    lengths = lengths[:num]
    lengths[-1] += total - lengths.sum()
    return lengths


def _write_tokens(folder, kind, rows):
    rng = np.random.default_rng(20261124)
    starts = np.concatenate([[0], np.cumsum(_lengths(kind, rows, rng))])
    tokens = np.memmap(folder / "tokens.bin", np.uint16, "w+", shape=(int(starts[-1]),))
    done = 0
    for phrase in _phrases(rng):
        taken = min(len(phrase), len(tokens) - done)
        tokens[done : done + taken] = phrase[:taken]
        done += taken
        if done == len(tokens):
            break
    if kind == "documents":
        ids = np.arange(len(starts) - 1)
        for place, value in enumerate((MARK, ids // ID_BASE, ids % ID_BASE)):
            tokens[starts[:-1] + place] = value
    tokens.flush()
    np.save(folder / "starts.npy", starts)


# ---- formats


def _write_mds(folder, samples, shard_bytes=SHARD_BYTES):
    from .peers import import_streaming

    writer = import_streaming().MDSWriter(
        out=str(folder),
        columns={"tokens": f"ndarray:uint16:{SEQ_LEN}" if samples.is_fixed else "ndarray:uint16"},
        compression=None if folder.name.startswith("mds-raw") else "zstd:3",
        hashes=["xxh64"],
        size_limit=shard_bytes,
    )
    with writer:
        for row in range(len(samples)):
            writer.write({"tokens": np.asarray(samples[row])})


def _litdata_items(span):
    import torch

    folder, first, stop = span
    samples = Samples(folder)
    for row in range(first, stop):
        yield torch.from_numpy(np.array(samples[row]))


def _write_litdata(folder, samples):
    import litdata

    steps = range(0, len(samples), _SAMPLES_A_FILE)
    litdata.optimize(
        fn=_litdata_items,
        inputs=[(samples.folder, i, min(i + _SAMPLES_A_FILE, len(samples))) for i in steps],
        output_dir=str(folder),
        chunk_bytes=SHARD_BYTES,
        compression="zstd:3" if folder.name.startswith("litdata-zstd") else None,
        num_workers=1,
        verbose=False,
    )


def _files(samples):
    """Yield (number, first sample, behind the last) of files of about one shard's bytes."""
    target = np.arange(0, samples.starts[-1], SHARD_BYTES // 2)
    cuts = [*np.searchsorted(samples.starts, target), len(samples)]
    for number, (first, stop) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        yield number, int(first), int(stop)


def _write_tar(folder, samples):
    folder.mkdir()
    for number, first, stop in _files(samples):
        with tarfile.open(folder / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(first, stop):
                member = tarfile.TarInfo(f"{row:09d}.u16")
                member.size = samples[row].nbytes
                tar.addfile(member, io.BytesIO(samples[row].tobytes()))
    names = sorted(path.name for path in folder.glob("*.tar"))
    (folder / "names.json").write_text(json.dumps(names))


def _write_parquet(folder, samples):
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    for number, first, stop in _files(samples):
        starts = samples.starts[first : stop + 1]
        values = pa.array(np.asarray(samples.tokens[starts[0] : starts[-1]]))
        if samples.is_fixed:
            column = pa.FixedSizeListArray.from_arrays(values, SEQ_LEN)
        else:
            column = pa.ListArray.from_arrays(pa.array((starts - starts[0]).astype("i4")), values)
        table = pa.table({"tokens": column})
        group = max(1, len(table) // 16)  # row groups of 4 MiB
        path = folder / f"{number:05d}.parquet"
        parquet.write_table(table, path, compression="zstd", row_group_size=group)
    names = sorted(path.name for path in folder.glob("*.parquet"))
    (folder / "names.json").write_text(json.dumps(names))


def _write_many(folder, num, form):
    """Write `one.FORMAT`, a single shard, and the index of `num` copies of it."""
    partial, one = folder / "partial", folder.parent / f"one.{form}"
    shutil.rmtree(partial, ignore_errors=True)
    tokens = np.arange(_MANY_SAMPLES * _MANY_TOKENS, dtype=np.uint16).reshape(_MANY_SAMPLES, -1)
    starts = np.arange(_MANY_SAMPLES + 1) * _MANY_TOKENS
    writer = _write_mds if form == "mds" else _write_litdata
    source = folder / "source"
    source.mkdir(exist_ok=True)
    tokens.tofile(source / "tokens.bin")
    np.save(source / "starts.npy", starts)
    writer(partial, Samples(source))
    index = json.loads((partial / "index.json").read_text())
    entries, name = (index["shards"], "zip_data") if form == "mds" else (index["chunks"], None)
    assert len(entries) == 1, "the one shard became several"
    stored = entries[0][name]["basename"] if name else entries[0]["filename"]
    (partial / stored).rename(one)
    text = json.dumps(index)
    head, entry, tail = text.partition(json.dumps(entries[0]))
    (folder / form).mkdir(exist_ok=True)
    with (folder / form / "index.json").open("w") as out:
        out.write(head)
        for number in range(num):
            new = entry.replace("shard.00000", f"shard.{number:07d}")
            new = new.replace("chunk-0-0", f"chunk-0-{number}")
            out.write(f"{', ' if number else ''}{new}")
        out.write(tail)
    shutil.rmtree(partial)
    shutil.rmtree(source)


if __name__ == "__main__":
    ask = json.loads(sys.argv[1])
    ask["folder"] = Path(ask["folder"])
    make(**ask)
    print("RESULT {}", flush=True)

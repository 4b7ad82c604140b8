# SPDX-License-Identifier: Apache-2.0
"""How each rival is set: one function a rival, called with what the trial found best.

All shuffle, all hand over [64, 2048] arrays of the tokens as stored, all read from the same server.
Samples of one length are stacked by one np.stack; documents are packed by `_packed`, for every
rival alike, because none of them packs by itself.
"""

import importlib
import importlib.machinery
import json
import random
import sys
import types

import numpy as np

from .reader import BATCH_ROWS, BUCKET, KEYS, SEQ_LEN, Reader

_DOCUMENTS_A_BATCH = 256  # about one batch of 64 rows


def mosaic(place, *, predownload=None, workers=0, stack=False):
    """mosaicml-streaming on MDS over S3; without options it has its defaults.

    `stack` joins samples by one np.stack instead of torch's default collate.
    """
    streaming = sys.modules["streaming"]
    batch_size = _DOCUMENTS_A_BATCH if place.is_packed else BATCH_ROWS
    data = streaming.StreamingDataset(
        remote=f"s3://{BUCKET}/{place.corpus}/mds",
        local=str(place.cache),
        shuffle=True,
        batch_size=batch_size,
        predownload=predownload,
    )
    join = _joined(place, "tokens")
    loader = streaming.StreamingDataLoader(
        data,
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=join if stack or place.is_packed else None,
    )
    if place.state is not None:
        loader.load_state_dict(place.state)
    if stack or place.is_packed:
        return Reader(lambda: _packed(place, loader), loader.state_dict)
    return Reader(lambda: (batch["tokens"] for batch in loader), loader.state_dict)


def litdata(place, *, form="litdata-zstd", workers=0):
    """LitData over S3 on its own format (or on MDS); its client is let speak plain HTTP."""
    import litdata as package
    from litdata.streaming import downloader

    # Its S3 client refuses http endpoints and has no option for them.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    batch_size = _DOCUMENTS_A_BATCH if place.is_packed else BATCH_ROWS
    data = package.StreamingDataset(
        f"s3://{BUCKET}/{place.corpus}/{form}",
        cache_dir=str(place.cache),
        shuffle=True,
        storage_options={
            "endpoint_url": place.endpoint,
            "aws_access_key_id": KEYS["access_key_id"],
            "aws_secret_access_key": KEYS["secret_access_key"],
            "region_name": KEYS["region"],
        },
    )
    loader = package.StreamingDataLoader(
        data,
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_joined(place, "tokens" if form == "mds" else None),
    )
    if place.state is not None:
        loader.load_state_dict(place.state)
    return Reader(lambda: _packed(place, loader), loader.state_dict)


def webdataset(place, *, workers=0, buffer=1000):
    """WebDataset on uncompressed tar over HTTP, by its own curl; shards and a buffer shuffled."""
    import webdataset as package
    from torch.utils.data import DataLoader

    folder = f"{BUCKET}/{place.corpus}/tar"
    urls = [f"{place.endpoint}/{folder}/{name}" for name in _names(place, "tar")]
    data = package.WebDataset(
        urls,
        shardshuffle=len(urls),
        seed=0,
        cache_dir=str(place.cache) if place.cache.is_dir() else None,
    )
    data = data.shuffle(buffer).map(_tar_tokens)
    batch_size = _DOCUMENTS_A_BATCH if place.is_packed else BATCH_ROWS
    loader = DataLoader(data, batch_size, num_workers=workers, collate_fn=_joined(place, None))
    return Reader(lambda: _packed(place, loader))


def huggingface(place, *, buffer=1000):
    """Hugging Face `datasets`, streaming Parquet over HTTP as Arrow tables, without row objects.

    `buffer=0` shuffles files alone: its buffer of rows costs more than everything else together.
    """
    import datasets

    folder = f"{BUCKET}/{place.corpus}/parquet"
    urls = [f"{place.endpoint}/{folder}/{name}" for name in _names(place, "parquet")]
    random.Random(0).shuffle(urls)
    data = datasets.load_dataset("parquet", data_files=urls, split="train", streaming=True)
    if buffer:
        data = data.shuffle(seed=0, buffer_size=buffer)
    data = data.with_format("arrow")
    if place.state is not None:
        data.load_state_dict(place.state)
    return Reader(lambda: _packed(place, _arrow_tokens(place, data)), data.state_dict)


def memmap(place):
    """The ceiling: rows of a flat local file in random order, one numpy call a batch."""
    folder = place.served / place.corpus
    tokens = np.memmap(folder / "tokens.bin", np.uint16, "r")
    starts = np.load(folder / "starts.npy")
    rng = np.random.default_rng(0)

    def rows():
        table = tokens.reshape(-1, SEQ_LEN)
        order = rng.permutation(len(table))
        for first in range(0, len(order) // BATCH_ROWS * BATCH_ROWS, BATCH_ROWS):
            yield table[order[first : first + BATCH_ROWS]]

    def documents():
        for row in rng.permutation(len(starts) - 1):
            yield tokens[starts[row] : starts[row + 1]]

    return Reader((lambda: _packed(place, documents())) if place.is_packed else rows)


def import_streaming():
    """Import mosaicml-streaming, an empty module in torchvision's place where that does not load.

    Streaming imports torchvision at its top, and a build of it for CUDA does not load beside a CPU
    build of torch. Nothing used here calls it.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            module = types.ModuleType(f"torchvision{name}")
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            sys.modules[module.__name__] = module
        sys.modules["torchvision.datasets"].VisionDataset = type("VisionDataset", (), {})
        sys.modules["torchvision.transforms.functional"].to_tensor = None
    return importlib.import_module("streaming")


def _names(place, form):
    return json.loads((place.served / place.corpus / form / "names.json").read_text())


def _tar_tokens(sample):
    return np.frombuffer(sample["u16"], np.uint16)


def _joined(place, column):
    """Return the collate function: rows stacked, or documents one after the other."""
    import torch

    join = np.concatenate if place.is_packed else np.stack

    def collate(samples):
        if column is not None:
            samples = [sample[column] for sample in samples]
        return torch.from_numpy(join([np.asarray(sample) for sample in samples]))

    return collate


def _arrow_tokens(place, data):
    """Yield the tokens of a table at a time: [n, 2048], or documents one after the other."""
    for table in data.iter(batch_size=_DOCUMENTS_A_BATCH if place.is_packed else BATCH_ROWS):
        tokens = table["tokens"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        yield tokens if place.is_packed else tokens.reshape(-1, SEQ_LEN)


def _packed(place, pieces):
    """Cut token runs into batches, documents running on; batches of whole rows pass through."""
    if not place.is_packed:
        yield from pieces
        return
    need, held, size = BATCH_ROWS * SEQ_LEN, [], 0
    for piece in pieces:
        held.append(np.asarray(piece))
        size += len(piece)
        if size < need:
            continue
        run = np.concatenate(held)
        whole = size // need * need
        yield from run[:whole].reshape(-1, BATCH_ROWS, SEQ_LEN)
        held, size = [run[whole:]], size - whole

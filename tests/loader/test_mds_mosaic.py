# SPDX-License-Identifier: Apache-2.0
"""MDS against mosaicml-streaming: its writer and our reader, our writer and its reader."""

import importlib.util
import json
import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moot.loader.errors import ShardError
from moot.loader.shards import MDSWriter, find_shards, gather, read_shard
from moot.loader.shards.images import RawImage
from moot.loader.storage import open_store

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("streaming") is None,
    reason="mosaicml-streaming is not installed (extra `mosaic`)",
)

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float16", "float32", "float64")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
VALUES = {
    "bytes": st.binary(max_size=40),
    "str": st.text(max_size=20),
    "int": st.integers(-(2**63), 2**63 - 1),
    "str_int": st.integers(-(10**30), 10**30),
    "str_float": st.floats(allow_nan=False),
    "str_decimal": st.decimals(allow_nan=False, allow_infinity=False),
    "json": JSON,
    **{name: st.integers(np.iinfo(name).min, np.iinfo(name).max) for name in INTEGERS},
    **{name: st.floats(width=8 * np.dtype(name).itemsize, allow_nan=False) for name in FLOATS},
}
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple) | st.sampled_from([
    (256,),
    (300,),
])


def arrays(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    seeds = st.integers(0, 2**32)

    def build(seed: int) -> np.ndarray:
        bits = np.random.default_rng(seed).bytes(size)
        array = np.frombuffer(bits, dtype).reshape(shape)
        return np.nan_to_num(array) if dtype in FLOATS else array

    return seeds.map(build)


@st.composite
def columns(draw) -> tuple[str, st.SearchStrategy]:
    """An encoding and the values it takes."""
    style = draw(st.sampled_from(["plain", "plain", "ndarray", "dtype", "static"]))
    if style == "plain":
        encoding = draw(st.sampled_from(sorted(VALUES)))
        return encoding, VALUES[encoding]
    dtype = draw(st.sampled_from(INTEGERS + FLOATS))
    if style == "static":
        shape = draw(SHAPES)
        return f"ndarray:{dtype}:{','.join(map(str, shape))}", arrays(dtype, shape)
    any_shape = SHAPES.flatmap(lambda shape: arrays(dtype, shape))
    if style == "dtype":
        return f"ndarray:{dtype}", any_shape
    dtypes = st.sampled_from(INTEGERS + FLOATS)
    return "ndarray", dtypes.flatmap(lambda d: SHAPES.flatmap(lambda shape: arrays(d, shape)))


@st.composite
def corpora(draw) -> dict:
    """Columns, samples and the writer's settings."""
    names = draw(
        st.lists(st.text("abcXYZ_09", min_size=1, max_size=6), min_size=1, max_size=5, unique=True)
    )
    drawn = {name: draw(columns()) for name in names}
    samples = draw(
        st.lists(
            st.fixed_dictionaries({n: v for n, (_, v) in drawn.items()}), min_size=1, max_size=12
        )
    )
    return {
        "columns": {name: encoding for name, (encoding, _) in drawn.items()},
        "samples": samples,
        "compression": draw(
            st.sampled_from([
                None,
                "zstd",
                "zstd:1",
                "zstd:7",
                "gz",
                "gz:0",
                "bz2",
                "bz2:1",
                "br:1",
                "snappy",
            ])
        ),
        "hashes": sorted(
            draw(st.sets(st.sampled_from(["xxh64", "xxh3_128", "sha1", "sha256", "blake2b"])))
        ),
        "size_limit": draw(st.sampled_from([1200, 4000, 1 << 26])),
    }


def write_theirs(streaming, folder: str, corpus: dict) -> None:
    with streaming.MDSWriter(
        columns=corpus["columns"], out=folder, compression=corpus["compression"],
        hashes=corpus["hashes"], size_limit=corpus["size_limit"],
    ) as writer:  # fmt: skip
        for sample in corpus["samples"]:
            writer.write(sample)


def write_ours(folder: str, corpus: dict) -> None:
    with MDSWriter(
        open_store(folder), corpus["columns"], compression=corpus["compression"],
        hashes=corpus["hashes"], size_limit=corpus["size_limit"],
    ) as writer:  # fmt: skip
        for sample in corpus["samples"]:
            writer.write(sample)


def read_theirs(streaming, folder: str) -> list[dict]:
    """Every sample by mosaicml's own reader of shards; unpacks and checks as its Stream does."""
    from streaming.base.compression import decompress
    from streaming.base.format import reader_from_json
    from streaming.base.hashing import get_hash

    samples = []
    for entry in json.loads((Path(folder) / "index.json").read_text())["shards"]:
        reader = reader_from_json(folder, None, entry)
        reader.validate(allow_unsafe_types=False)
        stored = entry["zip_data"] or entry["raw_data"]
        data = (Path(folder) / stored["basename"]).read_bytes()
        assert len(data) == stored["bytes"]
        for name, expected in stored["hashes"].items():
            assert get_hash(name, data) == expected
        raw = decompress(entry["compression"], data)
        (Path(folder) / entry["raw_data"]["basename"]).write_bytes(raw)
        samples += [reader.get_item(i) for i in range(reader.size)]
    return samples


def read_ours(folder: str) -> list[dict]:
    store = open_store(folder)
    samples = []
    for info in find_shards(store):
        shard = read_shard(store, info)
        rows = np.arange(shard.num_samples)
        values = [shard.values(name, rows) for name in info.column_names]
        for name, encoding, column in zip(
            info.column_names, info.column_encodings, values, strict=True
        ):
            check_native(shard, name, encoding, column)
        samples += [
            dict(zip(info.column_names, row, strict=True)) for row in zip(*values, strict=True)
        ]
    return samples


def check_native(shard, name: str, encoding: str, values: list) -> None:
    """The native lengths and gather agree with the decoded values."""
    lengths = shard.lengths(name).tolist()
    if encoding.startswith("ndarray"):
        assert lengths == [value.size for value in values]
    for row, value in enumerate(values):
        if not isinstance(value, np.ndarray):
            continue
        out = np.empty(value.size, value.dtype)
        place = (np.zeros(1, np.int32), np.array([row], np.int32))
        gather([shard], name, *place, np.zeros(1, np.int64), np.array([value.size]), out)
        assert out.tobytes() == value.tobytes()


def assert_same(found: list[dict], expected: list[dict], encodings: dict[str, str]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert sorted(one) == sorted(other)
        for name, encoding in encodings.items():
            if encoding.startswith("ndarray"):
                assert one[name].dtype == other[name].dtype
                assert one[name].shape == other[name].shape
                assert one[name].tobytes() == other[name].tobytes()
            else:
                assert one[name] == other[name]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(corpus=corpora())
def test_we_read_what_they_write(streaming, corpus):
    with tempfile.TemporaryDirectory() as folder:
        write_theirs(streaming, folder, corpus)
        assert_same(read_ours(folder), corpus["samples"], corpus["columns"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(corpus=corpora())
def test_they_read_what_we_write(streaming, corpus):
    with tempfile.TemporaryDirectory() as folder:
        write_ours(folder, corpus)
        assert_same(read_theirs(streaming, folder), corpus["samples"], corpus["columns"])


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(corpus=corpora())
def test_both_writers_lay_out_the_same_bytes(streaming, corpus):
    largest = 0
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        # One difference is meant: before a sample above the limit they publish an empty shard.
        write_ours(ours, {**corpus, "compression": None, "size_limit": 1 << 20})
        largest = sum(p.stat().st_size for p in Path(ours).glob("shard.*"))
    assert largest < 1 << 20
    corpus = {**corpus, "size_limit": max(corpus["size_limit"], 1 << 20)}
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        write_ours(ours, corpus)
        write_theirs(streaming, theirs, corpus)
        compare_layouts(Path(ours), Path(theirs))


def compare_layouts(ours: Path, theirs: Path) -> None:
    indexes = [json.loads((folder / "index.json").read_text()) for folder in (ours, theirs)]
    for index in indexes:
        for entry in index["shards"]:
            # Compressed bytes may differ with the version of zstd; the raw ones may not.
            entry["zip_data"] = entry["zip_data"] and entry["zip_data"]["basename"]
    assert indexes[0] == indexes[1]
    for entry in indexes[0]["shards"]:
        if entry["compression"] is None:
            name = entry["raw_data"]["basename"]
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def token_samples(num: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "tokens": rng.integers(0, 8192, n).astype(np.uint16),
            "text": f"document {i}",
            "source": "python",
            "domain": i % 7,
            "id": f"{i:016x}",
        }
        for i, n in enumerate(rng.integers(1, 600, num))
    ]


TOKEN_COLUMNS = {
    "tokens": "ndarray:uint16", "text": "str", "source": "str", "domain": "uint8", "id": "str",
}  # fmt: skip


@pytest.mark.parametrize("compression", [None, "zstd:3"])
def test_many_shards_have_the_same_bytes(streaming, tmp_path, compression):
    corpus = {
        "columns": TOKEN_COLUMNS, "samples": token_samples(300), "compression": compression,
        "hashes": ["sha1", "xxh64"], "size_limit": 20_000,
    }  # fmt: skip
    write_ours(str(tmp_path / "ours"), corpus)
    write_theirs(streaming, str(tmp_path / "theirs"), corpus)
    assert len(find_shards(open_store(str(tmp_path / "ours")))) > 5
    compare_layouts(tmp_path / "ours", tmp_path / "theirs")


def test_streaming_dataset_reads_our_corpus(streaming, tmp_path, monkeypatch):
    """Their whole dataset, hashes checked: index, decompression, order of samples."""
    from streaming.base.util import clean_stale_shared_memory

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))  # its lock files stay in there
    samples = token_samples(100)
    write_ours(str(tmp_path / "corpus"), {
        "columns": TOKEN_COLUMNS, "samples": samples, "compression": "zstd:3", "hashes": ["xxh64"],
        "size_limit": 20_000,
    })  # fmt: skip
    before = set(Path("/dev/shm").iterdir())
    dataset = streaming.StreamingDataset(
        remote=str(tmp_path / "corpus"), local=str(tmp_path / "local"), batch_size=1, shuffle=False,
        validate_hash="xxh64",
    )  # fmt: skip
    try:
        assert dataset.num_samples == 100
        assert_same([dataset[i] for i in range(100)], samples, TOKEN_COLUMNS)
    finally:
        del dataset
        clean_stale_shared_memory()
        for segment in set(Path("/dev/shm").iterdir()) - before:
            if segment.name[:6].isdigit():  # theirs are named 000000_locals and so on
                segment.unlink()


def test_their_pickles_are_refused(streaming, tmp_path):
    write_theirs(streaming, str(tmp_path / "c"), {
        "columns": {"x": "pkl"}, "samples": [{"x": {1}}], "compression": None, "hashes": [],
        "size_limit": 1 << 20,
    })  # fmt: skip
    with pytest.raises(ShardError, match="column 'x': encoding 'pkl' is refused"):
        find_shards(open_store(str(tmp_path / "c")))


def test_their_images_are_taken_apart(streaming, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    image = image_module.new("RGB", (4, 3), (255, 0, 0))
    files = [b"\xff\xd8\xff" + bytes(n) for n in (5, 0, 9)]
    write_theirs(streaming, str(tmp_path / "c"), {
        "columns": {
            "file": "png", "raw": "pil", "many": "list[png]", "raws": "list[pil]", "n": "uint8",
            "jpegs": "jpeg_array",
        },
        "samples": [{
            "file": image, "raw": image, "many": [image] * 2, "raws": [image], "n": 3,
            "jpegs": files,
        }],
        "compression": None, "hashes": [], "size_limit": 1 << 20,
    })  # fmt: skip
    store = open_store(str(tmp_path / "c"))
    shard = read_shard(store, find_shards(store)[0])
    assert shard.scalars("n").tolist() == [3]
    assert shard.values("file", [0])[0].startswith(b"\x89PNG")
    assert shard.values("many", [0])[0] == shard.values("file", [0]) * 2
    raw = RawImage(4, 3, "RGB", image.tobytes())
    assert shard.values("raw", [0]) == [raw]
    assert shard.values("raws", [0]) == [[raw]]
    assert shard.values("jpegs", [0]) == [files]


@pytest.mark.parametrize("shape", [(2048,), (1,), (3, 5)])
def test_their_arrays_of_a_static_shape(streaming, tmp_path, shape):
    """LitData's reader of MDS fails on these: "too many values to unpack"."""
    encoding = f"ndarray:uint16:{','.join(map(str, shape))}"
    rng = np.random.default_rng(0)
    samples = [{"tokens": rng.integers(0, 65536, shape).astype(np.uint16)} for _ in range(40)]
    write_theirs(streaming, str(tmp_path / "c"), {
        "columns": {"tokens": encoding}, "samples": samples, "compression": "zstd",
        "hashes": ["sha1"], "size_limit": 1 << 16,
    })  # fmt: skip
    assert_same(read_ours(str(tmp_path / "c")), samples, {"tokens": encoding})


def test_decimals_keep_their_digits(streaming, tmp_path):
    corpus = {
        "columns": {"x": "str_decimal"}, "samples": [{"x": Decimal("1.2300")}], "compression": None,
        "hashes": [], "size_limit": 1 << 20,
    }  # fmt: skip
    write_ours(str(tmp_path), corpus)
    [sample] = read_theirs(streaming, str(tmp_path))
    assert str(sample["x"]) == "1.2300"

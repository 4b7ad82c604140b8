# SPDX-License-Identifier: Apache-2.0
"""labels.parquet: what is stored, how little is read, and what is said when it lies."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from moot.loader.corpus import LabelPlan, Stream, Where, open_corpus, write_labels
from moot.loader.corpus import labels as labels_module
from moot.loader.corpus.sidecar import LABELS_NAME
from moot.loader.errors import ConfigError, ShardError
from moot.loader.shards import Ask, MDSWriter
from moot.loader.storage import open_store
from servers import FaultServer

COLUMNS = {"tokens": "ndarray:uint16", "id": "str", "domain": "uint8", "quality": "int64"}
STATES = {"domain": ["code", "docs", "mail"]}
PLAN = LabelPlan(columns=("quality", "domain"), states=STATES)


def make_samples(num, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "tokens": rng.integers(0, 500, int(rng.integers(1, 60))).astype(np.uint16),
            "id": f"s{seed} {i}",
            "domain": np.uint8(i * 3 // num),  # clustered
            "quality": int(rng.integers(0, 4)),  # scattered
        }
        for i in range(num)
    ]


def write(url, samples, compression=None, columns=None):
    store = open_store(str(url))
    with MDSWriter(store, columns or COLUMNS, compression=compression, size_limit=2500) as writer:
        for sample in samples:
            writer.write({name: sample[name] for name in columns or COLUMNS})
    store.close()


@pytest.fixture(scope="module")
def samples():
    return make_samples(200)


@pytest.fixture(scope="module", params=[None, "zstd"])
def labelled(request, tmp_path_factory, samples):
    """A corpus whose labels were stored."""
    url = tmp_path_factory.mktemp("labelled")
    write(url, samples, request.param)
    corpus = open_corpus(str(url))
    write_labels(corpus, PLAN)
    corpus.close()
    return url


@pytest.fixture
def corpus(labelled):
    corpus = open_corpus(str(labelled))
    yield corpus
    corpus.close()


def by_shard(corpus, values):
    return np.split(np.array(values), corpus.first_sample[1:-1])


def test_what_is_stored_is_what_the_samples_have(corpus, samples):
    assert len(corpus.shards) > 4
    domains = by_shard(corpus, [int(sample["domain"]) for sample in samples])
    qualities = by_shard(corpus, [sample["quality"] for sample in samples])
    lengths = by_shard(corpus, [len(sample["tokens"]) for sample in samples])
    for shard_id in range(len(corpus.shards)):
        labels = corpus.labels(shard_id, ["domain", "quality"])
        assert labels["domain"].dtype == np.uint8
        assert labels["quality"].dtype == np.uint32
        assert np.array_equal(labels["domain"], domains[shard_id])
        assert np.array_equal(labels["quality"], qualities[shard_id])
        stored = corpus.stored_lengths(shard_id)
        assert stored.dtype == np.uint32
        assert np.array_equal(stored, lengths[shard_id])


def test_hashes_are_those_of_the_stored_samples(corpus):
    for shard_id, info in enumerate(corpus.shards):
        raw = corpus.read(shard_id)._buffer.tobytes()
        offsets = np.frombuffer(raw, "<u4", info.num_samples + 1, 4).tolist()
        spans = zip(offsets, offsets[1:], strict=False)
        expected = [xxhash.xxh3_64_intdigest(raw[begin:end]) for begin, end in spans]
        found = corpus.sample_hashes(shard_id)
        assert found.dtype == np.uint64
        assert found.tolist() == expected


def test_sizes_are_those_of_the_stored_samples(corpus):
    for shard_id, info in enumerate(corpus.shards):
        raw = corpus.read(shard_id)._buffer
        offsets = raw[4 : 8 + 4 * info.num_samples].view("<u4").astype(np.int64)
        found = corpus.sample_bytes(shard_id)
        assert found.dtype == np.uint64
        assert found.tolist() == np.diff(offsets).tolist()


def test_single_samples_are_verified_by_them(corpus):
    rows = np.array([0, 3, 5])
    ask = Ask(rows=rows, verify="ranges", hashes=corpus.sample_hashes(2))
    shard = corpus.read(2, ask)
    assert shard.values("id", rows) == corpus.read(2).values("id", rows)
    assert shard.unverified_bytes == 0
    hashes = corpus.sample_hashes(2).copy()
    hashes[3] ^= np.uint64(1)
    with pytest.raises(ShardError, match="sample 3 is corrupt"):
        corpus.read(2, Ask(rows=rows, verify="ranges", hashes=hashes))


def test_cells_count_documents_and_tokens(corpus, samples):
    place = 0
    for shard_id, num in enumerate(corpus.samples_per_shard.tolist()):
        counted = {}
        for sample in samples[place : place + num]:
            cell = (int(sample["domain"]), sample["quality"])
            documents, tokens = counted.get(cell, (0, 0))
            counted[cell] = (documents + 1, tokens + len(sample["tokens"]))
        cells = corpus.cell_counts(shard_id)
        keys = zip(cells.labels["domain"].tolist(), cells.labels["quality"].tolist(), strict=True)
        counts = zip(cells.documents.tolist(), cells.tokens.tolist(), strict=True)
        assert dict(zip(keys, counts, strict=True)) == counted
        place += num


WHERES = [
    "quality >= 2",
    "domain == 'docs'",
    "domain in ['code', 'mail'] and not quality == 1",
    "length < 20 or quality == 3",
    "domain == 0 and length >= 30",
    "quality > 7",
    "quality >= 0",
    "domain == 1 or domain != 1",
]


@pytest.mark.parametrize("text", WHERES)
def test_wanted_rows_are_those_the_predicate_names(corpus, samples, text):
    names = {"code": 0, "docs": 1, "mail": 2}
    wanted = []
    for sample in samples:
        row = {
            "domain": int(sample["domain"]),
            "quality": sample["quality"],
            "length": len(sample["tokens"]),
        }
        for name, number in names.items():
            text = text.replace(f"'{name}'", str(number))
        wanted.append(eval(text, {"__builtins__": {}}, row))
    where = Where.parse(text)
    for shard_id, expected in enumerate(by_shard(corpus, wanted)):
        rows = corpus.wanted(shard_id, where)
        assert rows.dtype == np.int64
        assert rows.tolist() == np.flatnonzero(expected).tolist()
    counted = corpus.stored.counted(0, where)
    if "length" in text:
        assert counted is None
        return
    lengths = [len(sample["tokens"]) for sample in samples]
    kept = np.where(wanted, lengths, 0)
    assert counted[0].tolist() == [int(part.sum()) for part in by_shard(corpus, wanted)]
    assert counted[1].tolist() == [int(part.sum()) for part in by_shard(corpus, kept)]


def test_names_of_states_must_be_known(corpus):
    with pytest.raises(ConfigError, match="no state 'poem'; it has code, docs, mail"):
        corpus.wanted(0, Where.parse("domain == 'poem'"))
    with pytest.raises(ConfigError, match="'quality' have no names"):
        corpus.wanted(0, Where.parse("quality == 'good'"))
    with pytest.raises(ConfigError, match="no column 'topic'; it holds quality, domain, length"):
        corpus.wanted(0, Where.parse("topic == 1"))


def test_labels_are_read_only(corpus):
    with pytest.raises(ValueError, match="read-only"):
        corpus.labels(0, ["domain"])["domain"][0] = 1


def test_without_a_sidecar_nothing_is_known(tmp_path, samples):
    write(tmp_path, samples)
    corpus = open_corpus(str(tmp_path))
    assert corpus.stored_lengths(0) is None
    assert corpus.sample_hashes(0) is None
    assert corpus.cell_counts(0) is None
    with pytest.raises(ConfigError, match=r"holds no labels\.parquet; make it with write_labels"):
        corpus.labels(0, ["domain"])
    with pytest.raises(ConfigError, match=r"no labels\.parquet"):
        corpus.wanted(0, Where.parse("domain == 1"))
    corpus.close()


def sidecar_requests(server):
    return [seen for seen in server.requests() if seen.path.endswith(LABELS_NAME)]


def test_the_labels_of_a_shard_are_one_request(labelled):
    with FaultServer(labelled) as server:
        corpus = open_corpus(server.url)
        corpus.labels(0, ["domain"])
        for shard_id in range(1, len(corpus.shards)):
            before = len(sidecar_requests(server))
            corpus.labels(shard_id, ["quality", "domain", "length"])
            assert len(sidecar_requests(server)) == before + 1
            corpus.labels(shard_id, ["domain"])  # kept
            corpus.stored_lengths(shard_id)
            assert len(sidecar_requests(server)) == before + 1
        corpus.close()


def test_cells_spare_the_labels(labelled):
    with FaultServer(labelled) as server:
        corpus = open_corpus(server.url)
        num = len(corpus.shards)
        assert corpus.wanted(num - 1, Where.parse("domain == 'code'")).size == 0
        before = len(sidecar_requests(server))
        for shard_id in range(num):
            corpus.wanted(shard_id, Where.parse("quality > 9"))
            corpus.wanted(shard_id, Where.parse("quality <= 3"))
        assert len(sidecar_requests(server)) == before
        read = 0
        for shard_id in range(num):
            rows = corpus.wanted(shard_id, Where.parse("domain == 'code'"))
            read += 0 < rows.size < corpus.samples_per_shard[shard_id]
        assert len(sidecar_requests(server)) == before + read
        assert read < num / 2
        corpus.close()


def test_hashes_are_not_fetched_with_labels(labelled):
    with FaultServer(labelled) as server:
        corpus = open_corpus(server.url)
        corpus.stored_lengths(0)

        def fetched(call):
            before = len(sidecar_requests(server))
            call()
            (seen,) = sidecar_requests(server)[before:]
            begin, end = map(int, seen.range.removeprefix("bytes=").split("-"))
            return end - begin

        num_bytes = 8 * int(corpus.samples_per_shard[1])
        assert fetched(lambda: corpus.sample_hashes(1)) >= num_bytes
        assert fetched(lambda: corpus.labels(1, ["domain"])) < num_bytes
        corpus.close()


def test_many_threads_read_the_same_labels(labelled, samples):
    corpus = open_corpus(str(labelled))
    expected = by_shard(corpus, [sample["quality"] for sample in samples])
    shard_ids = list(range(len(corpus.shards))) * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: corpus.labels(i, ["quality"])["quality"], shard_ids))
    for shard_id, values in zip(shard_ids, found, strict=True):
        assert np.array_equal(values, expected[shard_id])
    corpus.close()


def test_what_is_kept_is_bounded(labelled, monkeypatch):
    monkeypatch.setattr(labels_module, "KEPT_BYTES", 300)
    corpus = open_corpus(str(labelled))
    for _ in range(2):
        for shard_id in range(len(corpus.shards)):
            assert len(corpus.stored_lengths(shard_id)) == corpus.samples_per_shard[shard_id]
            assert corpus.stored._kept_bytes <= 300
    corpus.close()


def test_every_stream_has_labels_of_its_own(tmp_path):
    streams, ids = [], []
    for seed, states in ((1, ["code", "docs", "mail"]), (2, ["mail", "code", "docs"])):
        samples = make_samples(60, seed)
        write(tmp_path / str(seed), samples)
        one = open_corpus(str(tmp_path / str(seed)))
        write_labels(one, LabelPlan(columns=("domain",), states={"domain": states}))
        streams.append(Stream(str(tmp_path / str(seed))))
        ids += [sample["id"] for sample in samples if states[sample["domain"]] == "docs"]
    corpus = open_corpus(streams)
    where, found = Where.parse("domain == 'docs'"), []
    for shard_id in range(len(corpus.shards)):
        found += corpus.read(shard_id).values("id", corpus.wanted(shard_id, where))
    assert found == ids
    corpus.close()


def test_several_streams_are_labelled_at_once(tmp_path):
    for name, num in (("a", 50), ("b", 30)):
        write(tmp_path / name, make_samples(num, num))
    corpus, done = open_corpus([Stream(str(tmp_path / name)) for name in "ab"]), []
    write_labels(corpus, PLAN, progress=lambda *counts: done.append(counts))
    num = len(corpus.shards)
    assert done == [(i + 1, num) for i in range(num)]
    again = open_corpus(str(tmp_path / "b"))
    assert len(again.stored_lengths(0)) == again.samples_per_shard[0]
    corpus.close()


def test_a_function_labels_what_columns_do_not(tmp_path, samples):
    write(tmp_path, samples)

    def label(shard):
        texts = shard.values("id", range(shard.num_samples))
        last = np.array([int(text[-1]) for text in texts])
        return {"last": last.astype(np.uint16), "odd": last % 2 == 1}

    corpus = open_corpus(str(tmp_path))
    write_labels(corpus, LabelPlan(columns=("domain",), label=label, cells=("domain", "odd")))
    labels = [corpus.labels(i, ["last", "odd", "domain"]) for i in range(len(corpus.shards))]
    last = [int(sample["id"][-1]) for sample in samples]
    assert np.concatenate([part["last"] for part in labels]).tolist() == last
    assert [part["odd"].dtype for part in labels] == [np.uint8] * len(labels)
    assert set(corpus.cell_counts(0).labels) == {"domain", "odd"}
    rows = [corpus.wanted(i, Where.parse("last == 3 and odd == 1")) for i in range(len(labels))]
    found = np.concatenate([corpus.first_sample[i] + part for i, part in enumerate(rows)])
    assert found.tolist() == [i for i, digit in enumerate(last) if digit == 3]
    corpus.close()


def test_empty_shards_take_no_row_group(tmp_path, samples):
    write(tmp_path, samples)
    index = json.loads((tmp_path / "index.json").read_text())
    for place in (0, 3, len(index["shards"])):
        index["shards"].insert(place, {**index["shards"][place - 1], "samples": 0})
    (tmp_path / "index.json").write_text(json.dumps(index))
    corpus = open_corpus(str(tmp_path))
    write_labels(corpus, PLAN)
    assert corpus.labels(3, ["domain"])["domain"].shape == (0,)
    assert corpus.wanted(0, Where.parse("quality > 1")).shape == (0,)
    assert corpus.wanted(0, Where.parse("length > 1")).shape == (0,)
    lengths = [corpus.stored_lengths(i) for i in range(len(corpus.shards))]
    assert np.concatenate(lengths).tolist() == [len(sample["tokens"]) for sample in samples]
    corpus.close()


def test_lengths_and_labels_may_be_left_out(tmp_path, samples):
    write(tmp_path, samples)
    corpus = open_corpus(str(tmp_path))
    write_labels(corpus, LabelPlan())
    corpus.close()
    corpus = open_corpus(str(tmp_path))
    assert corpus.stored_lengths(0).size
    assert corpus.cell_counts(0) is None
    assert corpus.wanted(0, Where.parse("length >= 1")).size == corpus.samples_per_shard[0]
    write_labels(corpus, LabelPlan(columns=("domain",), token_column=None))
    corpus.close()
    corpus = open_corpus(str(tmp_path))
    assert corpus.stored_lengths(0) is None
    assert not corpus.cell_counts(0).tokens.any()
    corpus.close()


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        (LabelPlan(columns=("topic",)), ShardError, "no column 'topic'"),
        (LabelPlan(columns=("id",)), ShardError, "'id' is str, not a scalar"),
        (LabelPlan(token_column="text"), ShardError, "no column 'text'"),
        (LabelPlan(columns=("domain",), states={"topic": ["a"]}), ConfigError, "labels are domain"),
        (LabelPlan(columns=("domain",), cells=("quality",)), ConfigError, "is no label column"),
        (LabelPlan(label=lambda s: {"x": np.zeros(1, np.uint8)}), ConfigError, r"uint8 \[1\]"),
        (LabelPlan(label=lambda s: {"x": np.full(s.num_samples, 0.5)}), ConfigError, "float64"),
        (LabelPlan(label=lambda s: {"x": np.full(s.num_samples, -1)}), ConfigError, "-1 to -1"),
        (LabelPlan(label=lambda s: {"x": np.full(s.num_samples, 2**32)}), ConfigError, "states"),
        (LabelPlan(label=lambda s: {"a b": np.zeros(s.num_samples, int)}), ConfigError, "plain"),
        (LabelPlan(label=lambda s: {"length": np.zeros(s.num_samples, int)}), ConfigError, "plain"),
        (
            LabelPlan(label=lambda s: {f"x{s.info.shard_id}": np.zeros(s.num_samples, int)}),
            ConfigError,
            "its labels are x1 .* those before x0",
        ),
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused_and_nothing_is_written(
    tmp_path, samples, plan, error, message
):
    write(tmp_path, samples)
    corpus = open_corpus(str(tmp_path))
    with pytest.raises(error, match=message):
        write_labels(corpus, plan)
    assert not (tmp_path / LABELS_NAME).exists()
    corpus.close()


def test_too_many_cells_are_refused(tmp_path, samples, monkeypatch):
    from moot.loader.corpus import write_labels as module_or_function

    write(tmp_path, samples)
    monkeypatch.setitem(module_or_function.__globals__, "MAX_CELLS", 10)
    corpus = open_corpus(str(tmp_path))
    with pytest.raises(ConfigError, match="more than 10 cells"):
        write_labels(corpus, PLAN)
    corpus.close()


def copy(labelled, tmp_path):
    for file in labelled.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_stale_sidecar_is_refused(labelled, tmp_path):
    copy(labelled, tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    file = index["shards"][0]["zip_data"] or index["shards"][0]["raw_data"]
    file["hashes"]["xxh64"] = "0" * 16
    (tmp_path / "index.json").write_text(json.dumps(index))
    corpus = open_corpus(str(tmp_path))
    for call in (
        lambda: corpus.labels(1, ["domain"]),
        lambda: corpus.stored_lengths(1),
        lambda: corpus.cell_counts(1),
        lambda: corpus.wanted(1, Where.parse("domain == 1")),
    ):
        with pytest.raises(
            ShardError, match=r"labels\.parquet is stale: .* label the corpus again"
        ):
            call()
    corpus.close()


def test_labelling_again_mends_it(labelled, tmp_path, samples):
    copy(labelled, tmp_path)
    (tmp_path / LABELS_NAME).write_bytes(b"no table")
    corpus = open_corpus(str(tmp_path))
    with pytest.raises(ShardError, match="is no Parquet table"):
        corpus.stored_lengths(0)
    write_labels(corpus, PLAN)
    assert corpus.stored_lengths(0)[0] == len(samples[0]["tokens"])
    corpus.close()


def rewrite(path, change):
    """Let `change` edit the groups (lists of columns by name), the metadata and the cells."""
    file = pq.ParquetFile(path)
    groups = [file.read_row_group(i).to_pydict() for i in range(file.num_row_groups)]
    types = {field.name: field.type for field in file.schema_arrow}
    kept = {key: value for key, value in file.metadata.metadata.items() if key != b"ARROW:schema"}
    table = pa.ipc.open_stream(base64.b64decode(kept[b"moot.cells"])).read_all()
    cells, cell_types = table.to_pydict(), {field.name: field.type for field in table.schema}
    change(groups, types, kept, cells)
    if cells is not None and b"moot.cells" in kept:
        arrays = {name: pa.array(values, cell_types.get(name)) for name, values in cells.items()}
        written, stream = pa.table(arrays), io.BytesIO()
        with pa.ipc.new_stream(stream, written.schema) as writer:
            writer.write_table(written)
        if not kept[b"moot.cells"].startswith(b"!"):
            kept[b"moot.cells"] = base64.b64encode(stream.getvalue())
    sink = io.BytesIO()
    schema = pa.schema([(name, types[name]) for name in groups[0]])
    with pq.ParquetWriter(sink, schema) as writer:
        for group in groups:
            arrays = [pa.array(values, types[name]) for name, values in group.items()]
            table = pa.table(arrays, schema=schema)
            writer.write_table(table, row_group_size=max(1, len(table)))
        writer.add_key_value_metadata(kept)
    path.write_bytes(sink.getvalue())


def retype(name, kind):
    def change(groups, types, kept, cells):
        types[name] = kind

    return change


def each(edit):
    def change(groups, types, kept, cells):
        for group in groups:
            edit(group)

    return change


def spell_out(groups, types, kept, cells):
    types["domain"] = pa.string()
    for group in groups:
        group["domain"] = [str(value) for value in group["domain"]]


def shorten_hashes(groups, types, kept, cells):
    types["xxh3_64"] = pa.uint32()
    for group in groups:
        group["xxh3_64"] = [value >> 32 for value in group["xxh3_64"]]


LIES = {
    "a row more": (
        lambda g, t, k, c: [column.append(column[0]) for column in g[1].values()],
        "row groups are not",
    ),
    "a group less": (lambda g, t, k, c: g.pop(), "row groups are not"),
    "groups exchanged": (lambda g, t, k, c: g.append(g.pop(0)), "row groups are not|label"),
    "a float": (retype("quality", pa.float64()), "'quality' is double, no label"),
    "signed": (retype("quality", pa.int32()), "'quality' is int32, no label"),
    "short lengths": (retype("length", pa.uint16()), "'length' is uint16, no label"),
    "short hashes": (shorten_hashes, "'xxh3_64' is uint32, no label"),
    "texts": (spell_out, "'domain' is (large_)?string, no label"),
    "null": (lambda g, t, k, c: g[0]["domain"].__setitem__(0, None), "not .* labels"),
    "lengths of no name": (
        lambda g, t, k, c: k.update({b"moot.length_of": b'{"column": 5}'}),
        "its lengths count is no name",
    ),
    "lengths of no kind": (
        lambda g, t, k, c: k.update({b"moot.length_of": b'["tokens"]'}),
        "its lengths count cannot be read",
    ),
    "version": (lambda g, t, k, c: k.update({b"moot.version": b"9"}), "version '9' is not 1"),
    "no metadata": (lambda g, t, k, c: k.clear(), "version '' is not 1"),
    "states of nothing": (
        lambda g, t, k, c: k.update({b"moot.states": b'{"topic": ["a"]}'}),
        "'topic' are no texts",
    ),
    "states of numbers": (
        lambda g, t, k, c: k.update({b"moot.states": b'{"domain": [1]}'}),
        "'domain' are no texts",
    ),
    "states of no kind": (lambda g, t, k, c: k.update({b"moot.states": b"[1"}), "cannot be read"),
    "states of no list": (
        lambda g, t, k, c: k.update({b"moot.states": b'{"domain": 5}'}),
        "cannot be read",
    ),
    "cells of no kind": (lambda g, t, k, c: k.update({b"moot.cells": b"!!"}), "cells cannot be"),
    "cells of another count": (
        lambda g, t, k, c: c["documents"].__setitem__(0, 7000),
        "do not count",
    ),
    "cells of huge counts": (
        lambda g, t, k, c: c["documents"].__setitem__(0, 2**63 + 5),
        "do not count",
    ),
    "cells of no documents": (lambda g, t, k, c: c["documents"].__setitem__(0, 0), "do not count"),
    "cells of other shards": (lambda g, t, k, c: c["shard"].__setitem__(-1, 10**6), "do not count"),
    "cells in disorder": (lambda g, t, k, c: c["shard"].reverse(), "do not count"),
    "cells of other columns": (
        lambda g, t, k, c: c.update({"label.topic": c.pop("label.domain")}),
        "not what cells must be",
    ),
    "cells without tokens": (lambda g, t, k, c: c.pop("tokens"), "not what cells must be"),
    "cells that are null": (
        lambda g, t, k, c: c["tokens"].__setitem__(0, None),
        "not what cells must be",
    ),
    "labels that cells do not count": (
        each(lambda g: g.update(quality=[(v + 1) % 4 for v in g["quality"]])),
        "its cells count",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_sidecar_is_refused(labelled, tmp_path, lie):
    change, message = LIES[lie]
    copy(labelled, tmp_path)
    rewrite(tmp_path / LABELS_NAME, change)
    corpus = open_corpus(str(tmp_path))

    def read_all():
        for shard_id in range(len(corpus.shards)):
            corpus.labels(shard_id, ["domain", "quality", "length", "xxh3_64"])
            corpus.wanted(shard_id, Where.parse("quality == 1"))

    with pytest.raises(ShardError, match=message):
        read_all()
    corpus.close()


def test_a_rewritten_sidecar_is_as_good(labelled, tmp_path, samples):
    copy(labelled, tmp_path)
    rewrite(tmp_path / LABELS_NAME, lambda *parts: None)
    corpus = open_corpus(str(tmp_path))
    lengths = [corpus.stored_lengths(i) for i in range(len(corpus.shards))]
    assert np.concatenate(lengths).tolist() == [len(sample["tokens"]) for sample in samples]
    corpus.close()


def test_lengths_that_do_not_say_of_what_are_left_alone(labelled, tmp_path):
    """A sidecar written before lengths had a name."""
    copy(labelled, tmp_path)
    rewrite(tmp_path / LABELS_NAME, lambda g, t, kept, c: kept.pop(b"moot.length_of"))
    corpus = open_corpus(str(tmp_path))
    message = "holds lengths of a column that it does not name, not of column 'tokens': .* again"
    with pytest.warns(UserWarning, match=message) as seen:
        for shard_id in range(len(corpus.shards)):
            assert corpus.stored_lengths(shard_id) is None
    assert len(seen) == 1
    assert corpus.wanted(0, Where.parse("length >= 1")).size == corpus.samples_per_shard[0]
    corpus.close()


def test_lengths_are_given_to_those_who_ask_for_theirs(corpus):
    assert corpus.stored_lengths(0, "tokens") is not None
    with pytest.warns(UserWarning, match="not of column 'id'"):
        assert corpus.stored_lengths(0, "id") is None
    assert corpus.stored_lengths(0, "tokens", "0" * 32) is None


@given(st.data())
def test_a_damaged_sidecar_breaks_with_a_shard_error_alone(labelled, tmp_path_factory, data):
    tmp_path = copy(labelled, tmp_path_factory.mktemp("damaged"))
    whole = bytearray((tmp_path / LABELS_NAME).read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
            whole[place] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / LABELS_NAME).write_bytes(whole)
    corpus = open_corpus(str(tmp_path))
    try:
        for shard_id, num in enumerate(corpus.samples_per_shard.tolist()):
            labels = corpus.labels(shard_id, ["domain", "quality"])
            assert [values.shape for values in labels.values()] == [(num,), (num,)]
            corpus.wanted(shard_id, Where.parse("quality == 1"))
            corpus.sample_hashes(shard_id)
    except (ShardError, ConfigError):
        pass
    finally:
        corpus.close()

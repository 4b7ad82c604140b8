# SPDX-License-Identifier: Apache-2.0
import base64
import gzip
import json
import os
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moot.loader.errors import ConfigError
from moot.loader.shards import MDSWriter, read_index, read_shard
from moot.loader.storage import open_store
from moot.trainer.corpora import (
    DOMAINS,
    LocalConfig,
    Root,
    TextConfig,
    build_local,
    build_text,
    inspect_corpus,
)
from moot.trainer.corpora.build import silent
from moot.trainer.corpora.degrade import KINDS, degrade, degraded_copies
from moot.trainer.corpora.documents import (
    Document,
    SkippedError,
    cut_text,
    num_bytes,
    read_text,
    text_id,
    water_fill,
)
from moot.trainer.corpora.local import collect_local
from moot.trainer.corpora.reader import docstrings
from moot.trainer.corpora.roots import list_files
from moot.trainer.corpora.tokens import END_OF_DOCUMENT, encode_documents, train_tokenizer

WORDS = [
    f"{head}{tail}"
    for head in ("stream", "batch", "gram", "vote", "theta", "shard", "lo", "cor", "pol", "re")
    for tail in ("ing", "er", "ed", "s", "ment", "al", "icy", "ous", "able", "'s")
]


def sentences(rng, count):
    """Lines of made-up prose."""
    lines = (" ".join(rng.choices(WORDS, k=rng.randint(6, 14))) for _ in range(count))
    return "\n".join(f"{line.capitalize()}." for line in lines)


def module(rng, name):
    """A module that is half docstrings."""
    parts = [f'"""{name}: {sentences(rng, 8)}"""']
    for number in range(rng.randint(3, 8)):
        parts.append(f'\ndef part_{number}(value):\n    """{sentences(rng, 4)}"""')
        parts.append(f"    return value + {rng.randint(0, 999)}  # {rng.choice(WORDS)}")
    return "\n".join(parts) + "\n"


def fake_files():
    """Path -> bytes of a small machine: 24 distributions, system documentation, manual pages."""
    files = {}
    for number in range(24):
        rng = random.Random(number)
        name = f"pack{number:02d}"
        for part in ("__init__", "core", "extra"):
            files[f"site/{name}/{part}.py"] = module(rng, f"{name}.{part}")
        files[f"site/{name}/guide.rst"] = sentences(rng, 30)
        files[f"site/{name}/include/{name}.h"] = "// header\n" + sentences(rng, 20)
        files[f"site/{name}/table.json"] = json.dumps({"rows": rng.choices(WORDS, k=200)})
        info = f"site/{name}-1.{number}.dist-info"
        files[f"{info}/RECORD"] = f"{name}/__init__.py,,\n{name}/core.py,,\n"
        files[f"{info}/METADATA"] = f"Name: {name}\n\n" + sentences(rng, 20)
        files[f"doc/{name}/README"] = sentences(rng, 20)
        files[f"doc/{name}/changelog.gz"] = gzip.compress(sentences(rng, 40).encode(), mtime=0)
        page = gzip.compress(f".TH {name}\n{sentences(rng, 30)}".encode(), mtime=0)
        files[f"man/man1/{name}-tool.1.gz"] = page
        files[f"doc/{name}/copyright"] = sentences(rng, 20)
    return files


def write_tree(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tuple(Root(str(folder / kind), kind) for kind in ("site", "doc", "man"))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("machine"), fake_files())


def small(roots, **changes):
    settings = {
        "size_bytes": 300_000,
        "reference_bytes": 25_000,
        "heldout_bytes": 25_000,
        "package_share": 0.3,
        "vocab_size": 600,
        "shard_bytes": 1 << 16,
        "roots": roots,
    }
    return LocalConfig(**(settings | changes))


@pytest.fixture(scope="module")
def corpus(roots, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    return out, build_local(str(out), small(roots))


def read_split(out, name, columns=("id", "text", "source", "domain", "tokens")):
    store = open_store(str(out)).child(name)
    rows = []
    for info in read_index(store):
        shard = read_shard(store, info)
        every = range(shard.num_samples)
        values = [
            shard.scalars(column).tolist() if column == "domain" else shard.values(column, every)
            for column in columns
        ]
        rows += [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
    return rows


def truth(out):
    table = pq.read_table(out / "truth.parquet")
    return dict(zip(table["id"].to_pylist(), table["kind"].to_pylist(), strict=True))


def stored(out):
    """Name -> bytes of everything below a folder."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


# Documents


@given(st.text(max_size=60), st.integers(0, 80))
def test_cut_ends_between_characters(text, size):
    cut = cut_text(text, size)
    assert text.startswith(cut)
    assert num_bytes(cut) <= size
    rest = text[len(cut) :]
    assert not rest or num_bytes(cut) + num_bytes(rest[0]) > size


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"ab\0cd" * 100, "binary"),
        (b"caf\xe9 " * 100, "not_utf8"),
        (b"  tiny  \n" + b" " * 500, "short"),
    ],
)
def test_unusable_files_name_their_reason(tmp_path, content, reason):
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(SkippedError) as caught:
        read_text(str(path), 200)
    assert caught.value.reason == reason


def test_missing_and_torn_files_are_unreadable(tmp_path):
    torn = tmp_path / "torn.gz"
    torn.write_bytes(gzip.compress(os.urandom(5000))[:900])
    for path in (tmp_path / "nothing.txt", torn):
        with pytest.raises(SkippedError) as caught:
            read_text(str(path), 200)
        assert caught.value.reason == "unreadable"


def test_long_file_is_cut_within_the_limit_not_refused(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("x" + "\u20ac" * 40_000)
    text = read_text(str(path), 200)
    assert num_bytes(text) == 65_536 - (65_536 - 1) % 3
    assert set(text[1:]) == {"\u20ac"}


def test_truncated_last_character_of_a_whole_file_is_not_utf8(tmp_path):
    path = tmp_path / "torn.txt"
    path.write_bytes(b"a" * 300 + "\u20ac".encode()[:2])
    with pytest.raises(SkippedError, match="not_utf8"):
        read_text(str(path), 200)


@given(
    st.dictionaries(st.text("abc", min_size=1), st.floats(0, 1e6), min_size=1),
    st.floats(0, 1e7),
)
def test_water_fill_is_even_where_text_allows(available, total):
    shares = water_fill(available, total)
    assert all(shares[name] <= available[name] for name in available)
    assert sum(shares.values()) == pytest.approx(min(total, sum(available.values())))
    level = max(shares.values())
    for name, share in shares.items():
        assert share == pytest.approx(level) or share == available[name]


# Files of a machine


def test_files_have_the_domain_and_package_of_their_place(tmp_path):
    long = "text " * 100
    roots = write_tree(
        tmp_path,
        {
            "site/yaml/__init__.py": long,
            "site/PyYAML-6.0.dist-info/RECORD": "yaml/__init__.py,,\nyaml/x.py,,\n",
            "site/PyYAML-6.0.dist-info/licenses/LICENSE": long,
            "site/pip/_vendor/urllib3/response.py": long,
            "site/pip-24.dist-info/RECORD": "pip/__init__.py,,\n",
            "site/google/auth/a.py": long,
            "site/google_auth-2.dist-info/RECORD": "google/auth/a.py,,\n",
            "site/google_core-2.dist-info/RECORD": "google/core/a.py,,\n",
            "site/google_core-2.dist-info/METADATA": long,
            "site/moot-0.1.dist-info/RECORD": "_moot_editable.py,,\n",
            "site/_moot_editable.py": long,
            "site/numpy/include/a.hpp": long,
            "site/numpy/data.csv": long,
            "site/numpy/logo.png": long,
            "doc/python3-yaml/changelog.Debian.gz": gzip.compress(long.encode()),
            "doc/git/README.md": long,
            "doc/git/copyright": long,
            "man/man1/git-config.1.gz": gzip.compress(long.encode()),
        },
    )
    files = list_files(roots, 0)
    found = {
        (name, os.path.basename(file.path), file.package)
        for name in DOMAINS
        for file in files[name]
    }
    assert found == {
        ("python", "__init__.py", "pyyaml"),
        ("docstring", "__init__.py", "pyyaml"),
        ("licence", "LICENSE", "pyyaml"),
        ("python", "response.py", "urllib3"),
        ("docstring", "response.py", "urllib3"),
        ("python", "a.py", "google"),
        ("docstring", "a.py", "google"),
        ("licence", "METADATA", "google"),
        ("header", "a.hpp", "numpy"),
        ("data", "data.csv", "numpy"),
        ("manual", "changelog.Debian.gz", "yaml"),
        ("docs", "README.md", "git"),
        ("licence", "copyright", "git"),
        ("manual", "git-config.1.gz", "git"),
    }


def test_links_are_not_followed_and_no_root_is_walked_twice(tmp_path):
    roots = write_tree(tmp_path, {"site/pack/a.py": "a = 1\n", "share/elsewhere.py": "b = 2\n"})
    (tmp_path / "site/loop").symlink_to(tmp_path / "site")
    (tmp_path / "site/pack/b.py").symlink_to(tmp_path / "share/elsewhere.py")
    inner = Root(str(tmp_path / "site/pack"), "stdlib")
    files = list_files((roots[0], inner), 0)
    assert [file.path for file in files["python"]] == [str(tmp_path / "site/pack/a.py")]


def test_docstrings_come_in_the_order_of_the_code():
    code = '''"""one"""
class A:
    """two"""
    def f(self):
        """three
        indented
        """
        def inner():
            "four"
try:
    pass
except OSError:
    def g():
        """five"""
text = """not a docstring"""
'''
    assert docstrings(code).split("\n\n") == ["one", "two", "three\nindented", "four", "five"]


def test_code_that_does_not_parse_is_counted_not_raised():
    for code in ("def broken(:", "x = " + "(" * 5000):
        with pytest.raises(SkippedError, match="unparsable"):
            docstrings(code)


# Degraded copies

PLAIN = sentences(random.Random(1), 60)
NATIVE = "Zur\u00fcck, \u201egesagt\u201c \u2013 \u00e0 la carte \u20ac\n" * 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [PLAIN, NATIVE], ids=["ascii", "native"])
def test_each_kind_spoils_the_text_and_keeps_its_length(kind, text):
    for seed in range(8):
        spoilt = degrade(text, kind, random.Random(seed), partner=PLAIN[::-1])
        assert spoilt == degrade(text, kind, random.Random(seed), partner=PLAIN[::-1])
        assert num_bytes(text) - 3 <= num_bytes(spoilt) <= num_bytes(text)
        same = sum(a == b for a, b in zip(text, spoilt, strict=False))
        assert same < 0.7 * len(text)


def test_mojibake_shows_on_plain_ascii():
    spoilt = degrade('It\'s "quoted" - a e i o u.\n' * 30, "mojibake", random.Random(0))
    assert "\u00c3" in spoilt
    assert "\u00e2\u20ac" in spoilt or "\u00c3\u00a2" in spoilt


def test_shuffled_words_are_the_same_words():
    spoilt = degrade(PLAIN, "shuffled", random.Random(3))
    assert spoilt != PLAIN
    assert sorted(spoilt.split()) == sorted(PLAIN.split())


def test_dumps_hold_the_bytes_of_the_text():
    prefixes = set()
    for seed in range(12):
        lines = degrade(PLAIN, "dump", random.Random(seed)).splitlines()
        head = lines[0]
        if head.startswith("00000000  "):
            prefixes.add(bytes.fromhex(head[10:]))
        elif set(head) <= set("0123456789abcdef"):
            prefixes.add(bytes.fromhex(head))
        else:
            prefixes.add(base64.b64decode(head))
    assert len(prefixes) == 3
    assert all(PLAIN.encode().startswith(prefix) for prefix in prefixes)


def make_documents(count):
    texts = [sentences(random.Random(number), 5 + number % 7) for number in range(count)]
    return [
        Document(text, number % 7, f"pack{number % 5}", text_id(text))
        for number, text in enumerate(texts)
    ]


def test_copies_are_the_stated_share_of_all_kinds_and_new():
    documents = make_documents(300)
    copies, kinds = degraded_copies(documents, 0.25, seed=5)
    assert len(copies) == 100
    assert min(Counter(kinds)[kind] for kind in KINDS) >= 8
    ids = {document.id for document in documents}
    assert len({copy.id for copy in copies} - ids) == 100
    assert all(copy.id == text_id(copy.text) for copy in copies)
    origins = Counter((one.domain, one.source, num_bytes(one.text)) for one in documents)
    for copy in copies:
        size = num_bytes(copy.text)
        places = [(copy.domain, copy.source, size + more) for more in range(4)]
        assert any(origins[place] for place in places)


def test_copies_do_not_depend_on_the_order_of_documents():
    documents = make_documents(60)
    mixed = random.Random(0).sample(documents, len(documents))
    assert degraded_copies(documents, 0.3, 1) == degraded_copies(mixed, 0.3, 1)
    assert degraded_copies(documents, 0.3, 1) != degraded_copies(documents, 0.3, 2)


def test_no_share_no_copies():
    assert degraded_copies(make_documents(9), 0.0, 0) == ([], [])
    assert degraded_copies([], 0.25, 0) == ([], [])


# Tokens


def test_tokens_decode_to_the_text_and_end_with_the_end_token():
    documents = make_documents(20)
    tricky = f"say {END_OF_DOCUMENT} twice {END_OF_DOCUMENT}\n\u20ac\U0001f600\x01 tail  "
    documents.append(Document(tricky, 0, "pack", text_id(tricky)))
    tokenizer = train_tokenizer(documents, 600, 0)
    end = tokenizer.token_to_id(END_OF_DOCUMENT)
    for document, tokens in zip(documents, encode_documents(tokenizer, documents), strict=True):
        assert tokens.dtype == np.uint16
        assert tokens[-1] == end
        assert end not in tokens[:-1]
        assert tokenizer.decode(tokens[:-1].tolist(), skip_special_tokens=False) == document.text


def test_tokenizer_is_the_same_with_one_thread_and_with_many(monkeypatch):
    documents = make_documents(80)
    found = set()
    for parallel in ("false", "true", "true"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        found.add(train_tokenizer(documents[::-1], 700, 0).to_str())
    assert len(found) == 1


# A whole corpus


def test_corpus_is_what_its_description_says(corpus):
    out, meta = corpus
    assert meta["domains"] == list(DOMAINS)
    assert meta["reused"] is False
    for name, split in meta["splits"].items():
        rows = read_split(out, name)
        by_domain = Counter(DOMAINS[row["domain"]] for row in rows)
        assert by_domain == {
            domain: count["documents"]
            for domain, count in split["domains"].items()
            if count["documents"]
        }
        counts = split["domains"].values()
        assert sum(count["tokens"] for count in counts) == sum(len(row["tokens"]) for row in rows)
        text_bytes = sum(len(row["text"].encode()) for row in rows)
        assert sum(count["text_bytes"] for count in counts) == text_bytes
        assert all(row["id"] == text_id(row["text"]) for row in rows)
        assert all(row["tokens"][-1] == meta["eod_id"] for row in rows)
    assert meta["splits"]["train"]["shards"] > 3
    assert (
        abs(sum(c["text_bytes"] for c in meta["splits"]["train"]["domains"].values()) - 3e5) < 5e4
    )
    assert set(by_domain) <= {"python", "docs", "docstring"}


def test_domains_share_the_train_set_evenly(corpus):
    _, meta = corpus
    sizes = [one["text_bytes"] for one in meta["splits"]["train"]["domains"].values()]
    assert min(sizes) > 0.5 * max(sizes)


def test_no_package_and_no_text_is_in_two_sets(corpus):
    out, meta = corpus
    rows = {name: read_split(out, name) for name in ("train", "reference", "heldout")}
    for one, other in (("train", "reference"), ("train", "heldout"), ("reference", "heldout")):
        for key in ("source", "id"):
            assert not {row[key] for row in rows[one]} & {row[key] for row in rows[other]}
    assert {row["source"] for row in rows["reference"]} == set(meta["notes"]["reference_packages"])
    assert {row["source"] for row in rows["heldout"]} == set(meta["notes"]["heldout_packages"])
    texts = [row["id"] for split in rows.values() for row in split]
    assert len(texts) == len(set(texts))


def test_truth_names_every_train_document_and_nothing_else(corpus):
    out, meta = corpus
    kinds = truth(out)
    rows = read_split(out, "train")
    assert set(kinds) == {row["id"] for row in rows}
    share = sum(kind != "clean" for kind in kinds.values()) / len(kinds)
    assert share == pytest.approx(0.25, abs=0.01)
    assert meta["degraded"]["share"] == pytest.approx(share)


def test_no_column_tells_a_degraded_copy(corpus):
    out, _ = corpus
    kinds = truth(out)
    rows = read_split(out, "train")
    assert set(read_index(open_store(str(out)).child("train"))[0].column_names) == {
        "tokens",
        "text",
        "source",
        "domain",
        "id",
    }
    clean = [row for row in rows if kinds[row["id"]] == "clean"]
    spoilt = [row for row in rows if kinds[row["id"]] != "clean"]
    places = {(row["source"], row["domain"]) for row in clean}
    assert all((row["source"], row["domain"]) in places for row in spoilt)
    assert {len(row["id"]) for row in rows} == {32}
    sizes = [[len(row["text"].encode()) for row in some] for some in (clean, spoilt)]
    assert np.mean(sizes[1]) == pytest.approx(np.mean(sizes[0]), rel=0.2)
    position = [number for number, row in enumerate(rows) if kinds[row["id"]] != "clean"]
    assert np.mean(position) / len(rows) == pytest.approx(0.5, abs=0.12)


def test_shards_mix_domains_and_lengths(corpus):
    rows = read_split(corpus[0], "train")
    place = np.arange(len(rows))
    for column in (
        [len(row["text"]) for row in rows],
        [row["domain"] for row in rows],
        [row["id"] for row in rows],
    ):
        ranks = np.unique(column, return_inverse=True)[1]
        assert abs(np.corrcoef(place, ranks)[0, 1]) < 0.2


def test_same_files_and_seed_give_the_same_bytes(roots, corpus, tmp_path):
    again = list(fake_files().items())
    random.Random(3).shuffle(again)
    build_local(str(tmp_path / "out"), small(write_tree(tmp_path / "machine", dict(again))))
    first, second = stored(corpus[0]), stored(tmp_path / "out")
    metas = [json.loads(files.pop("corpus.json")) for files in (first, second)]
    for meta in metas:
        del meta["config"]["roots"], meta["notes"]["roots"]
    assert metas[0] == metas[1]
    assert first == second


def test_another_seed_gives_another_corpus(roots, corpus, tmp_path):
    meta = build_local(str(tmp_path), small(roots, seed=1))
    assert meta["notes"]["reference_packages"] != corpus[1]["notes"]["reference_packages"]
    assert meta["corpus_id"] != corpus[1]["corpus_id"]


def test_same_configuration_is_reused_another_refused_unless_forced(roots, tmp_path):
    config = small(roots, size_bytes=60_000, reference_bytes=5000, heldout_bytes=5000)
    first = build_local(str(tmp_path), config)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = build_local(str(tmp_path), config)
    assert again == first | {"reused": True}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    other = small(roots, size_bytes=50_000, reference_bytes=5000, heldout_bytes=5000)
    with pytest.raises(ConfigError, match=r"size_bytes 60000 -> 50000.*--out.*--force"):
        build_local(str(tmp_path), other)
    (tmp_path / "agents.safetensors").write_bytes(b"fitted to the old corpus")
    forced = build_local(str(tmp_path), other, force=True)
    assert forced["config"]["size_bytes"] == 50_000
    assert not (tmp_path / "agents.safetensors").exists()
    assert inspect_corpus(str(tmp_path))["corpus_id"] == forced["corpus_id"]


def test_build_that_was_cut_off_is_built_anew(roots, corpus, tmp_path):
    store = open_store(str(tmp_path))
    with MDSWriter(store.child("train"), {"id": "str"}) as writer:
        writer.write({"id": "left over"})
    with pytest.raises(ConfigError, match="no finished corpus"):
        inspect_corpus(str(tmp_path))
    assert build_local(str(tmp_path), small(roots))["corpus_id"] == corpus[1]["corpus_id"]


def test_too_little_text_says_what_was_found(roots, tmp_path):
    config = small(roots, size_bytes=50_000_000)
    with pytest.raises(ConfigError, match=r"MB per domain: python 0\.\d+, header 0.*--size \d"):
        build_local(str(tmp_path / "out"), config)
    config = small(roots, reference_bytes=40_000_000)
    with pytest.raises(ConfigError, match=r"reference set: 40.00 MB wanted, found python 0"):
        build_local(str(tmp_path / "out"), config)
    assert not (tmp_path / "out").exists()


def test_large_package_stays_in_the_train_set(tmp_path):
    files = fake_files()
    for number in range(40):
        files[f"site/giant/part{number}.py"] = module(random.Random(1000 + number), "giant")
    roots = write_tree(tmp_path / "machine", files)
    for seed in range(20):
        splits = collect_local(small(roots, seed=seed, package_share=0.1), silent)
        assert "giant" not in splits.notes["reference_packages"]
        assert "giant" not in splits.notes["heldout_packages"]
        assert "giant" in {document.source for document in splits.train}


def test_binary_foreign_short_and_duplicate_files_are_counted(tmp_path):
    files = fake_files()
    files["site/pack01/zero.txt"] = b"\0" * 400
    files["site/pack02/latin.txt"] = b"caf\xe9 " * 100
    files["site/pack03/copy.rst"] = files["site/pack04/guide.rst"]
    files["site/pack05/tiny.md"] = "tiny"
    roots = write_tree(tmp_path / "machine", files)
    meta = build_local(str(tmp_path / "out"), small(roots, size_bytes=760_000))
    counts = [meta["skipped"][name] for name in ("binary", "not_utf8", "duplicate")]
    assert counts == [1, 1, 1]
    assert meta["skipped"]["short"] >= 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"degraded_share": 0.6}, "degraded_share=0.6"),
        ({"vocab_size": 70_000}, "vocab_size=70000"),
        ({"size_bytes": 0}, "size_bytes=0"),
        ({"reference_domains": ("pyhton",)}, "pyhton"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        LocalConfig(**changes)


def test_inspection_shows_examples_of_every_domain(corpus):
    out, meta = corpus
    found = inspect_corpus(str(out))
    assert found["kinds"]["clean"] + sum(meta["degraded"]["kinds"].values()) == len(truth(out))
    assert found["agents"] is False
    rows = {row["id"]: row for row in read_split(out, "train")}
    shown = [(name, one) for name, examples in found["examples"].items() for one in examples]
    assert len({name for name, _ in shown}) >= 5
    for name, example in shown:
        assert rows[example["id"]]["text"].startswith(example["text"])
        assert DOMAINS[rows[example["id"]]["domain"]] == name
        assert truth(out)[example["id"]] == example["kind"]


def test_corpus_without_text_shows_decoded_tokens(roots, corpus, tmp_path):
    build_local(str(tmp_path), small(roots, text_column=False))
    with_text, without = (inspect_corpus(str(one))["examples"] for one in (corpus[0], tmp_path))
    texts = {row["id"]: row["text"] for row in read_split(corpus[0], "train")}
    assert sum(map(len, with_text.values())) > 0
    for example in (one for examples in without.values() for one in examples):
        assert texts[example["id"]].startswith(example["text"][:-4])
        assert len(example["text"]) > 100


# A user's own text


def rows_of(count, first=0):
    return [
        {
            "body": sentences(random.Random(number), 8),
            "from": f"site{number % 3}",
            "key": str(number),
        }
        for number in range(first, first + count)
    ]


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_rows(path, rows):
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(as_lines(rows)))
    elif path.name.endswith(".zst"):
        path.write_bytes(pa.Codec("zstd").compress(as_lines(rows), asbytes=True))
    else:
        path.write_bytes(as_lines(rows))


COLUMNS = {"text_from": "body", "source_from": "from", "vocab_size": 600}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"])
def test_tables_of_every_kind_give_the_same_corpus(tmp_path, name):
    rows = rows_of(40)
    path = tmp_path / name
    write_rows(path, rows)
    meta = build_text(str(tmp_path / "out"), [path], TextConfig(**COLUMNS, id_from="key"))
    assert meta["domains"] == ["site0", "site1", "site2"]
    assert meta["notes"]["split"] == "seeded"
    found = [
        (row["id"], row["text"], row["source"], meta["domains"][row["domain"]])
        for split in meta["splits"]
        for row in read_split(tmp_path / "out", split)
    ]
    assert sorted(found) == sorted(
        (row["key"], row["body"], row["from"], row["from"]) for row in rows
    )
    assert all(
        sum(c["documents"] for c in one["domains"].values()) for one in meta["splits"].values()
    )


def test_given_reference_and_heldout_are_used_as_they_are(tmp_path):
    parts = {"train": rows_of(20), "ref": rows_of(5, 100), "held": rows_of(5, 200)}
    for name, rows in parts.items():
        write_rows(tmp_path / f"{name}.jsonl", rows)
    config = TextConfig(
        **COLUMNS,
        reference=(str(tmp_path / "ref.jsonl"),),
        heldout=(str(tmp_path / "held.jsonl"),),
    )
    meta = build_text(str(tmp_path / "out"), [tmp_path / "train.jsonl"], config)
    assert meta["notes"]["split"] == "given"
    for name, split in (("train", "train"), ("ref", "reference"), ("held", "heldout")):
        found = {row["text"] for row in read_split(tmp_path / "out", split)}
        assert found == {row["body"] for row in parts[name]}


def test_reference_text_is_taken_out_of_the_train_set(tmp_path):
    rows = rows_of(20)
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "ref.jsonl", rows[:6])
    config = TextConfig(**COLUMNS, reference=(str(tmp_path / "ref.jsonl"),))
    meta = build_text(str(tmp_path / "out"), [tmp_path / "train.jsonl"], config)
    texts = {
        name: {row["text"] for row in read_split(tmp_path / "out", name)} for name in meta["splits"]
    }
    assert texts["reference"] | texts["heldout"] == {row["body"] for row in rows[:6]}
    assert texts["train"] == {row["body"] for row in rows[6:]}
    assert meta["skipped"]["duplicate"] == 6


def test_folder_of_text_files_takes_folders_as_sources(tmp_path):
    for number in range(12):
        folder = tmp_path / "mine" / ("poems" if number % 2 else "letters")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(sentences(random.Random(number), 8))
    meta = build_text(str(tmp_path / "out"), [tmp_path / "mine"], TextConfig(vocab_size=600))
    assert meta["domains"] == ["letters", "poems"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"body": "x"}\n{"txt": "y"}\n', r"line 2: no column 'body'; it has 'txt'"),
        (b'{"body": "x"}\n{"body": \n', r"line 2: not JSON"),
        (b'["body"]\n', r"line 1: not a JSON object"),
        (b'{"body": 7}\n', r"line 1: column 'body' holds int, not text"),
        (b'{"body": "\xff"}\n', r"not readable as lines of UTF-8"),
        (b'{"body": "too short"}\n', r"no document of at least 200 characters.*'short': 1"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, named):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=named):
        build_text(str(tmp_path / "out"), [path], TextConfig(text_from="body"))


def test_bad_paths_and_ids_are_named(tmp_path):
    (tmp_path / "notes.docx").write_bytes(b"PK")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 nothing")
    write_rows(tmp_path / "twice.jsonl", [*rows_of(3), rows_of(1, 50)[0] | {"key": "1"}])
    config = TextConfig(**COLUMNS, id_from="key")
    for name, named in (
        ("nowhere.jsonl", "no such file"),
        ("notes.docx", "not a kind of file"),
        ("torn.parquet", "not a readable Parquet"),
        ("twice.jsonl", "line 4: id '1' stands twice"),
    ):
        with pytest.raises(ConfigError, match=named):
            build_text(str(tmp_path / "out"), [tmp_path / name], config)
    with pytest.raises(ConfigError, match="would stand out"):
        TextConfig(id_from="key", degraded_share=0.1)

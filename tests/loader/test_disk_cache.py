"""Stored shards on disk: real folders, a real web server, real processes that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from corpora import random_lengths, tokens_of, write_corpus
from moot.loader import Loader, ShardError, StorageError
from moot.loader.corpus import open_corpus
from moot.loader.prefetch import ShardCache
from moot.loader.prefetch.disk import DiskCache, key_of
from moot.loader.prefetch.disk_folder import ShardFolder
from moot.loader.prefetch.failures import lost_shard
from moot.loader.prefetch.held import footprint
from moot.loader.shards import Ask, MDSWriter, find_shards, read_shard
from moot.loader.storage import open_store
from servers import Answer, FaultServer, Flip, Short, Stall

LENGTHS = random_lengths(120)
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
NOT_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


@pytest.fixture
def server(tmp_path):
    write_corpus(tmp_path / "corpus", LENGTHS, size_limit=1 << 12)
    with FaultServer(tmp_path) as server:
        yield server


@pytest.fixture
def corpus(server):
    corpus = open_corpus(f"{server.url}/corpus")
    yield corpus
    corpus.close()


def read(cache, corpus, shard_id=0):
    """Read a shard, check every token, and return it."""
    shard = cache.read(corpus.store_of(shard_id), corpus.shards[shard_id])
    first = int(corpus.first_sample[shard_id])
    for i, tokens in enumerate(shard.values("tokens", range(shard.num_samples)), first):
        assert tokens.tolist() == tokens_of(i, 0, LENGTHS[i]).tolist()
    return shard


def read_all(cache, corpus):
    for shard_id in range(len(corpus.shards)):
        read(cache, corpus, shard_id)


def gets(server):
    """How often each shard was fetched."""
    paths = [seen.path for seen in server.requests() if ".mds" in seen.path]
    return [paths.count(path) for path in sorted(set(paths))]


def files(folder, part="**/*.shard"):
    return sorted(path for path in Path(folder, "moot-shards").glob(part) if path.is_file())


def test_a_shard_is_fetched_once_and_then_read_from_disk(tmp_path, server, corpus):
    num = len(corpus.shards)
    read_all(DiskCache(tmp_path / "cache"), corpus)
    assert gets(server) == [1] * num and len(files(tmp_path / "cache")) == num
    again = DiskCache(tmp_path / "cache")
    read_all(again, corpus)
    stored = int(corpus.shards.stored_bytes.sum())
    assert gets(server) == [1] * num
    counts = again.counters()
    assert (counts["hits"], counts["misses"], counts["bytes_read"]) == (num, 0, stored)
    assert files(tmp_path / "cache", "parts/*") == files(tmp_path / "cache", "quarantine/*") == []


def test_a_file_holds_the_bytes_as_they_are_stored(tmp_path, corpus):
    read(DiskCache(tmp_path / "cache"), corpus, 2)
    (kept,) = files(tmp_path / "cache")
    assert kept.read_bytes() == (tmp_path / "corpus" / corpus.shards[2].stored_name).read_bytes()


def test_what_is_asked_for_in_parts_goes_past_the_disk(tmp_path, server):
    write_corpus(tmp_path / "plain", LENGTHS, compression=None)
    corpus, cache = open_corpus(f"{server.url}/plain"), DiskCache(tmp_path / "cache")
    ask = Ask(verify="none", rows=np.array([1, 3]))
    shard = cache.read(corpus.store_of(0), corpus.shards[0], ask)
    assert shard.values("tokens", [3])[0].tolist() == tokens_of(3, 0, LENGTHS[3]).tolist()
    assert files(tmp_path / "cache") == []
    corpus.close()


@pytest.mark.parametrize("harm", ["flip", "cut", "grow", "empty"])
def test_a_file_that_was_harmed_is_moved_aside_and_fetched_again(tmp_path, server, corpus, harm):
    read(DiskCache(tmp_path / "cache"), corpus)
    (kept,) = files(tmp_path / "cache")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 0x10
    kept.write_bytes({"flip": data, "cut": data[:-5], "grow": data + b"x", "empty": b""}[harm])
    cache = DiskCache(tmp_path / "cache")
    with pytest.warns(UserWarning, match="on disk is corrupt. Moved aside to .*quarantine"):
        read(cache, corpus)
    assert cache.counters()["quarantined"] == 1 and gets(server) == [2]
    read(cache, corpus)
    assert gets(server) == [2] and cache.counters()["hits"] == 1
    assert [path.name for path in files(tmp_path / "cache", "quarantine/*")] == [kept.name]


def test_a_file_that_is_whole_but_another_shard_is_found_by_the_hash_of_the_index(
    tmp_path, server, corpus
):
    """Its name fits its bytes, so only the check of the reader can tell."""
    read(DiskCache(tmp_path / "cache"), corpus)
    (kept,) = files(tmp_path / "cache")
    other = bytes(len(kept.read_bytes()))
    key, size, _ = kept.stem.split("-")
    kept.unlink()
    wrong = kept.with_name(f"{key}-{size}-{xxhash.xxh3_64_hexdigest(other)}.shard")
    wrong.write_bytes(other)
    cache = DiskCache(tmp_path / "cache")
    with pytest.warns(UserWarning, match="xxh64 .* expects .* Moved aside"):
        read(cache, corpus)
    assert cache.counters()["quarantined"] == 1 and gets(server) == [2]
    assert files(tmp_path / "cache", "??/*") == [kept]


@pytest.mark.parametrize("fault", [Flip(200), Answer(403)])
def test_what_was_not_read_well_is_not_kept(tmp_path, server, corpus, fault):
    server.plan(fault, path=corpus.shards[0].stored_name)
    cache = DiskCache(tmp_path / "cache")
    with pytest.raises((ShardError, StorageError)):
        read(cache, corpus)
    assert files(tmp_path / "cache", "**/*.*") == []
    read(cache, corpus)
    assert len(files(tmp_path / "cache")) == 1


def test_a_body_cut_short_on_the_way_is_not_kept(tmp_path, server, corpus):
    server.plan(Short(100), path=corpus.shards[0].stored_name)
    read(DiskCache(tmp_path / "cache"), corpus)
    (kept,) = files(tmp_path / "cache")
    assert kept.stat().st_size == corpus.shards[0].stored_bytes


def test_shards_that_are_parts_of_one_file_have_a_file_each(tmp_path):
    """Also where a part is longer than what the store fetches at a time."""
    tokens = np.arange(15_000_000, dtype=np.uint32).astype(np.uint16)
    (tmp_path / "corpus").mkdir()
    tokens.tofile(tmp_path / "corpus" / "train.bin")
    store, cache = open_store(str(tmp_path / "corpus")), DiskCache(tmp_path / "cache")
    (whole,) = find_shards(store, {"sample_tokens": 1000}, "raw")
    size = 10_000_000
    parts = [replace(whole, start=i * size, raw_bytes=size, num_samples=5000) for i in range(3)]
    for _ in range(2):
        shards = [cache.read(store, part) for part in parts]
        first = [shard.values("tokens", [0])[0][0] for shard in shards]
        assert first == tokens[:: size // 2].tolist()
    assert cache.counters()["hits"] == len(files(tmp_path / "cache")) == 3
    store.close()


def test_a_corpus_without_hashes_that_was_rewritten_has_other_keys(corpus):
    """Equal names and sizes, no hashes: only the digest of the index tells the two apart."""
    store, hashed = corpus.store_of(0), corpus.shards[0]
    bare = replace(hashed, zip_hashes={}, raw_hashes={})
    assert len({key_of(store, bare, digest) for digest in "aab"}) == 2
    assert len({key_of(store, hashed, digest) for digest in "ab"}) == 1


# ---- several processes


READER = """
import json, sys
from moot.loader.corpus import open_corpus
from moot.loader.prefetch import disk
url, folder, shard_ids, patience = json.loads(sys.argv[1])
disk._PATIENCE_S = patience
corpus, cache = open_corpus(url), disk.DiskCache(folder)
print("open", flush=True)
first = [cache.read(corpus.store_of(i), corpus.shards[i]).values("tokens", [0])[0][0]
         for i in shard_ids]
print(json.dumps([list(map(int, first)), cache.counters()]), flush=True)
corpus.close()
"""


class Reader:
    """A process that reads shards through a cache and tells what it saw."""

    def __init__(self, server, folder, shard_ids, patience_s=60):
        job = json.dumps([f"{server.url}/corpus", str(folder), list(shard_ids), patience_s])
        command = [sys.executable, "-c", READER, job]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "open\n"

    def result(self):
        line = self.process.communicate(timeout=120)[0]
        assert self.process.returncode == 0
        return json.loads(line)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        self.process.stdout.close()


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


def test_two_processes_fetch_each_shard_once_between_them(tmp_path, server, corpus):
    num = len(corpus.shards)
    server.plan(*[Stall(0.05)] * num, path=".mds")
    readers = [Reader(server, tmp_path / "cache", range(num)) for _ in range(2)]
    (first, some), (second, others) = [reader.result() for reader in readers]
    expected = [int(tokens_of(int(i), 0, 1)[0]) for i in corpus.first_sample[:-1]]
    assert first == second == expected
    assert gets(server) == [1] * num
    assert some["misses"] + others["misses"] == some["hits"] + others["hits"] == num
    assert files(tmp_path / "cache", "parts/*") == []


def test_a_process_killed_in_the_middle_of_a_fetch_leaves_nothing(tmp_path, server, corpus):
    name = corpus.shards[1].stored_name
    server.plan(Stall(60, after=100), path=name)
    reader = Reader(server, tmp_path / "cache", [0, 1])
    until(lambda: any(name in seen.path for seen in server.requests()))
    reader.kill()
    assert len(files(tmp_path / "cache", "parts/*")) == 1
    cache = DiskCache(tmp_path / "cache")
    assert files(tmp_path / "cache", "parts/*") == []
    read_all(cache, corpus)
    assert cache.counters()["hits"] == 1 and len(files(tmp_path / "cache")) == len(corpus.shards)


def test_who_waits_for_a_killed_process_goes_on_itself(tmp_path, server, corpus):
    name = corpus.shards[0].stored_name
    server.plan(Stall(60, after=100), path=name)
    killed = Reader(server, tmp_path / "cache", [0])
    until(lambda: any(name in seen.path for seen in server.requests()))
    waiting = Reader(server, tmp_path / "cache", [0])
    time.sleep(0.3)
    assert len([seen for seen in server.requests() if name in seen.path]) == 1
    killed.kill()
    first, counts = waiting.result()
    assert first == [1] and counts["waits"] == counts["misses"] == 1
    assert len(files(tmp_path / "cache")) == 1 and files(tmp_path / "cache", "parts/*") == []


def test_who_waits_for_a_process_that_hangs_fetches_for_itself(tmp_path, server, corpus):
    name = corpus.shards[0].stored_name
    server.plan(Stall(60, after=100), path=name)
    hangs = Reader(server, tmp_path / "cache", [0])
    until(lambda: any(name in seen.path for seen in server.requests()))
    first, counts = Reader(server, tmp_path / "cache", [0], patience_s=0.2).result()
    assert first == [1] and counts["misses"] == 1 and counts["errors"] == 0
    hangs.kill()


def test_a_part_that_is_being_written_is_not_swept(tmp_path):
    folder = ShardFolder(tmp_path, None)
    claim = folder.claim("0" * 32)
    assert folder.claim("0" * 32) is None
    ShardFolder(tmp_path, None)
    claim.publish(np.arange(9, dtype=np.uint8), 9)
    claim.close()
    (file,) = folder.find("0" * 32)
    out = np.empty(9, np.uint8)
    assert file.read_into(out) and out.tolist() == list(range(9))


# ---- a limit


def put(folder, number, size=1000):
    claim = folder.claim(f"{number:032x}")
    claim.publish(np.full(size, number % 251, np.uint8), size)
    claim.close()
    folder.wrote(size)


def kept(folder):
    return [n for n in range(40) if folder.find(f"{n:032x}")]


def test_the_least_recently_used_files_go_first(tmp_path):
    folder = ShardFolder(tmp_path, 10_000)
    for number in range(10):
        put(folder, number)
    assert kept(folder) == list(range(10))
    (oldest,) = folder.find(f"{0:032x}")
    assert oldest.read_into(np.empty(1000, np.uint8))
    put(folder, 10)
    assert kept(folder) == [0, *range(3, 11)] and folder.evictions == 2


def test_the_limit_holds_over_many_files_and_processes(tmp_path):
    limit = 100_000
    folders = [ShardFolder(tmp_path, limit) for _ in range(2)]
    for number in range(400):
        put(folders[number % 2], number)
        total = sum(path.stat().st_size for path in files(tmp_path))
        assert total <= limit * (1 + 2 / 64)
    assert total > limit // 2


def test_a_file_that_is_read_right_now_is_not_evicted(tmp_path):
    import fcntl

    folder = ShardFolder(tmp_path, 5000)
    for number in range(5):
        put(folder, number)
    (file,) = folder.find(f"{0:032x}")
    with file.path.open("rb") as reading:
        fcntl.flock(reading, fcntl.LOCK_SH)
        put(folder, 5)
    assert kept(folder) == [0, 3, 4, 5]


def test_a_shard_larger_than_the_limit_is_not_kept(tmp_path, corpus):
    cache = DiskCache(tmp_path / "cache", limit_bytes=100)
    read(cache, corpus)
    assert files(tmp_path / "cache", "**/*.*") == [] and cache.counters()["errors"] == 0


def test_nothing_that_was_not_fetched_is_ever_deleted(tmp_path, corpus):
    ours = ShardFolder(tmp_path / "cache", None).root
    foreign = [
        tmp_path / "cache" / "thesis.txt",
        ours / "notes.shard",
        ours / "00" / "model.safetensors",
        ours / "00" / f"{'0' * 32}-3e8-{'0' * 16}.shard.bak",
        ours / "parts" / "mine.part",
        ours / "quarantine" / "mine",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    link = ours / "00" / f"{'0' * 32}-3e8-{'0' * 16}.shard"
    link.symlink_to(tmp_path / "cache" / "thesis.txt")
    cache = DiskCache(tmp_path / "cache", limit_bytes=int(corpus.shards.stored_bytes.max()))
    read_all(cache, corpus)
    assert cache.counters()["evictions"] > 3 and cache.counters()["errors"] == 0
    assert all(path.read_text() == "mine" for path in (*foreign, link))


# ---- a disk that does not serve


def warned_once(call):
    """Run a call that must warn of the cache exactly once."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    texts = [str(warning.message) for warning in seen]
    assert len(texts) == 1 and "shards come from the store instead" in texts[0], texts


def test_a_folder_that_cannot_be_made_costs_the_cache_and_not_the_run(tmp_path, server, corpus):
    (tmp_path / "file").write_text("")
    caches = []
    warned_once(lambda: caches.append(DiskCache(tmp_path / "file")))
    read_all(caches[0], corpus)
    assert gets(server) == [1] * len(corpus.shards) and caches[0].counters()["errors"] == 1
    with pytest.raises(StorageError, match=r"shard cache in .*file does not work"):
        DiskCache(tmp_path / "file", strict=True)


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "moot-shards").mkdir()
    (tmp_path / "moot-shards" / "data").write_text("mine")
    with pytest.raises(StorageError, match="was not made by moot"):
        DiskCache(tmp_path, strict=True)
    assert os.listdir(tmp_path / "moot-shards") == ["data"]


def test_a_folder_that_vanishes_costs_the_cache_and_not_the_run(tmp_path, corpus):
    cache, strict = DiskCache(tmp_path / "cache"), DiskCache(tmp_path / "cache", strict=True)
    read(cache, corpus, 0)
    (tmp_path / "cache").rename(tmp_path / "gone")
    warned_once(lambda: read_all(cache, corpus))
    assert cache.counters()["errors"] == len(corpus.shards)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(StorageError, match="does not work"):
        read(strict, corpus, 1)


@NOT_ROOT
def test_a_folder_that_is_only_read_still_serves_what_it_holds(tmp_path, server, corpus):
    read(DiskCache(tmp_path / "cache"), corpus, 0)
    for folder in (tmp_path / "cache").rglob("*"):
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    cache = DiskCache(tmp_path / "cache")
    read(cache, corpus, 0)
    assert cache.counters()["hits"] == 1
    warned_once(lambda: read(cache, corpus, 1))
    for folder in (tmp_path / "cache").rglob("*"):
        folder.chmod(0o755)


def mounted(folder, options):
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a small disk")


@ROOT_ONLY
def test_a_read_only_disk_still_serves_what_it_holds(tmp_path, server, corpus):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted(disk, "size=4m")
    try:
        read(DiskCache(disk), corpus, 0)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        cache = DiskCache(disk)
        read(cache, corpus, 0)
        assert cache.counters()["hits"] == 1 and cache.counters()["errors"] == 0
        warned_once(lambda: [read(cache, corpus, i) for i in (1, 2)])
        assert cache.counters()["errors"] == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@ROOT_ONLY
def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path, server, corpus):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted(disk, f"size={int(corpus.shards.stored_bytes[:2].sum()) // 4096 * 4096 + 8192}")
    try:
        cache = DiskCache(disk)
        warned_once(lambda: read_all(cache, corpus))
        assert cache.counters()["errors"] > 0 and 0 < len(files(disk)) < len(corpus.shards)
        assert files(disk, "parts/*") == []
        read_all(cache, corpus)  # what is there is whole
        with pytest.raises(StorageError, match="No space left"):
            read_all(DiskCache(disk, strict=True), corpus)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


TOO_LARGE = """
import resource, sys, warnings
from moot.loader.corpus import open_corpus
from moot.loader.prefetch.disk import DiskCache, key_of
corpus, cache = open_corpus(sys.argv[1]), DiskCache(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    shards = [cache.read(corpus.store_of(i), corpus.shards[i]) for i in range(3)]
print(len(seen), cache.counters()["errors"], sum(len(s.values("id", [0])) for s in shards))
corpus.close()
"""


def test_a_write_that_breaks_off_leaves_no_file(tmp_path, server, corpus):
    command = [sys.executable, "-c", TOO_LARGE, f"{server.url}/corpus", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1", "3.0", "3"], done.stderr
    assert files(tmp_path / "cache", "**/*.*") == []


# ---- under the cache in memory


def cached(corpus, budget_bytes=4 << 20, **settings):
    disk = settings.pop("disk", None)

    def fetch(shard_id, allocate):
        read = read_shard if disk is None else disk.read
        return read(corpus.store_of(shard_id), corpus.shards[shard_id], Ask(allocate=allocate))

    return ShardCache(
        fetch, lambda i: footprint(corpus.shards[i]), budget_bytes=budget_bytes, **settings
    )


def test_a_byte_flipped_on_the_way_is_fetched_again(tmp_path, server, corpus):
    server.plan(Flip(200), path=corpus.shards[1].stored_name)
    cache = cached(corpus, disk=DiskCache(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="a bad shard is fetched again: http.*corrupt"):
        shards = cache.get([0, 1])
    assert shards[1].values("id", [0]) == [f"doc{corpus.first_sample[1]}"]
    assert cache.counters()["quarantined"] == 1 and len(files(tmp_path / "cache")) == 2
    cache.close()


@pytest.mark.filterwarnings("ignore:a ")
def test_a_shard_that_is_corrupt_in_the_store_fails_loudly_or_is_lost(server, corpus):
    name = corpus.shards[1].stored_name
    server.plan(Flip(200), path=name, forever=True)
    cache = cached(corpus)
    with pytest.raises(ShardError, match=f"{name} is corrupt: xxh64"):
        cache.get([0, 1])
    assert cache.pool.used_bytes < 1 << 18  # the error keeps no buffer
    cache.close()
    cache = cached(
        corpus,
        on_bad_shard="substitute",
        substitute=lambda lost: lost_shard(corpus.shards[lost.shard_id]),
    )
    whole, lost = cache.get([0, 1])
    assert lost.lengths("tokens").tolist() == [0] * corpus.shards[1].num_samples
    assert whole.lengths("tokens").tolist() == LENGTHS[: whole.num_samples].tolist()
    assert [lost.shard_id for lost in cache.lost] == [1] and name in cache.lost[0].reason
    cache.close()


def test_real_shards_stay_within_the_budget(tmp_path):
    lengths = np.random.default_rng(3).integers(200_000, 600_000, 60)
    write_corpus(tmp_path / "corpus", lengths, size_limit=1 << 20)
    corpus = open_corpus(str(tmp_path / "corpus"))
    num, budget = len(corpus.shards), 8 << 20
    cache = cached(corpus, budget, disk=DiskCache(tmp_path / "cache"))
    for first in [*range(num - 2), *range(num - 2)]:
        cache.prefetch(list(range(first, min(first + 8, num))))
        for shard_id, shard in enumerate(cache.get([first, first + 1, first + 2]), first):
            row = int(corpus.first_sample[shard_id])
            assert shard.lengths("tokens")[0] == lengths[row]
        del shard
    assert num > 40 and cache.counters()["evictions"] > num
    assert cache.pool.high_water_bytes <= 1.1 * budget
    cache.close()
    corpus.close()


# ---- as a user meets them


def batches(url, num, **settings):
    settings = {"batch_rows": 4, "seq_len": 64, "seed": 1, "fields": ("input_ids",)} | settings
    with Loader(url, **settings) as loader:
        stream = iter(loader)
        return np.stack([next(stream)["input_ids"].numpy() for _ in range(num)])


def test_a_second_run_of_a_loader_fetches_no_shard(tmp_path, server):
    url, settings = f"{server.url}/corpus", {"cache_dir": str(tmp_path / "cache")}
    plain = batches(url, 60)
    assert (batches(url, 60, **settings) == plain).all()
    server.log.clear()
    assert (batches(url, 60, **settings) == plain).all()
    assert gets(server) == []


def test_a_loader_fails_with_its_disk_if_asked(tmp_path, server):
    (tmp_path / "file").write_text("")
    url, settings = f"{server.url}/corpus", {"cache_dir": str(tmp_path / "file")}
    warned_once(lambda: batches(url, 1, **settings))
    with pytest.raises(StorageError, match="shard cache in .*file does not work.*another folder"):
        batches(url, 1, **settings, on_bad_disk="fail")
    settings = {"cache_dir": str(tmp_path / "cache"), "on_bad_disk": "fail", "seq_len": 64}
    with Loader(url, batch_rows=4, **settings, prefetch_batches=1, budget_bytes=1 << 15) as loader:
        stream = iter(loader)
        next(stream)
        (tmp_path / "cache").rename(tmp_path / "gone")
        with pytest.raises(StorageError, match="shard cache in .*cache does not work"):
            for _ in range(200):
                next(stream)


@pytest.mark.filterwarnings("ignore:a ")
def test_a_loader_goes_on_without_a_lost_shard_if_asked(server, corpus):
    server.plan(Flip(200), path=corpus.shards[2].stored_name, forever=True)
    with pytest.raises(ShardError, match="shard.00002.*corrupt"):
        batches(f"{server.url}/corpus", 60)
    settings = {"batch_rows": 4, "seq_len": 64, "on_bad_shard": "substitute"}
    with Loader(f"{server.url}/corpus", **settings) as loader:
        stream, seen = iter(loader), set()
        for step in range(400):
            next(stream)
            pieces = loader.pieces(step)
            seen |= {*pieces.sample_id[pieces.length > 0].tolist()}
    lost = range(*corpus.first_sample[2:4].tolist())
    assert seen == {*range(len(LENGTHS))} - {*lost}


@pytest.mark.filterwarnings("ignore:a ")
def test_a_lost_shard_of_fixed_shape_is_zeros_where_the_plan_has_its_rows(tmp_path, server):
    store = open_store(str(tmp_path / "rows"))
    with MDSWriter(store, {"tokens": "ndarray:uint16:65"}, size_limit=4096) as writer:
        for i in range(200):
            writer.write({"tokens": np.full(65, i + 1, np.uint16)})
    url = f"{server.url}/rows"
    whole = batches(url, 40)
    server.plan(Flip(200), path="shard.00001", forever=True)
    holed = batches(url, 40, on_bad_shard="substitute")
    assert whole.shape == holed.shape and (whole != holed).any()
    assert (holed[whole != holed] == 0).all()

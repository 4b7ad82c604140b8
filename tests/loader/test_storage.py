# SPDX-License-Identifier: Apache-2.0
"""Storage: one conformance suite for every place that can be written, then names, URLs, options.

What goes wrong on the way is in test_storage_faults.py, foreign servers in test_storage_servers.py.
"""

import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from moot.loader.corpus import open_corpus
from moot.loader.errors import ConfigError, StorageError
from moot.loader.shards import MDSWriter
from moot.loader.storage import MissingObjectError, ShortObjectError, open_store
from moot.loader.storage.store import RANGE_BYTES, Store
from servers import KEYS, FaultServer, azurite, moto_s3, rclone_s3

AWS_VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "S3_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_SKIP_SIGNATURE",
)


@pytest.fixture(autouse=True)
def no_aws_variables(monkeypatch, tmp_path):
    for name in AWS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


@pytest.fixture(scope="module")
def s3_options():
    with moto_s3("moot-test") as options:
        yield options


@pytest.fixture(scope="module")
def rclone_options(tmp_path_factory):
    folder, work = tmp_path_factory.mktemp("buckets"), tmp_path_factory.mktemp("rclone")
    (folder / "moot-test").mkdir()
    with rclone_s3(folder, work) as options:
        yield options


@pytest.fixture(scope="module")
def azure_options(tmp_path_factory):
    with azurite(tmp_path_factory.mktemp("azurite"), "moot-test") as options:
        yield options


@pytest.fixture(params=["folder", "memory", "s3", "s3-client", "rclone", "azure"])
def place(request, tmp_path):
    """A fresh URL and its options; s3-client reads through the client and not by ourselves."""
    name = request.node.name.replace("[", "-").replace("]", "")
    if request.param == "folder":
        return str(tmp_path / "a folder #1 %20"), None
    if request.param == "memory":
        return f"memory://{name}/p", None
    if request.param == "azure":
        return f"az://moot-test/{name}", request.getfixturevalue("azure_options")
    if request.param == "rclone":
        return f"s3://moot-test/{name}", request.getfixturevalue("rclone_options")
    options = request.getfixturevalue("s3_options")
    is_direct = str(request.param == "s3").lower()
    return f"s3://moot-test/{name}", {**options, "direct": is_direct}


@pytest.fixture
def store(place):
    store = open_store(*place)
    yield store
    store.close()


def test_store_gives_back_what_was_put(store):
    store.put("a/b.bin", b"0123456789")
    store.put("a/empty", b"")
    assert store.get("a/b.bin") == b"0123456789"
    assert store.get("a/empty") == b""
    assert store.head("a/b.bin") == 10
    assert store.head("a/empty") == 0
    assert store.exists("a/b.bin")
    store.put("a/b.bin", memoryview(b"other"))
    assert store.get("a/b.bin") == b"other"


def test_store_lists_names_by_prefix(store):
    for name in ("index.json", "train/shard.1", "train/shard.0", "train/deep/x", "trainer"):
        store.put(name, b"x")
    assert store.list() == [
        "index.json", "train/deep/x", "train/shard.0", "train/shard.1", "trainer",
    ]  # fmt: skip
    assert store.list("train/shard") == ["train/shard.0", "train/shard.1"]
    assert store.list("train") == ["train/deep/x", "train/shard.0", "train/shard.1", "trainer"]
    assert store.list("nothing") == []
    assert len(store.list(limit=2)) == 2
    child = store.child("train")
    assert child.list() == ["deep/x", "shard.0", "shard.1"]
    assert child.get("deep/x") == b"x"
    assert child.url == f"{store.url}/train"


def test_store_reads_a_range_into_a_buffer(store):
    store.put("x", b"0123456789")
    buffer = bytearray(b"........")
    assert store.get_range_into("x", 3, memoryview(buffer)[2:6]) == 10
    assert bytes(buffer) == b"..3456.."
    assert store.get_range_into("x", 0, np.empty(0, np.uint8)) == 10


def test_store_reads_a_big_object_in_ranges(store):
    data = np.random.default_rng(0).integers(0, 256, 2 * RANGE_BYTES + 12345, np.uint8)
    store.put("big", data.data)
    whole = np.zeros_like(data)
    assert store.get_range_into("big", 0, whole) == data.size
    assert np.array_equal(whole, data)
    part = np.zeros(RANGE_BYTES + 7, np.uint8)
    store.get_range_into("big", 99, part)
    assert np.array_equal(part, data[99 : 99 + part.size])


@pytest.mark.parametrize(("start", "length"), [(8, 4), (10, 1), (50, 5), (0, RANGE_BYTES + 1)])
def test_range_past_the_end_tells_the_size(store, start, length):
    store.put("x", b"0123456789")
    with pytest.raises(ShortObjectError, match="is 10 bytes") as caught:
        store.get_range_into("x", start, np.empty(length, np.uint8))
    assert caught.value.size_bytes == 10


def test_folder_is_no_object(store):
    store.put("a/b", b"1")
    assert not store.exists("a")
    assert not store.exists("a/b/c")
    with pytest.raises(MissingObjectError):
        store.get("a")


def test_read_only_buffer_is_refused(store):
    store.put("x", b"1")
    with pytest.raises(ValueError, match="writable"):
        store.get_range_into("x", 0, b"1")


def test_objects_are_deleted(store):
    store.put("x", b"1")
    store.delete("x")
    store.delete("x")
    assert not store.exists("x")


def test_store_counts_what_it_does(store):
    store.put("x", b"0123456789")
    store.get("x")
    store.child("a").exists("y")
    counters = store.counters()
    assert counters["requests"] == 3
    assert counters["bytes"] == 10
    assert counters == store.child("a").counters()
    assert not any(counters[name] for name in ("retries", "throttled", "timeouts", "errors"))


def test_missing_object_is_not_found(store):
    store.put("x", b"1")
    assert store.exists("x")
    assert not store.exists("y")
    for read in (store.get, store.head, lambda n: store.get_range_into(n, 0, bytearray(4))):
        with pytest.raises(MissingObjectError, match=r"/y: not found; check the URL"):
            read("y")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/../x", "/etc/passwd", "a//b", "./a", "a/"])
def test_names_that_leave_the_store_are_refused(store, name):
    for use in (store.get, store.head, lambda n: store.put(n, b"x")):
        with pytest.raises(StorageError, match="not the name of an object"):
            use(name)


def test_threads_share_a_store(store):
    data = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8)
    store.put("x", data.data)
    wrong = []

    def read(start):
        buffer = np.zeros(1000, np.uint8)
        for at in range(start, start + 8000, 1000):
            store.get_range_into("x", at, buffer)
            if not np.array_equal(buffer, data[at : at + 1000]):
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(i * 100_000,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_corpus_is_written_and_read(place):
    store = open_store(*place)
    rng = np.random.default_rng(2)
    docs = [rng.integers(0, 8192, n).astype(np.uint16) for n in rng.integers(1, 900, 200)]
    columns = {"tokens": "ndarray:uint16", "id": "str"}
    with MDSWriter(store, columns, compression="zstd:3", size_limit=40_000) as writer:
        for i, doc in enumerate(docs):
            writer.write({"tokens": doc, "id": str(i)})
    store.close()
    corpus = open_corpus(*place)
    assert len(corpus.shards) > 3
    shards = [corpus.read(shard_id) for shard_id in range(len(corpus.shards))]
    corpus.close()
    ids = [name for shard in shards for name in shard.values("id", np.arange(shard.num_samples))]
    assert ids == [str(i) for i in range(200)]
    tokens = [doc for s in shards for doc in s.values("tokens", np.arange(s.num_samples))]
    assert all(np.array_equal(*pair) for pair in zip(tokens, docs, strict=True))


def test_closed_store_says_so(store):
    store.put("x", b"1")
    store.child("c").close()
    assert store.get("x") == b"1"
    store.close()
    with pytest.raises(StorageError, match="was closed"):
        store.get("x")


def test_file_urls_and_paths_are_the_same_place(tmp_path, monkeypatch):
    open_store(str(tmp_path / "c d")).put("x", b"1")
    assert open_store(f"{tmp_path.as_uri()}/c%20d").get("x") == b"1"
    monkeypatch.chdir(tmp_path)
    assert open_store("c d/").get("x") == b"1"


def test_missing_folder_is_named(tmp_path):
    store = open_store(str(tmp_path / "nowhere"))
    for use in (store.list, lambda: store.get("x"), lambda: store.head("x")):
        with pytest.raises(StorageError, match=r"folder .*nowhere does not exist; check the path"):
            use()
    assert not store.exists("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        open_store(str(tmp_path / "file")).get("x")
    with pytest.raises(StorageError, match="cannot open folder"):
        open_store(str(tmp_path / "file")).put("x", b"")


@pytest.mark.parametrize("server", ["s3", "rclone", "azure"])
def test_missing_bucket_is_named(request, server):
    options = request.getfixturevalue(f"{server}_options")
    url = "az://moot-none/p" if server == "azure" else "s3://moot-none/p"
    store = open_store(url, options)
    for use in (store.list, lambda: store.get("x"), lambda: store.put("x", b"1")):
        with pytest.raises(StorageError, match="//moot-none/p.*the bucket does not exist"):
            use()
    store.close()


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://host/x", None, "unknown scheme 'ftp'"),
        ("gcs://bucket/x", None, "did you mean gs://"),
        ("", None, "an empty path"),
        ("http://user:word@host/x", None, "takes no query, fragment or user"),
        ("https://host/x?token=1", None, "https://host/x: names are added"),
        ("http:///x", None, "names no host"),
        ("s3:///x", None, "names no bucket"),
        ("s3://bucket/x", {"endpiont": "http://x"}, "did you mean 'endpoint'"),
        ("s3://bucket/x", {"colour": "red"}, "known are endpoint, region"),
        ("gs://bucket/x", {"acount_name": "x"}, "unknown storage option 'acount_name'"),
        ("az://bucket/x", {"acount_name": "x"}, "did you mean 'account_name'"),
        ("http://host/x", {"endpoint": "http://x"}, "unknown storage option 'endpoint'"),
        ("folder", {"endpiont": "http://x"}, "did you mean 'endpoint'"),
        ("s3://bucket/x", {"attempts": "few"}, "attempts is a number above 0, not 'few'"),
        ("s3://bucket/x", {"attempts": "0"}, "attempts is a number above 0"),
        ("s3://bucket/x", {"deadline_s": "-1"}, "deadline_s is a number above 0"),
        ("s3://bucket/x", {"hedge": "maybe"}, "hedge is true or false"),
        ("s3://bucket/x", {"attempts": 3}, "attempts is text; write '3'"),
    ],
)
def test_bad_url_or_option_is_a_config_error(url, options, message):
    with pytest.raises(ConfigError, match=message):
        open_store(url, options)


def test_endpoint_needs_a_scheme_and_keys():
    with pytest.raises(ConfigError, match="is no URL"):
        open_store("s3://bucket/x", {**KEYS, "endpoint": "127.0.0.1:9000"}).get("x")
    with pytest.raises(ConfigError, match="no keys for endpoint"):
        open_store("s3://bucket/x", {"endpoint": "http://127.0.0.1:9"}).get("x")


def test_plain_http_endpoint_can_be_forbidden():
    options = {**KEYS, "endpoint": "http://127.0.0.1:9", "allow_http": "false"}
    with pytest.raises(ConfigError, match="is plain HTTP, and allow_http is false"):
        open_store("s3://bucket/x", options).get("x")


def test_azure_needs_an_account(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ConfigError, match="names a container, but no account"):
        open_store("az://container/x").get("x")


def test_failed_read_leaves_no_range_under_way(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    store.put("x", b"1")
    is_running, has_failed = threading.Event(), threading.Event()

    def fill(self, name, start, target, *more):
        if start == 0:
            is_running.wait(10)
            has_failed.set()
            raise StorageError("broken")
        is_running.set()
        has_failed.wait(10)
        time.sleep(0.05)
        target[:] = 1
        return 1

    monkeypatch.setattr(Store, "_fill", fill)
    buffer = np.zeros(2 * RANGE_BYTES, np.uint8)
    with pytest.raises(StorageError, match="broken"):
        store.get_range_into("x", 0, buffer)
    assert buffer[RANGE_BYTES:].all()  # the second range had ended before the first one's error
    store.close()


def test_close_joins_the_threads_and_closes_the_connections():
    before = set(threading.enumerate())
    data = bytes(RANGE_BYTES + 1)
    with FaultServer({"big": data}) as server:
        store = open_store(server.url)
        store.get_range_into("big", 0, bytearray(len(data)))
        names = {thread.name.split("_")[0] for thread in set(threading.enumerate()) - before}
        assert {"moot-range", "moot-watch"} <= names
        store.close()
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("moot")]


FORK = """
    import os, sys
    from moot.loader.storage import open_store

    def tell(who, read):
        try:
            print(who, read(), flush=True)
        except Exception as error:
            print(who, type(error).__name__, error, flush=True)

    folder, web, bucket = (open_store(url, options) for url, options in {places!r})
    folder.put("x", b"1")
    for store in (folder, web, bucket):
        tell("parent", lambda: store.get("x"))
    if os.fork() == 0:
        for store in (folder, web, bucket, open_store(*{places!r}[2])):
            tell("child", lambda: store.get("x"))
        tell("child", lambda: folder.put("y", b"1"))
        tell("child", lambda: folder.counters()["requests"])
        folder.close(), web.close(), bucket.close()
        os._exit(0)
    os.wait()
    for store in (folder, web, bucket):
        tell("parent", lambda: store.get("x"))
        store.close()
"""


def test_forked_process_reads_on_or_gets_an_error_never_a_hang(tmp_path):
    with FaultServer({"web/x": b"1", "bucket/p/x": b"1"}) as server:
        places = [
            (str(tmp_path), {}),
            (f"{server.url}/web", {}),
            ("s3://bucket/p", server.s3_options),
        ]
        code = textwrap.dedent(FORK.format(places=places))
        ran = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    lines = ran.stdout.splitlines()
    assert lines[:3] == lines[-3:] == ["parent b'1'"] * 3, ran.stdout + ran.stderr
    assert lines[3:5] == ["child b'1'"] * 2  # files and web servers are read on
    assert len(lines[5:8]) == 3
    assert all(s.startswith("child StorageError") and "'spawn'" in s for s in lines[5:8])
    assert lines[8] == "child 1.0"  # the child counts for itself

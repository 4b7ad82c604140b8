# SPDX-License-Identifier: Apache-2.0
"""Storage: one conformance suite for folders and S3 (a server on loopback), then the failures."""

import logging
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import numpy as np
import pytest
from moot.loader.corpus import open_corpus
from moot.loader.errors import ConfigError, StorageError
from moot.loader.shards import MDSWriter, fetch_shard, gather
from moot.loader.storage import ShortObjectError, open_store
from moot.loader.storage.store import RANGE_BYTES, Store
from moto.server import ThreadedMotoServer

KEYS = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}


@pytest.fixture(autouse=True)
def no_aws_variables(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def s3_options():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {**KEYS, "endpoint": f"http://{host}:{port}"}
    client = boto3.client(
        "s3", endpoint_url=options["endpoint"], aws_access_key_id="key",
        aws_secret_access_key="secret", region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket="moot-test")
    yield options
    client.close()
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    """A fresh URL and its options."""
    if request.param == "folder":
        return str(tmp_path / "a folder #1 %20"), None
    options = request.getfixturevalue("s3_options")
    return f"s3://moot-test/{request.node.name}", options


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


def test_missing_object_is_not_found(store):
    store.put("x", b"1")
    assert store.exists("x")
    assert not store.exists("y")
    for read in (store.get, store.head, lambda n: store.get_range_into(n, 0, bytearray(4))):
        with pytest.raises(StorageError, match=r"/y: not found; check the URL"):
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
    shards = [fetch_shard(corpus.store, info) for info in corpus.shards]
    pos, rows = corpus.locate(np.arange(200))
    lengths = np.concatenate([shard.lengths("tokens") for shard in shards]).astype(np.int64)
    out = np.empty(lengths.sum(), np.int64)
    zeros = np.zeros_like(lengths)
    gather(shards, "tokens", pos.astype(np.int32), rows.astype(np.int32), zeros, lengths, out)
    assert np.array_equal(out, np.concatenate(docs))
    corpus.close()
    assert [v for s in shards for v in s.values("id", np.arange(s.num_samples))] == [
        str(i) for i in range(200)
    ]


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


def test_missing_bucket_is_named(s3_options):
    store = open_store("s3://moot-none/p", s3_options)
    for use in (store.list, lambda: store.get("x"), lambda: store.put("x", b"1")):
        with pytest.raises(StorageError, match="s3://moot-none/p.*the bucket does not exist"):
            use()


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("gs://bucket/x", None, "unknown scheme 'gs'"),
        ("", None, "an empty path"),
        ("s3:///x", None, "names no bucket"),
        ("s3://bucket/x", {"endpiont": "http://x"}, "did you mean 'endpoint'"),
        ("s3://bucket/x", {"colour": "red"}, "known are endpoint, region"),
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


def test_unreachable_endpoint_is_reported_after_three_attempts():
    store = open_store("s3://bucket/p", {**KEYS, "endpoint": "http://127.0.0.1:9"})
    with pytest.raises(StorageError, match=r"tried 3 times\); check the endpoint"):
        store.get("x")


@pytest.fixture
def scripted():
    """A server that answers with the given statuses in turn, then 200; yields (options, script)."""
    script: list[int | str] = []
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status = script.pop(0) if script else 200
            seen.append(self.command)
            body = b"0123456789" if status in (200, "short") else b"<Code>AccessDenied</Code>"
            self.send_response(200 if status == "short" else status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.send_header("ETag", '"x"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:4] if status == "short" else body)
            self.close_connection = status == "short"

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield {**KEYS, "endpoint": f"http://127.0.0.1:{server.server_port}"}, script, seen
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("failures", [[503], [429], [500, 408], ["short"], ["short", 503]])
def test_passing_failures_are_tried_again(scripted, failures):
    options, script, seen = scripted
    script += failures
    assert open_store("s3://bucket/p", options).get("x") == b"0123456789"
    assert len(seen) == len(failures) + 1


def test_lasting_failure_stops_after_three_attempts(scripted):
    options, script, seen = scripted
    script += [503] * 9
    with pytest.raises(StorageError, match="503.*tried 3 times"):
        open_store("s3://bucket/p", options).get("x")
    assert len(seen) == 3


@pytest.mark.parametrize("status", [403, 401, 400, 404])
def test_refusals_are_not_tried_again_nor_called_not_found(scripted, status):
    options, script, seen = scripted
    script += [status] * 3
    with pytest.raises(StorageError) as caught:
        open_store("s3://bucket/p", options).get("x")
    assert len(seen) == 1
    assert ("not found" in str(caught.value)) == (status == 404)
    if status == 403:
        assert "forbidden (AccessDenied)" in str(caught.value)


def test_forbidden_object_does_not_count_as_absent(scripted):
    options, script, _ = scripted
    script += [403]
    with pytest.raises(StorageError, match="forbidden"):
        open_store("s3://bucket/p", options).exists("x")


def test_failed_read_leaves_no_range_under_way(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    running = threading.Semaphore(0)

    def fill(self, name, start, target):
        if start == 0:
            running.release()
            raise StorageError("broken")
        running.acquire()
        target[:] = 1
        return 1

    monkeypatch.setattr(Store, "_fill", fill)
    buffer = np.zeros(2 * RANGE_BYTES, np.uint8)
    with pytest.raises(StorageError, match="broken"):
        store.get_range_into("x", 0, buffer)
    assert buffer[RANGE_BYTES:].all()  # the second range had ended before the first one's error
    store.close()


def test_close_joins_the_threads(tmp_path):
    store = open_store(str(tmp_path))
    store.put("big", bytes(RANGE_BYTES + 1))
    store.get_range_into("big", 0, bytearray(RANGE_BYTES + 1))
    assert any(t.name.startswith("moot-range") for t in threading.enumerate())
    store.close()
    assert not any(t.name.startswith("moot-range") for t in threading.enumerate())


def test_forked_process_gets_an_error_not_a_hang(tmp_path):
    code = f"""
    import os
    from moot.loader.storage import open_store
    store = open_store({str(tmp_path)!r})
    store.put("x", b"1")
    if os.fork() == 0:
        for make in (lambda: store, lambda: open_store({str(tmp_path)!r})):
            try:
                make().get("x")
            except Exception as error:
                print(type(error).__name__, error, flush=True)
        os._exit(0)
    os.wait()
    print("parent", store.get("x"))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    lines = ran.stdout.splitlines()
    assert len(lines) == 3, ran.stdout
    assert all(s.startswith("StorageError") and "'spawn'" in s for s in lines[:2])
    assert lines[2] == "parent b'1'"

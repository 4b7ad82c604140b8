# SPDX-License-Identifier: Apache-2.0
"""moot doctor: a right URL, and every way a URL can be wrong, in words and by the exit status."""

import pytest
from moot.trainer.cli import main
from servers import Answer, FaultServer, moto_s3, nginx, rclone_s3

INDEX = b'{"version": 2, "shards": []}'


@pytest.fixture
def doctor(capsys, monkeypatch, tmp_path):
    """Run the command; returns (exit status, {what was looked at: what was found})."""
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    def call(url, options=None):
        pairs = [f"--option={name}={value}" for name, value in (options or {}).items()]
        with pytest.raises(SystemExit) as exit_info:
            main(["doctor", str(url), *pairs])
        lines = capsys.readouterr().out.splitlines()
        found = {line[:12].strip(): line[12:].strip() for line in lines}
        return exit_info.value.code or 0, found

    return call


@pytest.fixture
def folder(tmp_path):
    """A folder of buckets, in one of which a corpus lies below p/."""
    place = tmp_path / "served" / "moot-test" / "p"
    place.mkdir(parents=True)
    (place / "index.json").write_bytes(INDEX)
    return tmp_path / "served"


def test_right_url_is_well(doctor, folder, tmp_path):
    with rclone_s3(folder, tmp_path) as options:
        status, found = doctor("s3://moot-test/p", options)
    assert status == 0
    assert found["endpoint"] == options["endpoint"]
    assert found["addressing"] == "path (host/bucket)"
    assert found["identity"] == "access key moot...y-id from the options"
    assert options["secret_access_key"] not in str(found)
    assert found["clock"] == "equal to the endpoint's"
    assert found["index.json"] == f"{len(INDEX)} bytes"
    assert found["one byte"].startswith("read of index.json in")
    assert found["throughput"].startswith("4 ranges of")
    assert found["trouble"].startswith("none in")
    assert "all is well" in "".join(found) + str(found)


def test_folder_and_web_server_are_well(doctor, folder, tmp_path):
    assert doctor(folder / "moot-test" / "p")[0] == 0
    with nginx(folder, tmp_path) as url:
        assert doctor(f"{url}/moot-test/p")[0] == 0
        status, found = doctor(f"{url}/moot-test/q")
    assert status == 1
    assert "a web server cannot be listed; check the path" in found["index.json"]


def test_wrong_keys_are_told(doctor, folder, tmp_path):
    with rclone_s3(folder, tmp_path) as options:
        status, found = doctor("s3://moot-test/p", {**options, "secret_access_key": "wrong"})
        assert status == 1
        assert "the secret access key does not belong to this access key id" in found["answer"]
        status, found = doctor("s3://moot-test/p", {**options, "access_key_id": "wrong"})
        assert status == 1
        assert "does not know this access key id" in found["answer"]


def test_wrong_bucket_and_missing_prefix_are_told(doctor):
    with moto_s3("moot-doctor-empty") as options:
        status, found = doctor("s3://moot-none/p", options)
        assert status == 1
        assert "the bucket does not exist" in found["answer"]
        status, found = doctor("s3://moot-doctor-empty/p", options)
        assert status == 1
        assert "the bucket moot-doctor-empty is empty" in found["prefix"]


def test_other_prefixes_are_named(doctor, folder, tmp_path):
    with rclone_s3(folder, tmp_path) as options:
        status, found = doctor("s3://moot-test/corpus", options)
    assert status == 1
    assert "the bucket holds p; check the prefix" in found["prefix"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/p", "s3://moot-test/p"])
def test_dead_endpoint_is_told(doctor, url):
    keys = {"access_key_id": "a-key", "secret_access_key": "a-word"}
    options = {} if url.startswith("http") else {**keys, "endpoint": "http://127.0.0.1:9"}
    status, found = doctor(url, options)
    assert status == 1
    assert "cannot reach http://127.0.0.1:9" in found["clock"]
    assert "index.json" not in found


def test_clock_that_is_off_is_told(doctor):
    date = {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}
    with FaultServer({"moot-test/p/index.json": INDEX}) as server:
        server.plan(Answer(403, date, b""), method="HEAD")
        status, found = doctor("s3://moot-test/p", server.s3_options)
    assert status == 1
    assert "set this machine's clock" in found["clock"]


def test_trouble_on_the_way_is_counted(doctor):
    with FaultServer({"p/index.json": INDEX}) as server:
        server.plan(Answer(503))
        status, found = doctor(f"{server.url}/p")
    assert status == 0
    assert found["trouble"] == "retries 1, throttled 1"


def test_unfinished_corpus_is_no_error_of_the_storage(doctor, tmp_path):
    (tmp_path / "shard.0").write_bytes(b"0123")
    status, found = doctor(tmp_path)
    assert status == 0
    assert "no finished corpus" in found["index.json"]
    assert found["one byte"].startswith("read of shard.0")


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("gcs://bucket/p", {}, "did you mean gs://?"),
        ("s3://bucket/p", {"endpiont": "http://x"}, "did you mean 'endpoint'?"),
        ("s3://bucket/p", {"endpoint": "localhost:9000"}, "is no URL"),
        ("s3://bucket/p", {"endpoint": "http://localhost:9000"}, "no keys for endpoint"),
        ("no/such/folder", {}, "does not exist"),
    ],
)
def test_mistakes_are_told(doctor, url, options, message):
    status, found = doctor(url, options)
    assert status == 1
    assert message in str(found)


def test_option_without_a_value_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["doctor", "p", "--option", "endpoint"])
    assert exit_info.value.code == 1
    assert "write it as endpoint=https://host" in " ".join(capsys.readouterr().err.split())

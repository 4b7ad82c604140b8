# SPDX-License-Identifier: Apache-2.0
"""Storage against foreign servers, over TLS, behind proxies and redirects; whose keys are used."""

import json
import os

import numpy as np
import pytest
from moot.loader.errors import ConfigError, StorageError
from moot.loader.storage import ForbiddenError, MissingObjectError, clock_skew_s, open_store
from moot.loader.storage.store import RANGE_BYTES
from servers import Answer, FaultServer, Short, certificate, free_port, nginx, rclone_s3

BIG = np.random.default_rng(0).integers(0, 256, 2 * RANGE_BYTES + 12345, np.uint8)
SECRET = "a-secret-access-key"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")) or name.lower() in PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.fixture
def folder(tmp_path):
    """A folder to serve: bucket/p/big and bucket/p/a b%c#d."""
    place = tmp_path / "served" / "bucket" / "p"
    place.mkdir(parents=True)
    (place / "big").write_bytes(BIG.tobytes())
    (place / "a b%20c#d").write_bytes(b"odd")
    return tmp_path / "served"


def check(store):
    """Read whole, by ranges, by name, and what is not there."""
    buffer = np.zeros(BIG.size, np.uint8)
    assert store.get_range_into("big", 0, buffer) == BIG.size
    assert np.array_equal(buffer, BIG)
    part = np.zeros(1000, np.uint8)
    store.get_range_into("big", 999_999, part)
    assert np.array_equal(part, BIG[999_999:1_000_999])
    assert store.get("a b%20c#d") == b"odd"
    assert store.head("big") == BIG.size
    assert not store.exists("nothing")
    with pytest.raises(MissingObjectError):
        store.get("nothing")
    assert store.counters()["errors"] == 0


@pytest.mark.parametrize("direct", ["true", "false"])
def test_nginx_is_read_both_ways(folder, tmp_path, direct):
    with nginx(folder, tmp_path) as url:
        store = open_store(f"{url}/bucket/p/", {"direct": direct})
        check(store)
        for use in (store.list, lambda: store.put("x", b"1")):
            with pytest.raises(StorageError, match=r"405.*is it a plain web server\?"):
                use()
        store.close()


def test_wrong_keys_are_told_apart_by_a_server_that_checks_them(folder, tmp_path):
    with rclone_s3(folder, tmp_path) as options:
        store = open_store("s3://bucket/p", options)
        check(store)
        store.close()
        check_refused({**options, "secret_access_key": "wrong"}, "does not belong to this access")
        check_refused({**options, "access_key_id": "wrong"}, "does not know this access key id")


def check_refused(options, message):
    store = open_store("s3://bucket/p", options)
    for use in (store.head, store.exists, store.get):
        with pytest.raises(ForbiddenError, match=message):
            use("big")
    store.close()


def test_google_cloud_storage_is_read(folder):
    with FaultServer(folder) as server:
        server.plan(Answer(503), path="/big")
        store = open_store("gs://bucket/p", {"endpoint": server.url, "skip_signature": "true"})
        check(store)
        assert store.counters()["throttled"] == 1
        assert store.place().identity.startswith("anonymous")
        server.plan(Answer(403), path="/big")
        with pytest.raises(ForbiddenError):
            store.get("big")
        store.close()


def test_short_bodies_are_seen_through_the_client_too(folder):
    with FaultServer(folder) as server:
        server.plan(Short(1000), path="/big")
        store = open_store("s3://bucket/p", {**server.s3_options, "direct": "false"})
        check(store)
        assert store.counters()["retries"] == 1
        store.close()


def test_tls_is_checked_and_a_private_authority_can_be_named(folder, tmp_path, monkeypatch):
    cert, context = certificate(tmp_path)
    with FaultServer(folder, context=context) as server:
        store = open_store(f"{server.url}/bucket/p")
        with pytest.raises(StorageError, match="certificate is not trusted.*SSL_CERT_FILE"):
            store.get("big")
        store.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        store = open_store(f"{server.url}/bucket/p")
        server.plan(Short(1000), path="/big")
        check(store)
        store.close()


def test_proxy_is_used_where_the_environment_names_one(folder, monkeypatch):
    host = f"nowhere.invalid:{free_port()}"
    with FaultServer(folder) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        store = open_store(f"http://{host}/bucket/p")
        assert store.place().reading == "through the client"
        check(store)
        assert proxy.log
        store.close()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        store = open_store(f"{proxy.url}/bucket/p")
        assert store.place().reading == "straight into the buffer"
        store.close()


def test_redirects_are_followed_without_the_keys(folder):
    with FaultServer(folder) as target, FaultServer() as home:
        home.plan(
            Answer(302, {"Location": f"{target.url}/bucket/p/big"}), path="/data/big", forever=True
        )
        store = open_store(f"{home.url}/data", {"authorization": "Bearer abc"})
        part = np.zeros(1000, np.uint8)
        for start in (5, 6, 7):
            store.get_range_into("big", start, part)
            assert np.array_equal(part, BIG[start : start + 1000])
        assert [seen.headers["Authorization"] for seen in home.requests()] == ["Bearer abc"]
        assert not any("Authorization" in seen.headers for seen in target.log)
        assert len(target.requests()) == 3
        store.close()


def test_circle_of_redirects_ends():
    with FaultServer() as server:
        server.plan(Answer(302, {"Location": "/x"}), forever=True)
        store = open_store(server.url)
        with pytest.raises(StorageError, match="more than 5 redirects"):
            store.get("x")
        store.close()


def test_bucket_in_another_region_is_named():
    with FaultServer() as server:
        headers = {"x-amz-bucket-region": "eu-west-3"}
        server.plan(Answer(301, headers, b"<Error><Code>PermanentRedirect</Code></Error>"))
        store = open_store("s3://bucket/p", server.s3_options)
        with pytest.raises(StorageError, match=r"lies elsewhere; set the option region=eu-west-3"):
            store.get("x")
        store.close()


def signer(server, options):
    """Read something and return the key id and the session token that signed the request."""
    store = open_store("s3://bucket/p", {"endpoint": server.url, **options})
    assert store.get("a b%20c#d") == b"odd"
    query = dict(pair.split("=") for pair in server.log[-1].query.split("&"))
    identity = store.place().identity
    assert SECRET not in identity
    store.close()
    return query["X-Amz-Credential"].split("%2F")[0], query.get("X-Amz-Security-Token"), identity


def test_keys_come_from_the_first_of_the_chain(folder, tmp_path, monkeypatch):
    with FaultServer(folder) as server:
        (tmp_path / "credentials").write_text(
            f"[default]\naws_access_key_id = of-default\naws_secret_access_key = {SECRET}\n"
            f"[other]\naws_access_key_id = of-other\naws_secret_access_key = {SECRET}\n"
            "aws_session_token = token-of-other\n"
        )
        assert signer(server, {})[:2] == ("of-default", None)
        monkeypatch.setenv("AWS_PROFILE", "other")
        assert signer(server, {})[:2] == ("of-other", "token-of-other")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-environment")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-environment")
        assert signer(server, {})[:2] == ("of-environment", "token-of-environment")
        assert signer(server, {"profile": "default"})[:2] == ("of-default", None)
        given = {"access_key_id": "of-the-options", "secret_access_key": SECRET}
        # A token found in the environment belongs to other keys.
        found = ("of-the-options", None, "access key of-t...ions from the options")
        assert signer(server, given) == found


def test_profile_with_a_process_is_read_through_boto3(folder, tmp_path):
    answer = {"Version": 1, "AccessKeyId": "of-a-process", "SecretAccessKey": SECRET}
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    (tmp_path / "config").write_text(
        f"[profile made]\ncredential_process = cat {tmp_path}/answer.json\nregion = eu-west-3\n"
    )
    with FaultServer(folder) as server:
        key, token, identity = signer(server, {"profile": "made"})
        assert (key, token, identity) == ("of-a-process", None, "profile 'made' through boto3")
        assert "eu-west-3" in server.log[-1].query


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"access_key_id": "abc"}, "no secret_access_key in the options"),
        ({"profile": "lost"}, "no profile 'lost' in"),
        ({}, "no keys for endpoint"),
    ],
)
def test_keys_that_are_not_there_are_named(options, message):
    store = open_store("s3://bucket/p", {"endpoint": "http://127.0.0.1:9", **options})
    with pytest.raises(ConfigError, match=message):
        store.get("x")


def test_public_buckets_are_read_unsigned_when_asked_to(folder):
    with FaultServer(folder) as server:
        options = {"endpoint": server.url, "skip_signature": "true"}
        store = open_store("s3://bucket/p", options)
        check(store)
        assert not any(seen.query for seen in server.log)
        store.close()


def test_clock_of_an_endpoint_is_compared():
    with FaultServer() as server:
        assert abs(clock_skew_s(server.url)) < 5
        date = {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}
        server.plan(Answer(403, date, b""), method="HEAD")
        assert clock_skew_s(server.url) < -3600
    with pytest.raises(StorageError, match=r"cannot reach http://127.0.0.1:9: .*refused"):
        clock_skew_s("http://127.0.0.1:9")

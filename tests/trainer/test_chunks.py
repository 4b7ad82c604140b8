"""The order of batches in a chunk: closed it changes nothing, published it is the paper's."""

import dataclasses
import json

import numpy as np
import pytest
from corpora import random_lengths, small_agents, write_corpus
from moot.loader import ConfigError, ConsoleConfig
from moot.loader.storage import open_store
from moot.trainer.config import DataConfig, ModelConfig, OrderSettings, RunConfig, TrainConfig
from moot.trainer.report import write_report
from moot.trainer.train import Trainer

STEPS = 18  # four chunks of four and two steps more


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    for seed, (split, num) in enumerate([("train", 200), ("reference", 20), ("heldout", 20)]):
        write_corpus(root / split, random_lengths(num, seed))
    small_agents().save(open_store(str(root)))
    meta = {"format": 1, "domains": ["a", "b", "c"], "vocab_size": 8192}
    (root / "corpus.json").write_text(json.dumps(meta))
    return str(root)


def config_of(corpus, out, kind="random", accumulation=1, **order):
    times = {"steps": STEPS, "warmup_steps": 2, "eval_steps": 9, "eval_tokens": 400}
    times |= {"checkpoint_steps": 8, "log_steps": 3, "threads": 1, "device": "cpu"}
    return RunConfig(
        out=str(out),
        data=DataConfig(corpus=corpus, kind=kind, batch_rows=8, seq_len=32),
        model=ModelConfig(dim=16, num_layers=1, num_heads=2),
        train=TrainConfig(accumulation=accumulation, **times),
        console=ConsoleConfig(refresh_steps=4, policy_lag=2),
        order=OrderSettings(**{"chunk_steps": 4, "edge_rows": 1, "reference_docs": 4} | order),
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(config):
    trainer = Trainer(config)
    trainer.run()
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def same(left, right):
    return all(bool((a == b).all()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("kind", ["random", "console"])
def test_a_gate_that_refuses_changes_nothing(corpus, tmp_path, kind):
    plain = train(config_of(corpus, tmp_path / "off", kind))
    refused = config_of(corpus, tmp_path / "on", kind, mode="commutator", max_sharpness=0.0)
    assert same(plain, train(refused))
    rows = lines(tmp_path / "on/chunks.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12, 16]
    assert not any(row["is_ordered"] for row in rows) and rows[-1]["schedule/gate_refused"] == 2
    off, on = (lines(tmp_path / f"{name}/metrics.jsonl") for name in ("off", "on"))
    assert [row["loss"] for row in off] == [row["loss"] for row in on]


def test_a_trial_orders_one_chunk_of_a_pair(corpus, tmp_path):
    config = config_of(corpus, tmp_path, mode="commutator", max_sharpness=1e9, trial_every=1)
    train(config)
    rows = lines(tmp_path / "chunks.jsonl")
    # Of the first pair Adam knows no scale yet: it is refused.
    assert [row["is_trial"] for row in rows] == [False, False, True, True]
    assert rows[0]["sharpness"] is None and rows[2]["sharpness"] > 0
    is_ordered = [row["is_ordered"] for row in rows]
    assert sum(is_ordered[:2]) == 0 and sum(is_ordered[2:]) == 1
    assert all(sorted(row["order"]) == [0, 1, 2, 3] for row in rows)
    assert [row["drop"] is None for row in rows] == [True, True, False, False]
    assert rows[-1]["schedule/gate_trials"] == 1
    assert "Evidence that ordering batches helps" in write_report(tmp_path).read_text()
    metrics = lines(tmp_path / "metrics.jsonl")[-1]
    assert metrics["order/cost(%)"] > 0 and metrics["schedule/gate_open"] == 0


def test_published_mode_sorts_every_chunk_by_curvature(corpus, tmp_path):
    train(config_of(corpus, tmp_path, mode="published"))
    rows = lines(tmp_path / "chunks.jsonl")
    assert len(rows) == 4
    for row in rows:
        assert row["order"] == np.argsort(-np.array(row["curvatures"]), kind="stable").tolist()


@pytest.mark.parametrize("mode", ["commutator", "published"])
def test_goes_on_from_a_checkpoint_with_the_same_orders(corpus, tmp_path, mode):
    ways = {"mode": mode, "max_sharpness": 1e9, "trial_every": 1}
    whole = train(config_of(corpus, tmp_path / "whole", **ways))
    cut = Trainer(config_of(corpus, tmp_path / "cut", **ways))
    save = cut._checkpoint

    def checkpoint(loader, step):
        save(loader, step)
        raise KeyboardInterrupt

    cut._checkpoint = checkpoint
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    assert same(whole, train(config_of(corpus, tmp_path / "cut", **ways)))
    assert lines(tmp_path / "whole/chunks.jsonl") == lines(tmp_path / "cut/chunks.jsonl")


def test_the_passes_of_a_step_move_as_one(corpus, tmp_path):
    """However many passes a step is cut into, chunks are ordered alike."""
    ways = {"mode": "published"}
    train(config_of(corpus, tmp_path / "one", **ways))
    train(config_of(corpus, tmp_path / "two", accumulation=2, **ways))
    one, two = (lines(tmp_path / f"{name}/chunks.jsonl") for name in ("one", "two"))
    assert [row["order"] for row in one] == [row["order"] for row in two]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": {"mode": "best"}}, "order.mode is 'best'"),
        ({"order": {"mode": "commutator", "edge_rows": 2}}, "more than a quarter"),
        ({"order": {"mode": "commutator", "chunk_steps": 3}}, "must divide train.checkpoint_steps"),
        ({"order": {"mode": "published", "edge_rows": 1, "alpha": 2.0}}, "gate.alpha"),
    ],
)
def test_what_cannot_be_ordered_is_refused_by_name(corpus, tmp_path, changes, message):
    settings = config_of(corpus, tmp_path).to_dict()
    settings["order"] |= changes["order"]
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(settings)


def test_chunks_and_refreshes_share_their_borders(corpus, tmp_path):
    config = config_of(corpus, tmp_path, kind="console", mode="commutator")
    with pytest.raises(ConfigError, match=r"must divide console\.refresh_steps"):
        dataclasses.replace(config, console=ConsoleConfig(refresh_steps=6, policy_lag=2))

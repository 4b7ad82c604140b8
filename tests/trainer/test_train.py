import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import random_lengths, small_agents, write_corpus
from moot.loader import AgentSet, ConfigError, ConsoleConfig
from moot.loader.label import label_corpus
from moot.loader.ledger import batches, read_ledger
from moot.loader.probes import UnitProbes
from moot.loader.storage import open_store
from moot.trainer.config import DataConfig, ModelConfig, RunConfig, ScheduleSettings, TrainConfig
from moot.trainer.pacing import UnitMeasure
from moot.trainer.recipe import learning_rate, threshold_console
from moot.trainer.report import schedule
from moot.trainer.report.runs import load_run
from moot.trainer.train import Trainer

STEPS = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus folder as `moot corpus` and `moot fit` leave it, small."""
    root = tmp_path_factory.mktemp("corpus")
    for seed, (split, num) in enumerate([("train", 300), ("reference", 20), ("heldout", 20)]):
        write_corpus(root / split, random_lengths(num, seed))
    small_agents().save(open_store(str(root)))
    meta = {"format": 1, "domains": ["a", "b", "c"], "vocab_size": 8192}
    (root / "corpus.json").write_text(json.dumps(meta))
    return str(root)


def config_of(corpus, out, kind="console", **train):
    return RunConfig(
        out=str(out),
        data=DataConfig(corpus=corpus, kind=kind, batch_rows=4, seq_len=32),
        model=ModelConfig(dim=16, num_layers=1, num_heads=2),
        train=TrainConfig(
            **{
                "steps": STEPS,
                "warmup_steps": 2,
                "eval_steps": 6,
                "eval_tokens": 400,
                "checkpoint_steps": 4,
                "log_steps": 3,
                "threads": 1,
                "device": "cpu",
            }
            | train
        ),
        console=ConsoleConfig(refresh_steps=3, policy_lag=2),
    )


def recorded(out):
    """Every batch of a run, from its ledger."""
    return [
        (b.step, b.sample_id.tolist(), b.offset.tolist(), b.length.tolist())
        for b in batches(open_store(str(out / "ledger")))
    ]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["random", "threshold", "console"])
def test_a_run_leaves_its_files(corpus, tmp_path, kind):
    summary = Trainer(config_of(corpus, tmp_path, kind)).run()
    assert summary["tokens"] == STEPS * 4 * 32
    assert [row["step"] for row in lines(tmp_path / "evals.jsonl")] == [0, 6, 12]
    metrics = lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [3, 6, 9, 12]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert summary["reference_loss"] == lines(tmp_path / "evals.jsonl")[-1]["reference_loss"]
    assert [batch[0] for batch in recorded(tmp_path)] == list(range(STEPS))
    refreshes = set(read_ledger(open_store(str(tmp_path / "ledger"))).probes["refresh"].to_pylist())
    assert refreshes == ({1, 2, 3, 4} if kind == "console" else set())


def test_a_finished_run_is_not_run_again(corpus, tmp_path):
    first = Trainer(config_of(corpus, tmp_path)).run()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert Trainer(config_of(corpus, tmp_path)).run() == first
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_another_run_in_the_same_place_is_refused(corpus, tmp_path):
    Trainer(config_of(corpus, tmp_path)).run()
    with pytest.raises(ConfigError, match=r"other settings \(train\)"):
        Trainer(config_of(corpus, tmp_path, steps=20)).run()


SCRIPT = """
import sys, json
from moot.trainer.config import RunConfig
from moot.trainer.train import Trainer
config = RunConfig.from_dict(json.loads(sys.argv[1]))
Trainer(config, lambda row: print(row["step"], flush=True)).run()
"""


def test_kill_9_and_resume_read_the_same_batches(corpus, tmp_path):
    whole = Trainer(config_of(corpus, tmp_path / "whole", steps=40)).run()
    config = config_of(corpus, tmp_path / "killed", steps=40)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(config.to_dict())],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for line in process.stdout:
        if int(line) >= 18:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "summary.json").exists()
    resumed = Trainer(config).run()
    assert recorded(tmp_path / "killed") == recorded(tmp_path / "whole")
    assert resumed["heldout_loss"] == whole["heldout_loss"]
    steps = [row["step"] for row in lines(tmp_path / "killed" / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_accumulation_gives_the_same_step(corpus, tmp_path):
    torch.manual_seed(0)
    losses = []
    for accumulation in (1, 4):
        config = config_of(
            corpus, tmp_path / str(accumulation), "random", accumulation=accumulation
        )
        Trainer(config).run()
        losses.append([row["loss"] for row in lines(Path(config.out) / "metrics.jsonl")])
    assert np.allclose(*losses, rtol=1e-5)


def test_shuffled_rewards_change_what_is_selected(corpus, tmp_path):
    plain = config_of(corpus, tmp_path / "plain")
    control = dataclasses.replace(
        plain,
        out=str(tmp_path / "control"),
        feedback=dataclasses.replace(plain.feedback, shuffle_rewards=True),
    )
    for config in (plain, control):
        Trainer(config).run()
    assert recorded(tmp_path / "plain")[:5] == recorded(tmp_path / "control")[:5]
    assert recorded(tmp_path / "plain") != recorded(tmp_path / "control")


def test_the_threshold_lets_only_good_states_through(corpus, tmp_path):
    agents = AgentSet.load(open_store(corpus))
    console = threshold_console(agents, 3)
    assert console.memory["quality"] == (0.0, 0.0, 0.0, 1.0, 1.0)
    Trainer(config_of(corpus, tmp_path, "threshold")).run()
    pieces = read_ledger(open_store(str(tmp_path / "ledger"))).pieces
    states = np.array(pieces["states"].to_pylist())[:, 0]
    kept = np.array(pieces["kept"].to_pylist())
    assert (states[kept] >= 3).mean() > (states >= 3).mean() + 0.2


def test_the_learning_rate_warms_up_and_falls():
    config = config_of("c", "o", steps=100, warmup_steps=10)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(2e-4) and max(rates) == pytest.approx(2e-3)
    assert rates[-1] < 0.11 * 2e-3 and rates[9:] == sorted(rates[9:], reverse=True)


def test_config_reads_toml_and_names_a_misspelt_key(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('out = "o"\n[data]\ncorpus = "c"\n[train]\nsteps = 7\n[console]\neta = 0.3\n')
    config = RunConfig.from_toml(path)
    assert (config.train.steps, config.console.eta) == (7, 0.3)
    assert RunConfig.from_dict(config.to_dict()) == config
    for line, message in [
        ("[train]\nstep = 7\n", r"train\.step; did you mean 'steps'"),
        ("[data]\nkind = 'best'\n", r"data\.kind is 'best'"),
        ("[console]\nrefresh = 7\n", r"console has no setting 'refresh'"),
        ("[train]\nsteps = 0\n", r"train\.steps is 0"),
        ("[trian]\n", r"did you mean 'train'"),
        ("[train\n", "not TOML"),
    ]:
        path.write_text('out = "o"\n[data]\ncorpus = "c"\n' + line.replace("[data]\n", ""))
        with pytest.raises(ConfigError, match=message):
            RunConfig.from_toml(path)


def test_a_place_without_a_corpus_is_named(tmp_path):
    with pytest.raises(ConfigError, match="moot corpus"):
        Trainer(config_of(str(tmp_path / "none"), tmp_path / "run"))


def test_waiting_is_counted(corpus, tmp_path):
    started = time.perf_counter()
    summary = Trainer(config_of(corpus, tmp_path, "random")).run()
    assert 0 < summary["wait_s"] <= summary["wall_s"] <= time.perf_counter() - started


# Stored labels and schedules ---------------------------------------------------------------------

PACE = {"horizon_steps": 6, "round_steps": 2, "lag_rounds": 2, "edges": "lookahead"}


@pytest.fixture(scope="module")
def labelled(corpus):
    """The same corpus, labelled."""
    label_corpus(f"{corpus}/train", small_agents())
    return corpus


def paced_config(corpus, out, pace=PACE, **train):
    config = config_of(corpus, out, **train)
    data = dataclasses.replace(config.data, labels="stored", max_units=6)
    settings = None if pace is None else ScheduleSettings(probes_per_unit=4, **pace)
    console = ConsoleConfig(refresh_steps=6, policy_lag=4)
    return dataclasses.replace(config, data=data, schedule=settings, console=console)


def test_a_paced_run_leaves_its_rounds(labelled, tmp_path):
    summary = Trainer(paced_config(labelled, tmp_path)).run()
    rounds = lines(tmp_path / "rounds.jsonl")
    assert [row["step"] for row in rounds] == list(range(4, STEPS + 1, 2))
    units = json.loads((tmp_path / "run.json").read_text())["units"]
    assert all(len(row["losses"]) == len(units) == len(row["influence"]) for row in rounds)
    metrics = lines(tmp_path / "metrics.jsonl")[-1]
    assert metrics["schedule/rounds"] == len(rounds) and metrics["schedule/probe_time(%)"] > 0
    assert summary["probes_s"] > 0
    run = load_run(tmp_path)
    held = schedule.advantage(run)
    assert held is not None and held[0].shape == (len(units), len(units))
    for name, figure in (
        ("graph", schedule.influence_graph(run, held)),
        ("mixture", schedule.mixture_over_time(run)),
        ("losses", schedule.losses_over_time(run)),
    ):
        figure.savefig(tmp_path / f"{name}.png")


def test_a_paced_run_goes_on_in_the_middle_of_a_round(labelled, tmp_path):
    """A checkpoint falls between two rounds; everything behind it is the same."""
    whole = Trainer(paced_config(labelled, tmp_path / "whole", checkpoint_steps=3)).run()
    part = Trainer(paced_config(labelled, tmp_path / "part", checkpoint_steps=3))
    part._checkpoint = stopping_after(part._checkpoint, step=9)
    with pytest.raises(KeyboardInterrupt):
        part.run()
    again = Trainer(paced_config(labelled, tmp_path / "part", checkpoint_steps=3)).run()
    assert again["reference_loss"] == whole["reference_loss"]
    assert recorded(tmp_path / "part") == recorded(tmp_path / "whole")
    assert lines(tmp_path / "part/rounds.jsonl") == lines(tmp_path / "whole/rounds.jsonl")


def stopping_after(save, step):
    def checkpoint(loader, done):
        save(loader, done)
        if done == step:
            raise KeyboardInterrupt

    return checkpoint


def test_probing_leaves_the_run_as_it_is(labelled, tmp_path):
    """Rounds that learn nothing (regression before it can) change neither batches nor losses."""
    plain = Trainer(paced_config(labelled, tmp_path / "plain", pace=None)).run()
    calm = PACE | {"edges": "regression"}
    paced = Trainer(paced_config(labelled, tmp_path / "paced", pace=calm)).run()
    assert recorded(tmp_path / "plain") == recorded(tmp_path / "paced")
    assert paced["reference_loss"] == plain["reference_loss"]


def test_a_schedule_needs_stored_labels(corpus, tmp_path):
    settings = config_of(corpus, tmp_path).to_dict()
    with pytest.raises(ConfigError, match=r"data\.labels = 'stored'"):
        RunConfig.from_dict(settings | {"schedule": {"horizon_steps": 8, "round_steps": 2}})


def test_look_ahead_costs_what_is_promised():
    """16 units, 16 probes, a refresh every 500 steps of 64 rows: at most 5.5 % of the rows."""
    model = torch.nn.Linear(1, 1)
    unit = np.repeat(np.arange(16), 16)
    cu_seqlens = np.arange(len(unit) + 1) * 2
    probes = UnitProbes(unit, np.zeros(2 * len(unit), np.int64), cu_seqlens, unit)
    settings = ScheduleSettings(horizon_steps=500, round_steps=500)
    optimizer = torch.optim.AdamW(model.parameters())
    measure = UnitMeasure(model, optimizer, probes, settings)
    assert measure.rows_of_influence <= 0.055 * 500 * 64 * 3  # a step's row: forward and backward

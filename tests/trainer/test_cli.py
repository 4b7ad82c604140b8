# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import typer
from moot.loader.errors import ConfigError, StorageError
from moot.loader.ledger import Ledger, StepRecord
from moot.loader.storage import open_store
from moot.trainer import cli
from moot.trainer.cli import main, parse_size

SECTIONS = ("One", "Two", "Three")


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command line; returns (exit status, stdout, stderr) with lines unwrapped."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return exit_info.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """A JSONL file of 60 distinct documents from three sources."""
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    rng = np.random.default_rng(0)
    words = np.array(["loader", "shard", "agent", "votes", "stream", "[bold]", "batch", "theta"])
    rows = [
        {"text": " ".join(rng.choice(words, 80)), "site": SECTIONS[number % 3]}
        for number in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build(run, lines, out, *more):
    options = ("--source-column", "site", "--vocab-size", "600", *more)
    return run("corpus", "text", lines, "--out", out, *options)


@pytest.mark.parametrize(
    ("text", "size"),
    [("60MB", 60_000_000), ("64KiB", 65_536), ("1.5 mb", 1_500_000), ("1200", 1200), ("2GB", 2e9)],
)
def test_sizes_are_read_with_their_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "60 parsecs", "-3MB", "1e6"])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="60MB, 64KiB or 1500000"):
        parse_size(text)


def test_help_names_every_command_in_the_order_of_use(run):
    code, out, _ = run("--help")
    assert code == 0
    found = [out.index(f" {name} ") for name in cli._COMMANDS]
    assert found == sorted(found)


def commands(command, trail=()):
    """Every command below one, with its name."""
    yield " ".join(trail), command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*trail, name))


def test_every_command_and_option_has_a_help_line():
    found = dict(commands(typer.main.get_command(cli.app)))
    assert {"corpus local", "corpus text", "fit", "inspect", "train", "report", "demo"} < set(found)
    for name, command in found.items():
        assert command.help, name
        for parameter in command.params:
            assert len((getattr(parameter, "help", "") or "").split()) >= 2, (name, parameter.name)


@pytest.mark.parametrize("command", ["corpus", "corpus local", "corpus text", "train"])
def test_help_of_a_command_is_printed(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert f"Usage: moot {command}" in out


def test_unknown_option_is_exit_status_2(run):
    code, _, err = run("corpus", "local", "--sise", "3")
    assert code == 2
    assert "--sise" in err
    assert "Traceback" not in err


def test_error_is_one_line_and_exit_status_1(run, tmp_path):
    code, out, err = run("corpus", "text", tmp_path / "nowhere.jsonl", "--out", tmp_path / "out")
    assert code == 1
    assert out == ""
    message = [line for line in err.splitlines() if line.startswith("error:")]
    assert message == [f"error: {tmp_path / 'nowhere.jsonl'}: no such file or folder"]
    assert "Traceback" not in err


def test_markup_in_an_error_is_printed_as_it_is(run, tmp_path):
    code, _, err = run("corpus", "text", tmp_path / "[red]x[/].jsonl", "--out", tmp_path / "out")
    assert code == 1
    assert "[red]x[/].jsonl" in err


def test_debug_lets_the_error_through(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        main(["--debug", "corpus", "text", str(tmp_path / "x.jsonl"), "--out", str(tmp_path)])


def test_text_corpus_is_built_reused_and_shown(run, lines, tmp_path):
    out = tmp_path / "corpus"
    code, said, err = build(run, lines, out)
    assert code == 0, err
    assert "is built; tokens: train" in said
    assert "seeded split" in said
    assert "encode train" in err
    code, said, _ = build(run, lines, out)
    assert code == 0
    assert "is there already" in said
    code, _, err = build(run, lines, out, "--seed", "3")
    assert code == 1
    assert "seed 0 -> 3" in err
    code, said, _ = run("inspect", out)
    assert code == 0
    for name in SECTIONS:
        row = next(line for line in said.splitlines() if line.strip().startswith(f"{name} "))
        assert int(row.split()[1]) >= 18
    assert "[bold]" in said
    assert "degraded: 0.0% of the train documents (none)" in said
    assert "not fitted yet" in said


def test_local_corpus_takes_its_settings_from_the_options(run, monkeypatch, tmp_path):
    taken = {}

    def build_local(out, config, progress, *, force):
        taken.update(out=out, config=config, force=force)
        raise StorageError("enough seen")

    monkeypatch.setattr("moot.trainer.corpora.build_local", build_local)
    code, _, err = run(
        *("corpus", "local", "--out", "s3://bucket/c", "--size", "2MB", "--seed", "7"),
        *("--degraded-share", "0.1", "--vocab-size", "1024", "--no-text-column", "--force"),
    )
    assert (code, err.splitlines()[-1]) == (1, "error: enough seen")
    config = taken["config"]
    assert (taken["out"], taken["force"]) == ("s3://bucket/c", True)
    assert (config.size_bytes, config.seed, config.degraded_share) == (2_000_000, 7, 0.1)
    assert (config.vocab_size, config.text_column) == (1024, False)


def test_fit_demo_and_report_pass_their_options_on(run, monkeypatch, tmp_path):
    taken = []

    def stop(*arguments, **options):
        taken.append((arguments, options))
        raise StorageError("enough seen")

    monkeypatch.setattr("moot.loader.label.fit", stop)
    monkeypatch.setattr("moot.trainer.demo.run_demo", stop)
    monkeypatch.setattr("moot.trainer.report.write_report", stop)
    assert run("fit", "there", "--seed", "2", "--num-topics", "5", "--force")[0] == 1
    assert run("demo", "--out", tmp_path, "--seed", "3", "--steps", "9", "--size", "3MB")[0] == 1
    assert run("report", tmp_path)[0] == 1
    (url, config, _), _ = taken[0]
    assert (url, config.seed, config.num_topics, config.force) == ("there", 2, 5, True)
    assert taken[1] == ((tmp_path,), {"seed": 3, "steps": 9, "size_bytes": 3_000_000})
    assert taken[2] == ((tmp_path,), {})


def test_train_reads_the_file_and_names_a_misspelt_key(run, monkeypatch, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('out = "runs/x"\n[data]\ncorpus = "c"\n[train]\nstesp = 3\n')
    code, _, err = run("train", "--config", path)
    assert code == 1
    assert "stesp" in err
    assert "'steps'" in err
    path.write_text('out = "runs/x"\n[data]\ncorpus = "c"\n[train]\nsteps = 3\n')
    taken = {}

    def train_from_config(file, overrides, observer):
        taken.update(file=file, overrides=overrides)
        observer({"step": 1, "loss": 2.5, "tokens_per_s": 1000.0})
        return {"heldout_loss": 1.25, "wall_s": 3}

    monkeypatch.setattr("moot.trainer.train.train_from_config", train_from_config)
    code, out, _ = run("train", "--config", path, "--seed", "4")
    assert code == 0
    assert taken == {"file": path, "overrides": {"seed": 4}}
    assert out.splitlines() == ["heldout_loss: 1.25", "wall_s: 3"]


def record(step, kept, domains):
    num = len(kept)
    states = np.stack([np.zeros(num, np.int32), np.array(domains, np.int32)], axis=1)
    return StepRecord(
        step=step,
        policy_version=step // 2,
        theta=np.array([0.25, 0.75]),
        memory=np.zeros((2, 3)),
        slot=np.zeros(num, np.int32),
        row_start=np.where(kept, 0, -1).astype(np.int64),
        sample_id=np.arange(num, dtype=np.int64),
        offset=np.zeros(num, np.int64),
        length=np.full(num, 10, np.int32),
        kept=np.array(kept, bool),
        votes=np.zeros((num, 2), np.float32),
        states=states,
        score=np.zeros(num, np.float32),
    )


@pytest.fixture
def run_folder(tmp_path):
    """A run of three steps: of four pieces a step, the two of domain Two are kept."""
    folder = tmp_path / "run"
    folder.mkdir()
    ledger = Ledger(open_store(str(folder / "ledger")), flush_steps=2)
    for step in range(3):
        ledger.append(record(step, [False, True, True, False], [0, 1, 1, 2]))
    ledger.close()
    agents = [{"name": "quality", "states": ["a"]}, {"name": "domain", "states": SECTIONS}]
    info = {"kind": "console", "domains": SECTIONS, "agents": agents}
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def rows_after(text, heading):
    """Cells of a table's rows, below the line that holds `heading`."""
    below = text[text.index(heading) :].splitlines()[2:]
    return [line.split() for line in below if line.strip()]


def test_inspect_shows_the_steps_and_the_mixture_of_a_run(run, run_folder):
    code, out, _ = run("inspect", run_folder)
    assert code == 0
    assert "kind console, 3 steps, 12 pieces offered, 0 probes credited" in out
    assert "theta quality" in out
    steps = rows_after(out, "theta quality")[:3]
    assert steps == [
        [str(s), str(s // 2), "0.250", "0.750", "2", "4", "20", "40"] for s in range(3)
    ]
    assert rows_after(out, "offered tokens")[:3] == [
        ["One", "30", "25.0%", "0", "0.0%", "0.0%"],
        ["Two", "60", "50.0%", "60", "100.0%", "100.0%"],
        ["Three", "30", "25.0%", "0", "0.0%", "0.0%"],
    ]


def test_inspect_takes_a_ledger_without_run_json(run, run_folder):
    (run_folder / "run.json").unlink()
    code, out, _ = run("inspect", run_folder)
    assert code == 0
    assert "theta 0" in out
    assert "offered tokens" not in out


def test_inspect_takes_domains_from_the_corpus_where_no_agent_labels_them(
    run, run_folder, lines, tmp_path
):
    assert build(run, lines, tmp_path / "corpus")[0] == 0
    info = json.loads((run_folder / "run.json").read_text())
    info |= {"agents": [], "corpus": str(tmp_path / "corpus"), "domains": sorted(SECTIONS)}
    (run_folder / "run.json").write_text(json.dumps(info))
    code, out, _ = run("inspect", run_folder)
    assert code == 0
    rows = rows_after(out, "offered tokens")[:3]
    assert [row[0] for row in rows] == sorted(SECTIONS)
    assert sum(int(row[1]) for row in rows) == 120
    assert sum(int(row[3]) for row in rows) == 60


def test_inspect_says_what_it_found_instead(run, lines, run_folder, tmp_path):
    assert build(run, lines, tmp_path / "corpus")[0] == 0
    for url, named in (
        (tmp_path / "nowhere", "nothing is there; `moot corpus local --out URL`"),
        (tmp_path / "corpus" / "train", "give the folder above it"),
        (tmp_path, "look into one of corpus, run"),
        (run_folder / "ledger", "neither corpus.json nor ledger/ among"),
    ):
        code, _, err = run("inspect", url)
        assert code == 1
        assert named in err

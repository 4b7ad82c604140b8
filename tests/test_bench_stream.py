# SPDX-License-Identifier: Apache-2.0
"""The streaming benchmark's own rules: what is run again, how tables read, what is refused."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench_stream(monkeypatch, tmp_path):
    """The harness, in a folder of its own; it can start no process."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_stream
    from stream import environment

    monkeypatch.setattr(bench_stream, "WORK", tmp_path)
    monkeypatch.setattr(bench_stream, "SERVED", tmp_path / "served")
    monkeypatch.setattr(environment, "peers_python", lambda torch: "python")
    monkeypatch.setattr(environment, "run", lambda *_, **__: pytest.fail("a process is started"))
    monkeypatch.setattr(environment, "commit", lambda: "first")
    return bench_stream


def open_bench(bench_stream, **changed):
    args = {"quick": False, "fresh": False, "only": None, "n": 5, "torch": "torch"}
    return bench_stream.Bench(Namespace(**{**args, **changed}))


def test_result_that_is_there_is_not_run_again(bench_stream, monkeypatch):
    ours = bench_stream.Run("cold", "pass", "ours")
    theirs = bench_stream.Run("cold", "pass", "litdata-zstd")
    executed = []

    def count(self, run):
        executed.append(run.key)
        return {"samples_per_s": 1.0}

    monkeypatch.setattr(bench_stream.Bench, "_execute", count)
    for _ in range(2):
        for run in (ours, theirs):
            open_bench(bench_stream).result(run)
    assert executed == [ours.key, theirs.key]
    monkeypatch.setattr(sys.modules["stream.environment"], "commit", lambda: "second")
    again = open_bench(bench_stream)
    assert again.result(theirs)["commit"] == "first"
    assert again.result(ours)["commit"] == "second"
    assert executed == [ours.key, theirs.key, ours.key]
    open_bench(bench_stream, fresh=True).result(theirs)
    assert executed[3:] == [theirs.key]


@pytest.mark.parametrize("part", ["cold", "conditions", "behaviour", "selection"])
def test_forecast_of_a_part_runs_and_records_nothing(bench_stream, part):
    bench = open_bench(bench_stream)
    forecast = bench_stream.Forecast(bench)
    assert "about" in forecast.text(part)
    assert not bench.done and not bench.log.exists()
    assert any(key.startswith(("pass", "where")) for key in forecast.done)


def test_table_holds_medians_and_spread(bench_stream, tmp_path):
    from stream import table

    def row(repeat, **figures):
        fixed = {"part": "cold", "mode": "pass", "rival": "ours", "condition": "plain"}
        fixed |= {"corpus": "tokens", "extra": {}, "commit": "first", "key": str(repeat)}
        return {**fixed, "repeat": repeat, "left_files": 0, "left_segments": 0, **figures}

    rows = [row(i, samples_per_s=rate) for i, rate in enumerate((500.0, 100.0, 300.0))]
    rows.append(row(3, error="killed"))
    wanted = {"mode": "where", "extra": {"where": "scatter < 4"}, "is_right": True}
    rows += [row(4 + i, **wanted, fetched_mb=mb) for i, mb in enumerate((1.0, 9.0))]
    table.write(tmp_path / "out", rows, {"commit": "first", "ours": {}, "peers": {}}, {"n": 4})
    text = (tmp_path / "out.md").read_text()
    assert "| ours | 4, 1 failed | 300 (100 to 500) | - |" in text
    assert "| ours | scatter < 4 | 2 | yes | - | - | 5 (1 to 9) |" in text
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == rows


def test_unknown_reader_is_refused(bench_stream, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_stream.py", "--only", "ours,nobody"])
    with pytest.raises(SystemExit) as ended:
        bench_stream.main()
    assert ended.value.code == 2
    assert "['nobody']" in capsys.readouterr().err

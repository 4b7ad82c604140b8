# SPDX-License-Identifier: Apache-2.0
"""The report, on a made-up demo: three runs of a corpus whose truth is known."""

import importlib.resources
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rich.console
from moot.loader.errors import ConfigError, StateError
from moot.loader.ledger import Ledger, ProbeRecord, StepRecord, read_ledger
from moot.loader.shards import MDSWriter
from moot.loader.storage import open_store
from moot.trainer.report import comparison_rows, load_run, print_comparison, write_report
from moot.trainer.report.comparison import tokens_to_reach
from moot.trainer.report.curves import smoothed
from moot.trainer.report.documents import Documents
from moot.trainer.report.page import verdict
from moot.trainer.report.plot import spread
from moot.trainer.report.selection import choose_examples, mixture, read_pieces

DOMAINS = ("python", "header", "docs", "docstring", "manual", "data", "licence")
DOMAIN_SHARE = np.array([0.30, 0.20, 0.14, 0.08, 0.12, 0.12, 0.04])
TOPIC_WORDS = """\
self def return, #define typedef, the of and, parameters returns, NAME SYNOPSIS, null true json,
copyright shall, import from as, 0x 00 ff, static inline, array shape, http www org, test assert"""
TOPICS = tuple(f"{number}: {words.strip()}" for number, words in enumerate(TOPIC_WORDS.split(",")))
QUALITY = ("lowest", "low", "middle", "high", "highest")
KINDS = ("clean", "boilerplate", "dump", "fragments", "mojibake", "shuffled")
HOSTILE = "<script>alert('text from a corpus')</script> & <b>bold</b>"


def made_up_documents(num, seed=0):
    """Latent facts of documents: domain, quality, topic, kind of damage, length, text."""
    rng = np.random.default_rng(seed)
    domain = rng.choice(len(DOMAINS), num, p=DOMAIN_SHARE)
    kind = np.where(rng.random(num) < 0.25, rng.integers(1, len(KINDS), num), 0)
    latent = rng.normal(2.6, 0.8, num) - 1.3 * (kind > 0)
    sentence = "the loader reads a shard and returns every sample with its tokens"
    texts = []
    for row in range(num):
        body = " ".join(rng.choice(sentence.split(), 90))
        if kind[row]:
            body = body[::-1]
        texts.append(f"{HOSTILE if row % 3 == 0 else ''}\n{DOMAINS[domain[row]]}\n    {body}")
    return {
        "domain": domain,
        "kind": kind,
        "quality": np.clip(latent, 0, 4.99).astype(int),
        "topic": (domain * 2 + rng.integers(0, 2, num) + 5 * (rng.random(num) < 0.2)) % 13,
        "length": rng.integers(40, 900, num),
        "text": texts,
    }


def write_corpus(folder, documents, *, with_text=True):
    columns = {"tokens": "ndarray:uint16", "source": "str", "domain": "uint8", "id": "str"}
    if with_text:
        columns["text"] = "str"
    store = open_store(str(folder))
    with MDSWriter(store.child("train"), columns, size_limit=1 << 16) as writer:
        for row, text in enumerate(documents["text"]):
            sample = {
                "tokens": np.zeros(documents["length"][row], np.uint16),
                "source": f"/usr/lib/some/package-{row % 17}/file_{row}.txt",
                "domain": np.uint8(documents["domain"][row]),
                "id": f"id-{row}",
            }
            writer.write(sample | ({"text": text} if with_text else {}))
    kinds = [KINDS[kind] for kind in documents["kind"]]
    table = pa.table({"id": [f"id-{row}" for row in range(len(kinds))], "kind": kinds})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    store.put("truth.parquet", sink.getvalue())


def policy_at(kind, progress):
    """Theta [A] and memory [A, S] as they might develop; progress in [0, 1]."""
    pull = 1 - np.exp(-3 * progress)
    memory = np.zeros((3, 13))
    memory[0, :5] = np.array([-1.6, -0.9, 0.0, 0.7, 1.1]) * pull
    memory[1, :7] = np.array([1.2, -0.5, 0.5, 0.7, -0.3, -0.9, -0.6]) * pull
    memory[2] = np.linspace(0.8, -0.8, 13) * pull + 0.1 * np.sin(9 * progress + np.arange(13))
    theta = np.array([1, 1, 1]) / 3 + np.array([0.22, -0.02, -0.2]) * pull
    if kind == "threshold":
        memory[:] = 0
        memory[0, :5] = [-4, -4, 0, 0, 0]
        theta = np.array([1.0, 0.0, 0.0])
    return theta, memory


def write_ledger(folder, kind, documents, steps, refresh_steps):
    rng = np.random.default_rng(7)
    ledger = Ledger(open_store(str(folder)), flush_steps=40)
    slots, candidates, keep = 4, 32, 10
    num_agents = 0 if kind == "random" else 3
    num = slots * (keep if kind == "random" else candidates)
    for step in range(steps):
        refresh = step // refresh_steps
        ids = rng.integers(0, len(documents["text"]), num)
        theta, memory = policy_at(kind, refresh * refresh_steps / steps)
        states = np.stack([documents[name][ids] for name in ("quality", "domain", "topic")], 1)
        votes = np.take_along_axis(memory, states.T, 1).T
        score = votes @ theta + 0.35 * rng.gumbel(size=num)
        kept = np.ones((slots, num // slots), bool)
        if num_agents:
            ranks = (-score).reshape(slots, -1).argsort(1).argsort(1)
            kept = ranks < keep
        if num_agents and step % refresh_steps == 0 and step:
            probes = rng.integers(0, len(documents["text"]), 16)
            ledger.credit(
                ProbeRecord(
                    refresh=refresh,
                    step=step,
                    sample_id=probes,
                    states=states[:16],
                    weight=np.ones(16),
                    reward=rng.normal(size=16),
                )
            )
        kept = kept.reshape(-1)
        ledger.append(
            StepRecord(
                step=step,
                policy_version=refresh,
                theta=theta[:num_agents],
                memory=memory[:num_agents],
                slot=np.repeat(np.arange(slots), num // slots),
                row_start=np.where(kept, 0, -1),
                sample_id=ids,
                offset=np.zeros(num),
                length=documents["length"][ids],
                kept=kept,
                votes=votes[:, :num_agents],
                states=states[:, :num_agents],
                score=score if num_agents else np.zeros(num),
            )
        )
    ledger.close()


RUNS = {"random": (1.0, 0.0, 0.0), "threshold": (1.22, 2.9, 0.0), "console": (1.62, 5.4, 9.7)}


def write_run(folder, kind, documents, corpus, steps=60, seed=0):
    """A run whose loss falls as if each token were worth a factor of random's."""
    gain, selection_s, feedback_s = RUNS[kind]
    rng = np.random.default_rng([seed, len(kind)])
    folder.mkdir(parents=True)
    step_tokens, wall_s = 8192, 0.22 * steps + selection_s + feedback_s

    def loss(done, ceiling):
        return ceiling + 5.5 * (1 + done * gain / steps * 40) ** -0.55

    names = {"quality": QUALITY, "domain": DOMAINS, "topic": TOPICS}
    info = {
        "kind": kind,
        "config": {"seed": seed, "steps": steps, "model": {"dim": 128, "num_layers": 4}},
        "seed": seed,
        "command": f"moot train --config demo.toml --kind {kind}",
        "versions": {"moot": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
        "machine": {"cpu": "made up for a test", "cores": 2, "memory": "8 GiB"},
        "corpus": str(corpus),
        "domains": DOMAINS,
        "agents": []
        if kind == "random"
        else [{"name": name, "states": states} for name, states in names.items()],
    }
    (folder / "run.json").write_text(json.dumps(info))
    log_every, eval_every = max(1, steps // 120), max(1, steps // 20)
    with (folder / "metrics.jsonl").open("w") as metrics:
        for step in range(log_every, steps + 1, log_every):
            row = {"step": step, "tokens": step * step_tokens, "wall_s": wall_s * step / steps}
            row |= {"loss": loss(step, 2.9) + 0.06 * rng.normal(), "data/wait(s)": 0.01}
            metrics.write(json.dumps(row) + "\n")
    with (folder / "evals.jsonl").open("w") as evals:
        for step in range(0, steps + 1, eval_every):
            row = {"step": step, "tokens": step * step_tokens, "wall_s": wall_s * step / steps}
            row |= {"heldout_loss": loss(step, 3.0) + 0.004 * rng.normal()}
            row |= {"reference_loss": loss(step * 1.04, 2.8) + 0.004 * rng.normal()}
            evals.write(json.dumps(row) + "\n")
    summary = {"wall_s": wall_s, "selection_s": selection_s, "feedback_s": feedback_s}
    summary |= {"evaluation_s": 6.1, "wait_s": 0.8, "tokens": steps * step_tokens}
    (folder / "summary.json").write_text(json.dumps(summary))
    write_ledger(folder / "ledger", kind, documents, steps, max(1, steps // 12))


def write_demo(folder, num_documents=300, steps=60):
    documents = made_up_documents(num_documents)
    write_corpus(folder / "corpus", documents)
    for kind in RUNS:
        write_run(folder / kind, kind, documents, folder / "corpus", steps)
    return documents


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    documents = write_demo(folder)
    return folder, documents, write_report(folder)


class Outline(HTMLParser):
    """Tags, ids, links and whether every tag that is opened is closed."""

    VOID = {"meta", "br", "img", "hr", "link", "input"}

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.headings = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in self.VOID else [tag]
        for name, value in attrs:
            self.ids += [value] if name == "id" else []
            self.links += [value] if name in {"src", "href", "xlink:href", "action"} else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.headings.append(data.strip())


def test_page_is_whole_and_needs_no_network(demo):
    page = demo[2].read_text(encoding="utf-8")
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert "script" not in outline.tags
    outside = [link for link in outline.links if not link.startswith("#")]
    assert all(link.startswith("data:image/png;base64,") for link in outside)
    assert {link[1:] for link in outline.links if link not in outside} <= set(outline.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(outline.ids)
    assert not re.search(r"@import|url\((?!#)", page)


def test_page_shows_every_part(demo):
    outline = Outline(demo[2].read_text(encoding="utf-8"))
    for heading in (
        "Held-out loss",
        "Reference loss",
        "Training loss",
        "Held-out loss against wall-clock",
        "Theta: how much each agent counts",
        "Memory of quality",
        "Memory of domain",
        "Memory of topic",
        "Degraded text, all runs",
        "By topic, kept share over offered share",
        "By domain, over time",
        "Accepted",
        "Rejected",
        "How far to trust this",
    ):
        assert heading in outline.headings, heading


def test_text_of_the_corpus_is_escaped(demo):
    page = demo[2].read_text(encoding="utf-8")
    assert "<script>" not in page and "<b>bold" not in page
    assert "&lt;script&gt;alert(" in page


def test_every_figure_is_there_as_png_too(demo):
    folder, _, report = demo
    page = report.read_text(encoding="utf-8")
    names = {path.stem for path in (folder / "figures").glob("*.png")}
    assert len(names) == page.count("<svg ")
    assert {"heldout-loss", "theta", "memory-topic", "degraded-share"} <= names
    for path in (folder / "figures").iterdir():
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_template_is_a_file_of_the_package():
    template = importlib.resources.files("moot.trainer.report") / "page.html.j2"
    assert template.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_writing_twice_gives_the_same_page(demo):
    folder, _, report = demo
    before = report.read_text(encoding="utf-8")
    assert write_report(folder) == report
    assert report.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    "losses, target, expected",
    [
        ([5.0, 4.0, 3.0], 3.5, 250.0),
        ([5.0, 4.0, 3.0], 5.0, 100.0),
        ([5.0, 4.0, 3.0], 4.0, 200.0),
        ([5.0, 4.0, 3.0], 2.9, np.nan),
        ([5.0, np.nan, 3.0], 4.0, 200.0),
        ([5.0, 3.0, 4.0], 3.5, 175.0),
        ([np.nan, np.nan, np.nan], 3.5, np.nan),
        ([5.0, 4.0, 3.0], np.nan, np.nan),
    ],
)
def test_tokens_to_reach_interpolates_the_first_crossing(losses, target, expected):
    tokens = np.array([100.0, 200.0, 300.0])
    found = tokens_to_reach(tokens, np.array(losses), target)
    assert found == expected or np.isnan(found) and np.isnan(expected)


def test_comparison_agrees_with_how_the_runs_were_made(demo):
    random, threshold, console = comparison_rows(demo[0])
    assert [row["kind"] for row in (random, threshold, console)] == list(RUNS)
    assert random["share_to_heldout"] == 1.0
    for row in (threshold, console):
        assert row["share_to_heldout"] == pytest.approx(1 / RUNS[row["kind"]][0], abs=0.03)
        assert row["tokens_to_reference"] == pytest.approx(
            row["share_to_reference"] * random["tokens"]
        )
    assert console["feedback_share"] == pytest.approx(9.7 / (0.22 * 60 + 5.4 + 9.7))
    last = json.loads((demo[0] / "console" / "evals.jsonl").read_text().splitlines()[-1])
    assert console["heldout_loss"] == last["heldout_loss"]


def test_terminal_table_fits_80_columns(demo):
    sink = io.StringIO()
    print_comparison(demo[0], rich.console.Console(file=sink, width=80))
    text = sink.getvalue()
    console = comparison_rows(demo[0])[2]
    assert f"{console['heldout_loss']:.4f}" in text
    assert f"({console['share_to_reference']:.2f}x)" in text
    assert max(map(len, text.splitlines())) <= 80


def test_verdict_admits_that_a_loss_was_not_reached(demo):
    rows = comparison_rows(demo[0])
    assert "x of its tokens" in verdict(rows)[0]
    rows[2] |= {"share_to_heldout": float("nan"), "heldout_loss": 9.0}
    assert "did not come down" in verdict(rows)[0] and "9.000" in verdict(rows)[0]
    assert verdict(rows[:2]) == []


def test_mixture_is_the_share_of_tokens(demo):
    run = load_run(demo[0] / "console")
    pieces = read_pieces(run, max_bins=6)
    mix = mixture(pieces, pieces.states[:, 1].astype(np.int64), DOMAINS)
    table = read_ledger(open_store(str(demo[0] / "console" / "ledger"))).pieces.to_pylist()
    for last_bin in (0, 5):
        rows = [row for row in table if row["step"] // 10 == last_bin]
        kept = [row for row in rows if row["kept"]]
        for shares, among in ((mix.offered, rows), (mix.kept, kept)):
            tokens = sum(row["length"] for row in among)
            python = sum(row["length"] for row in among if row["states"][1] == 0)
            assert shares[last_bin, 0] == pytest.approx(python / tokens)
    assert mix.kept_overall.sum() == pytest.approx(1)
    assert mix.tokens[0] == pytest.approx(5 * 8192)


def test_truth_is_joined_by_sample(demo):
    folder, documents, _ = demo
    ids = np.array([299, 0, 7, 7, 151])
    found = Documents(str(folder / "corpus" / "train"))
    facts = found.facts(ids)
    assert facts.kinds == KINDS
    assert facts.find(facts.kind, ids).tolist() == documents["kind"][ids].tolist()
    assert facts.find(facts.domain, ids).tolist() == documents["domain"][ids].tolist()
    found.close()


def test_excerpts_are_cut(demo):
    folder, documents, _ = demo
    found = Documents(str(folder / "corpus"))
    excerpts = found.excerpts([5, 2], most=20)
    assert {key: one.text for key, one in excerpts.items()} == {
        row: documents["text"][row][:20] for row in (2, 5)
    }
    assert excerpts[5].is_cut and excerpts[5].source.endswith("file_5.txt")
    found.close()


def test_excerpts_are_decoded_where_no_text_is_stored(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"agents": 0}, unk_token="agents"))
    documents = made_up_documents(4)
    write_corpus(tmp_path, documents, with_text=False)
    open_store(str(tmp_path)).put("tokenizer.json", tokenizer.to_str().encode())
    found = Documents(str(tmp_path))
    excerpt = found.excerpts([3], most=25)[3]
    assert excerpt.text == "agents agents agents agen" and excerpt.is_cut
    found.close()


def test_examples_are_distinct_late_and_repeatable(demo):
    pieces = read_pieces(load_run(demo[0] / "console"))
    for kept in (True, False):
        rows = choose_examples(pieces, kept, 5)
        assert np.array_equal(rows, choose_examples(pieces, kept, 5))
        assert (pieces.kept[rows] == kept).all()
        assert len(set(pieces.sample_id[rows])) == 5
        assert pieces.step[rows].min() >= 39
        assert (np.diff(pieces.score[rows]) <= 0).all()


def test_report_of_one_run_without_corpus_says_what_is_missing(tmp_path):
    documents = made_up_documents(50)
    write_run(tmp_path / "console", "console", documents, tmp_path / "nowhere", steps=24)
    page = write_report(tmp_path / "console").read_text(encoding="utf-8")
    assert "Not shown:" in page and "nowhere" in page
    assert "Memory of quality" in page and "Accepted" not in page


def test_report_without_a_ledger_still_compares(tmp_path):
    documents = made_up_documents(50)
    for kind in ("random", "console"):
        write_run(tmp_path / kind, kind, documents, tmp_path / "nowhere", steps=24)
        for part in (tmp_path / kind / "ledger").iterdir():
            part.unlink()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "run console has no ledger" in page and "Held-out loss" in page


def test_report_of_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"kind": "console"}))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "not recorded" in page


def test_lines_of_a_resumed_run_supersede_and_a_torn_line_is_left_out(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    steps = [(1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5)]
    lines = [json.dumps({"step": s, "tokens": s, "loss": loss, "wall_s": s}) for s, loss in steps]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "to']))
    run = load_run(tmp_path)
    assert run.metrics["step"].tolist() == [1, 2]
    assert run.metrics["loss"].tolist() == [5.0, 4.5]


def test_damage_in_the_middle_of_a_log_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(StateError, match=r"metrics\.jsonl, line 2"):
        load_run(tmp_path)


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run in"):
        write_report(tmp_path)


def test_spread_keeps_labels_apart_and_inside():
    rng = np.random.default_rng(0)
    for num in (1, 2, 5, 13):
        for _ in range(20):
            wanted = np.sort(rng.random(num) ** 4)
            places = spread(wanted, 0.06)
            assert np.all(np.diff(places) >= 0.06 - 1e-3)
            assert min(places) >= -1e-3 and max(places) <= 1 + 1e-3


def test_smoothing_keeps_a_straight_line_inside_and_length():
    values = np.arange(50.0)
    assert np.allclose(smoothed(values, 9)[4:-4], values[4:-4])
    assert len(smoothed(values, 9)) == 50
    assert np.array_equal(smoothed(values, 1), values)


def test_names_of_any_kind_are_shown_as_text(tmp_path):
    documents = made_up_documents(50)
    write_run(tmp_path / "run", "console", documents, tmp_path / "nowhere", steps=24)
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    info["agents"][0] = {"name": 'a/b"<i>', "states": ["$x^{", "\\1", "<i>", "\u6f22", "\u202e"]}
    path.write_text(json.dumps(info))
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert Outline(page).open == [] and "<i>" not in page
    assert "$x^{" in page and (tmp_path / "run" / "figures" / "memory-a-b-i-.png").is_file()


def test_excerpts_hold_nothing_invisible(tmp_path):
    documents = made_up_documents(2)
    documents["text"][1] = "a\x00b\x1b[31m\u202ec\td\n"
    write_corpus(tmp_path, documents)
    found = Documents(str(tmp_path))
    assert found.excerpts([1])[1].text == "a\ufffdb\ufffd[31m\ufffdc\td\n"
    found.close()

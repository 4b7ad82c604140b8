# SPDX-License-Identifier: Apache-2.0
"""How fast and how surely do streaming loaders read the same samples? Ours against its rivals.

Run: make bench (QUICK=1 for four minutes), or python benchmarks/bench_stream.py --help.
One nginx on loopback serves one corpus in every rival's format; each run is a process of its own,
and repeats are interleaved. Every result is appended to a file as it comes: what is there already
is not run again, so a part that was interrupted goes on. Ours is run again for each commit.

cold        first pass, empty caches; before it the trials that choose each rival's settings, a
            whole pass of every reader that is compared with the corpus, and the floor
conditions  caches filled; 20 ms before every answer; TLS
behaviour   documents packed to rows, resuming, the end of an epoch, indexes of 10^5 and 10^6 shards
selection   what choosing costs: stored labels that keep all to a sixteenth, three inline agents,
            Python in the step

Needs nginx with Lua and openssl (Debian: nginx-light libnginx-mod-http-lua openssl); makes the
peers' environment itself. Everything lies in build/bench.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from stream import environment, table
from stream.reader import BATCH_ROWS
from stream.server import serve

WORK = environment.BUILD / "bench"
SERVED = WORK / "served"
FORMS = {"webdataset": "tar", "huggingface": "parquet", "memmap": "bin"}  # else mds
FULL_ROWS, SMALL_ROWS = 392_704, 73_728  # multiples of 128; 1.61 and 0.30 GB of tokens
STOPS = (0.1, 0.5, 0.9)
LABELLED = "tokens-labelled-small"
LABELLED_SHARD_BYTES = 1152 * 4100 + 2048  # 64 shards of 1,152 samples: four of each state
KEPT = (16, 8, 4, 1)  # of sixteen states
START_S = 4.0  # what a process takes beside its measurement, for forecasts alone
WRITTEN_A_S = (25_000, 100_000)  # samples of 2,048 tokens; entries of an index
MANY = (100_000, 1_000_000)
MANY_FORMS = {
    "ours": "mds",
    "ours-table": "table",
    "mosaic-tuned": "mds",
    "litdata-zstd": "litdata-zstd",
}
_CHOOSING = ("ours-raw", "ours-parquet")  # for the part `selection`, like "ours"
_ELSEWHERE = ("litdata-mds", "ours-disk", "ours-table", *_CHOOSING)  # each has its own place
OLD_LOCK = [str(environment.FILELOCK)]


@dataclass(frozen=True)
class Rival:
    """A reader and how it is set; `trials` are tried first, and the fastest is taken."""

    reader: str
    options: dict = field(default_factory=dict)
    trials: tuple[dict, ...] = ()
    path: tuple[str, ...] = ()
    can_resume: bool = True

    @property
    def form(self) -> str:
        """The format it reads."""
        return self.options.get("form", FORMS.get(self.reader, "mds"))


_WORKERS = ({"workers": 0}, {"workers": 1}, {"workers": 2})
_TUNED = {"predownload": 4096, "stack": True}
RIVALS = {
    "ours": Rival("moot"),
    "ours-http": Rival("moot", {"scheme": "http"}),
    "ours-disk": Rival("moot", {"keep": True}),
    "ours-table": Rival("moot", {"form": "table"}),
    "ours-raw": Rival("moot", {"form": "mds-raw"}),
    "ours-parquet": Rival("moot", {"form": "parquet"}),
    "mosaic-default": Rival("mosaic"),
    "mosaic-tuned": Rival("mosaic", _TUNED, _WORKERS, tuple(OLD_LOCK)),
    "litdata-zstd": Rival("litdata", {"form": "litdata-zstd"}, _WORKERS),
    "litdata-raw": Rival("litdata", {"form": "litdata-raw"}, _WORKERS),
    "litdata-mds": Rival("litdata", {"form": "mds"}),
    "webdataset": Rival("webdataset", {}, _WORKERS, can_resume=False),
    "huggingface": Rival("huggingface"),
    "huggingface-files": Rival("huggingface", {"buffer": 0}),
    "memmap": Rival("memmap", can_resume=False),
}
_LOCAL = ("memmap",)  # no network: the conditions do not change it
_NO_CACHE = ("ours", "ours-http", "huggingface", "huggingface-files", "memmap")
_QUICK = (
    "ours",
    "ours-table",
    "ours-raw",
    "mosaic-tuned",
    "litdata-zstd",
    "webdataset",
    "huggingface",
    "memmap",
)


@dataclass(frozen=True)
class Run:
    """One process that is to run; `key` names its result for ever."""

    part: str
    mode: str
    rival: str
    condition: str = "plain"
    corpus: str = "tokens"
    repeat: int = 0
    extra: dict = field(default_factory=dict)
    """Of the measurement, and part of the key."""
    hidden: dict = field(default_factory=dict)
    """Of this time only: paths, states, how long until it is killed."""

    @property
    def key(self) -> str:
        """Equal for equal work."""
        where = [self.mode, self.rival, self.condition, self.corpus, str(self.repeat)]
        return "/".join([*where, *(f"{k}={v}" for k, v in sorted(self.extra.items()))])


class Bench:
    """Runs what is not there yet, and knows what is."""

    def __init__(self, args):
        self.args = args
        self.tokens = "tokens-small" if args.quick else "tokens"
        self.limit_s = 3.0 if args.quick else 20.0
        self.least = 30 if args.quick else 300
        self.log = WORK / ("quick.jsonl" if args.quick else "full.jsonl")
        self.commit = environment.commit()
        self.peers = environment.peers_python(args.torch)
        self.server = None
        if args.fresh:
            self.log.unlink(missing_ok=True)
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.done = {row["key"]: row for row in map(json.loads, lines) if self._holds(row)}

    def _holds(self, row):
        return not row["rival"].startswith("ours") or row["commit"] == self.commit

    def result(self, run):
        """Return the result of a run, which is started if it is not there."""
        if run.key not in self.done:
            self.record(run, self._execute(run))
        return self.done[run.key]

    def record(self, run, figures):
        """Keep the result of a run."""
        names = ("part", "mode", "rival", "condition", "corpus", "repeat", "extra")
        row = {"key": run.key, **{name: getattr(run, name) for name in names}}
        row |= {"commit": self.commit, **figures}
        with self.log.open("a") as out:
            out.write(json.dumps(row) + "\n")
        self.done[run.key] = row
        print(f"{run.part:<11}{run.key:<60.60} {table.brief(row)}", flush=True)

    def _execute(self, run):
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=WORK))
        url = self.server.urls["plain" if run.condition == "warm" else run.condition]
        env = environment.s3_variables(url, self.server.authority)
        if run.mode == "floor":
            ask = {"endpoint": url, "authority": str(self.server.authority), "corpus": run.corpus}
            ask["folder"] = str(SERVED / "bench" / run.corpus / "mds")
            return self._child(sys.executable, "stream.floor", ask, folder, 300, env)
        is_ours = run.rival.startswith("ours")
        python = sys.executable if is_ours else self.peers
        if run.mode == "base":
            return self._child(python, "stream.measure", {"mode": "base"}, folder, 60, {})
        rival = RIVALS[run.rival]
        is_trial = "options" in run.extra
        chosen = run.extra["options"] if is_trial else self.chosen(run.rival)
        options = {**rival.options, **chosen}
        ask = {"mode": run.mode, "reader": rival.reader, "options": options}
        ask |= {"first_on_path": list(rival.path), "base_kb": self.base_kb(run.rival)}
        ask |= {"limit_s": self.limit_s, "least": 10, "batches": self.batches(run.corpus)}
        ask["settled_gb"] = 1 if self.args.quick else 4
        ask["memory_bytes"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
        ask |= run.extra | run.hidden
        ask["options"] = options
        ask["place"] = {
            "endpoint": url,
            "corpus": run.corpus,
            "is_packed": not run.corpus.startswith("tokens"),
            "served": str(SERVED / "bench"),
            "cache": str(ask.pop("cache", folder / "cache")),
            "state": ask.pop("state", None),
        }
        limit_s = ask.pop("kill_s", 20 + 5 * self.limit_s)
        module = "stream.selection" if run.part == "selection" else "stream.measure"
        return self._child(python, module, ask, folder, limit_s, env)

    def _child(self, python, module, ask, folder, limit_s, env):
        folder.rmdir()
        return environment.run(python, module, ask, folder=folder, limit_s=limit_s, env=env)

    def batches(self, corpus):
        """Return the batches of one pass."""
        return (SMALL_ROWS if corpus.endswith("small") else FULL_ROWS) // BATCH_ROWS

    def base_kb(self, rival):
        """Return the peak memory of a process that only imports torch, in the same environment."""
        whose = "ours" if rival.startswith("ours") else "peers"
        return self.result(Run("cold", "base", whose))["peak_kb"]

    def chosen(self, rival):
        """Return the options that won the rival's trials."""
        trials = RIVALS[rival].trials
        if not trials or self.args.quick:
            return trials[-1] if trials and rival == "mosaic-tuned" else {}
        rates = []
        for options in trials:
            extra = {"options": options, "limit_s": 6.0, "batches": 10**9}
            row = self.result(Run("cold", "pass", rival, corpus="tokens-small", extra=extra))
            rates.append(row.get("steady_samples_per_s", 0.0))
        return trials[rates.index(max(rates))]

    # ---- the parts

    def wanted(self, *, without=()):
        """Return the rivals that take part."""
        names = [name for name in (_QUICK if self.args.quick else RIVALS) if name not in without]
        return [name for name in names if not self.args.only or name in self.args.only]

    def passes(self, part, num, rivals, **settings):
        """Let every rival read once, then every rival again."""
        self.interleaved(num, [Run(part, "pass", rival, **settings) for rival in rivals])

    def interleaved(self, num, runs):
        """Do every run once, then every run again."""
        for repeat in range(num):
            first = repeat % max(len(runs), 1)
            for run in runs[first:] + runs[:first]:
                self.result(replace(run, repeat=repeat))

    def cold(self):
        """Trials, whole passes, the floor, and the first pass with empty caches."""
        rivals = self.wanted(without=_ELSEWHERE)
        self.corpus("tokens-small", rivals)
        self.corpus(self.tokens, ["ours", *rivals])  # ours: for the floor
        for repeat in range(self.args.n):
            self.result(Run("cold", "floor", "floor", corpus=self.tokens, repeat=repeat))
        whole = {"kill_s": 300}
        checked = self.wanted(without=("ours-table", *_CHOOSING))
        for rival in checked if not self.args.quick else ("ours", "memmap"):
            self.result(Run("cold", "verify", rival, corpus=self.tokens, hidden=whole))
        self.passes("cold", self.args.n, rivals, corpus=self.tokens)

    def conditions(self):
        """Filled caches, latency, TLS."""
        num = min(self.args.n, 3)
        rivals = self.wanted(without=("litdata-mds", "ours-table", *_CHOOSING))
        self.corpus("tokens-small", rivals)
        self.corpus(self.tokens, ["ours", *rivals])  # ours: for the floor
        for rival in rivals if not self.args.quick else ["ours"]:
            self.warm(rival, num)
        rivals = self.wanted(without=(*_ELSEWHERE, *_LOCAL))
        if self.args.quick:
            rivals = [name for name in rivals if name in ("ours", "litdata-zstd")]
        for condition in ("slow", "tls"):
            settings = {"condition": condition, "corpus": self.tokens}
            self.passes("conditions", num, rivals, **settings)
        self.result(Run("conditions", "floor", "floor", "tls", self.tokens))

    def warm(self, rival, num):
        """Fill the rival's cache, if it has one, by a whole pass; then read from it."""
        runs = [
            Run("conditions", "pass", rival, "warm", self.tokens, repeat) for repeat in range(num)
        ]
        if all(run.key in self.done for run in runs):
            return
        cache = WORK / "warm" / rival
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        if rival not in _NO_CACHE:
            fill = {"cache": str(cache), "limit_s": 1e9, "kill_s": 240}
            self._execute(Run("conditions", "pass", rival, corpus=self.tokens, hidden=fill))
        often = {"cache": str(cache), "least": self.least, "batches": 10**9}
        for run in runs:
            self.result(replace(run, hidden=often))
        shutil.rmtree(cache)

    def behaviour(self):
        """Documents, resuming, the end of an epoch, very many shards."""
        num = min(self.args.n, 3)
        documents = "documents-small" if self.args.quick else "documents"
        rivals = self.wanted(without=(*_ELSEWHERE, "ours-http"))
        if self.args.quick:
            rivals = [name for name in rivals if name in ("ours", "litdata-zstd", "memmap")]
        for name in ("tokens-small", self.tokens, "documents-small", documents):
            self.corpus(name, rivals)
        checked = [*rivals, *self.wanted(without=set(RIVALS) - {"litdata-mds"})]
        for rival in checked if not self.args.quick else ["ours"]:
            patient = {"kill_s": 120}
            self.result(Run("behaviour", "verify", rival, corpus="documents-small", hidden=patient))
        self.passes("behaviour", num, rivals, corpus=documents)
        few = rivals if not self.args.quick else ["ours"]
        for rival in few:
            if RIVALS[rival].can_resume:
                self.resume(rival, num)
        for rival in few:
            patient = {"kill_s": 120}
            self.result(Run("behaviour", "boundary", rival, corpus="tokens-small", hidden=patient))
        self.indexes()

    def resume(self, rival, num):
        """Save states on the way through the corpus, then continue from each in a new process."""
        parts = STOPS[1:2] if self.args.quick else STOPS
        stops = [round(part * self.batches(self.tokens)) for part in parts]
        runs = [
            Run("behaviour", "resume", rival, "plain", self.tokens, repeat, {"stop": stop})
            for stop in stops
            for repeat in range(num)
        ]
        if all(run.key in self.done for run in runs):
            return
        states = WORK / "states" / rival
        shutil.rmtree(states, ignore_errors=True)
        states.mkdir(parents=True)
        cache = WORK / "states" / f"{rival}-cache"  # LitData continues in a folder of one name only
        hidden = {"states": str(states), "cache": str(cache), "stops": stops, "kill_s": 240}
        saved = self._execute(Run("behaviour", "states", rival, corpus=self.tokens, hidden=hidden))
        if "error" in saved:
            self.record(runs[0], saved)
            return
        by_stop = json.loads((states / "states.json").read_text())
        for run in runs:
            shutil.rmtree(cache, ignore_errors=True)
            state = by_stop[str(run.extra["stop"])]
            hidden = {"states": str(states), "cache": str(cache), "state": state}
            self.result(replace(run, hidden=hidden))
        shutil.rmtree(cache, ignore_errors=True)
        shutil.rmtree(states)

    def indexes(self):
        """Open corpora of very many shards."""
        for num in MANY[:1] if self.args.quick else MANY:
            for rival, form in MANY_FORMS.items():
                if rival not in self.wanted() or (self.args.quick and rival[:4] != "ours"):
                    continue
                patient = {"kill_s": 180}
                run = Run("behaviour", "open", rival, corpus=f"many/{num}", hidden=patient)
                if run.key not in self.done:
                    self.write(f"many/{num}", "many", num, form)
                self.result(run)

    def selection(self):
        """Stored labels, inline agents, the share of Python."""
        num = min(self.args.n, 3)
        rivals = self.wanted(without=set(RIVALS) - {"ours", *_CHOOSING})
        columns = [("cluster", KEPT), ("scatter", KEPT[1:])]
        predicates = [None, *(f"{name} < {kept}" for name, some in columns for kept in some)]
        if self.args.quick:
            predicates = [None, "cluster < 4", "scatter < 4"]
        chosen = rivals if not self.args.quick else [name for name in rivals if name != "ours"]
        self.corpus(LABELLED, chosen)
        self.label(chosen)
        pairs = [(where, rival) for where in predicates for rival in chosen]
        run = Run("selection", "where", "", corpus=LABELLED)
        self.interleaved(num, [replace(run, rival=r, extra={"where": w}) for w, r in pairs])
        if "ours" not in rivals:
            return
        documents = "documents-small" if self.args.quick else "documents"
        self.corpus(documents)
        scored = Run("selection", "inline", "ours", corpus=documents)
        self.interleaved(num, [replace(scored, extra={"selects": s}) for s in (False, True)])
        held = ("tokens-small", "documents-small")
        for name in held:
            self.corpus(name)
        self.interleaved(num, [Run("selection", "python", "ours", corpus=name) for name in held])

    # ---- corpora

    def corpus(self, name, rivals=("ours",)):
        """Write a corpus in the formats that some rivals read, unless it is there."""
        rows = SMALL_ROWS if name.endswith("small") else FULL_ROWS
        for form in dict.fromkeys(["bin", *(RIVALS[rival].form for rival in rivals)]):
            self.write(name, name.partition("-")[0], rows, form)

    def label(self, rivals):
        """Write the labels of the labelled corpus anew for each commit, as that writes them."""
        for rival in rivals:
            form = RIVALS[rival].form
            mark = SERVED / "bench" / LABELLED / f"{form}.labelled"
            if mark.exists() and mark.read_text() == self.commit and self.commit[-1] != "+":
                continue
            ask = {"folder": str(SERVED / "bench" / LABELLED / form), "form": form}
            self._write(sys.executable, "stream.labels", ask)
            mark.write_text(self.commit)

    def write(self, name, kind, rows, form):
        """Write one format of one corpus, unless it is there."""
        stored = SERVED / "bench" / name
        mark = stored / f"{form}.made"
        if mark.exists() and mark.read_text() == str(rows):
            return
        print(f"bench: writing {name} as {form}", flush=True)
        shutil.rmtree(stored / form, ignore_errors=True)
        if form == "table":
            self.write_table(name)
            return
        ask = {"folder": str(stored), "kind": kind, "rows": rows, "form": form}
        if name == LABELLED:
            ask["shard_bytes"] = LABELLED_SHARD_BYTES
        self._write(self.peers, "stream.corpora", ask)
        mark.write_text(str(rows))

    def _write(self, python, module, ask):
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=WORK))
        made = self._child(python, module, ask, folder, 900, {})
        if "error" in made:
            raise SystemExit(f"bench: cannot write {ask['folder']}, {ask['form']}: {made['error']}")

    def write_table(self, name):
        """Write our own index beside a link to index.json, of which it is made."""
        stored = SERVED / "bench" / name
        (stored / "table").mkdir(exist_ok=True)
        (stored / "table/index.json").unlink(missing_ok=True)
        os.link(stored / "mds/index.json", stored / "table/index.json")
        one = stored.parent / "one.table"
        one.unlink(missing_ok=True)
        os.link(stored.parent / "one.mds", one)
        moot = Path(sys.executable).with_name("moot")
        subprocess.run([moot, "index", stored / "table"], check=True, stdout=subprocess.DEVNULL)


class Forecast(Bench):
    """A bench that runs nothing, but adds up the seconds that a part is likely to take.

    Args:
        bench: Whose results are there already: they are not run again, and say how fast readers
            are. A reader without a result is taken to use up its time.
    """

    def __init__(self, bench):
        self.__dict__ |= {**vars(bench), "done": dict(bench.done)}
        self.seconds = 0.0

    def text(self, part):
        """Return the forecast in words."""
        getattr(self, part)()
        return f"about {max(self.seconds, 60) / 60:.0f} min"

    def record(self, run, figures):
        """Keep what would be a result."""
        self.done[run.key] = {"rival": run.rival, **figures}

    def write(self, name, kind, rows, form):
        """Count the time that writing takes, unless it is there."""
        if not (SERVED / "bench" / name / f"{form}.made").exists():
            self.seconds += START_S + rows / WRITTEN_A_S[kind == "many"]

    def label(self, rivals):
        """Count the time that labelling takes."""
        self.seconds += START_S * len(rivals)

    def _execute(self, run):
        asked = run.extra | run.hidden
        rows = asked.get("batches", self.batches(run.corpus)) * BATCH_ROWS
        mine = [row for row in self.done.values() if row["rival"] == run.rival]
        fastest = max((row.get("samples_per_s", 0.0) for row in mine), default=0.0)
        whole_s = rows / fastest if fastest else 4 * self.limit_s
        is_cut = run.mode in ("pass", "inline")
        limit_s = asked.get("limit_s", self.limit_s if is_cut else 4 * self.limit_s)
        limit_s = 0.0 if run.mode in ("base", "floor") else limit_s
        self.seconds += START_S + min(whole_s, limit_s, asked.get("kill_s", limit_s))
        if run.mode == "states":  # the runs that continue from them
            self.seconds += START_S * len(STOPS) * min(self.args.n, 3)
        return {"error": "not run"}


def main():
    """Run the parts that are asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ("cold", "conditions", "behaviour", "selection")
    parser.add_argument("--part", choices=[*parts, "all"], default="all")
    parser.add_argument("--n", type=int, default=5, help="repeats; at most 3 beyond the cold part")
    parser.add_argument("--only", type=lambda text: text.split(","), help="rivals, by comma")
    parser.add_argument("--quick", action="store_true", help="0.3 GB, one repeat of 3 s")
    parser.add_argument("--fresh", action="store_true", help="forget the results that are there")
    parser.add_argument("--torch", default="torch", help="which build, as pip spells it")
    parser.add_argument("--out", type=Path, help="results without suffix; .json and .md are added")
    args = parser.parse_args()
    if args.quick:
        args.n = 1
    unknown = set(args.only or ()) - set(RIVALS)
    if unknown:
        parser.error(f"unknown rivals {sorted(unknown)}; there are {', '.join(RIVALS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended"))
    SERVED.mkdir(parents=True, exist_ok=True)
    lock = (WORK / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would measure each other
    for stale in WORK.glob("run-*"):
        shutil.rmtree(stale)
    bench = Bench(args)
    with serve(SERVED, WORK / "run-nginx") as bench.server:
        for part in parts if args.part == "all" else [args.part]:
            print(f"bench: {part}: {Forecast(bench).text(part)}", flush=True)
            getattr(bench, part)()
        facts = environment.facts(bench.peers, bench.server.version)
    out = args.out or WORK / ("quick" if args.quick else "full")
    table.write(out, list(bench.done.values()), facts, vars(args))
    print(out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()

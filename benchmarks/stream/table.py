# SPDX-License-Identifier: Apache-2.0
"""Results as one JSON and one readable Markdown file: medians, smallest and largest in brackets."""

import json
import statistics

_ABOUT = {
    "ours": "moot from s3://, default settings, every shard's xxh64 verified",
    "ours-http": "the same over http://",
    "ours-disk": "the same with `cache_dir`",
    "ours-table": "the same with its own index, moot.index.parquet",
    "ours-raw": "the same on uncompressed MDS, of which single samples can be fetched",
    "ours-parquet": "the same on Parquet, of which row groups are fetched",
    "mosaic-default": "mosaicml-streaming, S3, MDS, default settings at batch 64",
    "mosaic-tuned": "predownload 4096, one np.stack a batch, fast filelock, best worker count",
    "litdata-zstd": "LitData, S3, its own format in zstd:3, allowed http, best worker count",
    "litdata-raw": "the same, uncompressed",
    "litdata-mds": "LitData on the MDS shards",
    "webdataset": "WebDataset, HTTP by curl, uncompressed tar, buffer of 1,000, best worker count",
    "huggingface": "datasets, HTTP, Parquet zstd, Arrow tables, buffer of 1,000 rows",
    "huggingface-files": "the same, files alone shuffled",
    "memmap": "numpy on an uncompressed local file in the page cache: the ceiling",
}
_NOTES = """
One process a run, repeats interleaved; nginx runs on the same cores and its CPU is not counted.
Every reader hands over [64, 2048] arrays of the tokens as stored, shuffled. samples/s: from the
start of the constructor to the last batch. steady: without the first tenth of the batches. CPU:
user and system seconds of all processes of the reader per GB of raw tokens. Peak memory: sum of
the high-water marks of its processes, each less that of a process that has imported torch. A run:
one pass or the time limit, whichever ends first.
"""


def brief(row):
    """Return a result in half a line."""
    if "error" in row:
        return f"error: {row['error'][:90]}"
    parts = []
    for name, value in row.items():
        if isinstance(value, bool):
            parts.append(f"{name} {'yes' if value else 'NO'}")
        elif isinstance(value, float):
            parts.append(f"{name} {_number(value)}")
    return ", ".join(parts[:6])


def write(out, rows, facts, settings):
    """Write OUT.json, everything, and OUT.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = {name: str(value) for name, value in settings.items() if value is not None}
    whole = {"facts": facts, "settings": settings, "rows": rows}
    out.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    text = "\n\n".join(part for part in _parts(rows, facts, settings) if part) + "\n"
    out.with_suffix(".md").write_text(text)


def _parts(rows, facts, settings):
    yield "# Streaming loaders on the same samples"
    said = {name: value for name, value in facts.items() if not isinstance(value, dict)}
    yield ", ".join(f"{name} {value}" for name, value in said.items())
    for whose in ("ours", "peers"):
        yield f"{whose}: " + ", ".join(f"{k} {v}" for k, v in facts[whose].items() if v)
    yield "Options: " + ", ".join(f"{name} {value}" for name, value in settings.items())
    commits = sorted({row["commit"] for row in rows})
    if len(commits) > 1:
        yield f"Results of rivals and floors are kept over commits; here are {', '.join(commits)}."
    yield _NOTES.strip()
    yield "\n".join(f"* **{name}**: {text}" for name, text in _ABOUT.items())
    yield _trials(rows)
    yield _verified(rows)
    yield _floor(rows)
    titles = {
        "plain": "Cold: first pass, empty caches",
        "warm": "Warm: caches filled by an earlier process",
        "slow": "Cold, 20 ms before every answer",
        "tls": "Cold, TLS",
    }
    for condition, title in titles.items():
        for corpus in ("tokens", "tokens-small"):
            chosen = [row for row in _passes(rows, condition) if row["corpus"] == corpus]
            yield _throughput(title, chosen, rows)
    for corpus in ("documents", "documents-small"):
        chosen = [row for row in _passes(rows, "plain") if row["corpus"] == corpus]
        yield _throughput("Documents of about 500 tokens packed to 2,048", chosen, rows)
    yield _resume(rows)
    yield _boundary(rows)
    yield _indexes(rows)
    yield _predicates(rows)
    yield _inline(rows)
    yield _python(rows)
    yield _left(rows)


def _passes(rows, condition):
    return [
        row
        for row in rows
        if row["mode"] == "pass" and row["condition"] == condition and not row["extra"]
    ]


def _throughput(title, rows, everything):
    """Return the main table of one condition, best first."""
    columns = {
        "samples/s": "samples_per_s",
        "steady": "steady_samples_per_s",
        "CPU s/GB": "cpu_s_per_raw_gb",
        "first batch s": "first_batch_s",
        "p99 wait ms": "p99_wait_ms",
        "longest ms": "longest_wait_ms",
        "peak MB": "peak_mb",
    }
    if not rows:
        return None
    is_packed = rows[0]["corpus"].startswith("documents")
    extra = {"documents/s": "documents_per_s", "documents/CPU s": "documents_per_cpu_s"}
    columns |= extra if is_packed else {}
    body = []
    for rival, group in _by_rival(rows).items():
        cells = [_spread([row.get(key) for row in group]) for key in columns.values()]
        rate = _median([row.get("samples_per_s") for row in group]) or 0.0
        body.append((rate, [rival, _sums(group), *cells]))
    body.sort(key=lambda line: -line[0])
    lines = [line for _, line in body]
    table = _markdown(["reader", "n", *columns], lines)
    return f"## {title}\n\n{table}\n\n{_ratios(body, rows, everything)}".rstrip()


def _ratios(body, rows, everything):
    """Return how ours stands against the best of each family, and against the floor."""
    rates = {line[0]: rate for rate, line in body if rate}
    if "ours" not in rates:
        return ""
    families = ("mosaic-tuned", "litdata", "webdataset", "huggingface", "memmap")
    parts = []
    for family in families:
        best = max((rate for name, rate in rates.items() if name.startswith(family)), default=None)
        if best:
            parts.append(f"{rates['ours'] / best:.2f}x {family}'s best")
    condition = "tls" if rows[0]["condition"] == "tls" else "plain"
    floors = [row for row in everything if (row["mode"], row["condition"]) == ("floor", condition)]
    floor = _median([row.get("sum_s_per_gb") for row in floors])
    spent = _median([row.get("cpu_s_per_raw_gb") for row in rows if row["rival"] == "ours"])
    if floor and spent:
        parts.append(f"CPU {spent / floor:.2f}x the floor")
    return "Ours, overall samples/s: " + ", ".join(parts) + "." if parts else ""


def _trials(rows):
    lines = [
        [row["rival"], json.dumps(row["extra"]["options"]), _cell(row, "steady_samples_per_s")]
        for row in rows
        if row["mode"] == "pass" and "options" in row["extra"]
    ]
    table = _markdown(["reader", "options", "steady samples/s in 6 s"], lines)
    return f"## Trials that chose the settings\n\n{table}" if lines else None


def _verified(rows):
    lines = []
    for row in rows:
        if row["mode"] != "verify":
            continue
        counts = ("rows", "documents", "checksum")
        said = {key: value for key, value in row.items() if key.split("_")[0] in counts}
        text = row.get("error") or ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in said.items())
        whole = "error" if "error" in row else "yes" if row["is_whole"] else "NO"
        lines.append([row["rival"], row["corpus"], whole, text])
    table = _markdown(["reader", "corpus", "whole", "what one pass delivered"], lines)
    return f"## A whole pass against the corpus\n\n{table}" if lines else None


def _floor(rows):
    steps = ("receive", "hash", "decompress", "gather", "sum")
    lines = []
    for condition in ("plain", "tls"):
        group = [r for r in rows if r["mode"] == "floor" and r["condition"] == condition]
        if group:
            cells = [_spread([row.get(f"{step}_s_per_gb") for row in group]) for step in steps]
            lines.append([condition, str(len(group)), *cells])
    table = _markdown(["condition", "n", *steps], lines)
    return f"## The floor, CPU s per raw GB\n\n{table}" if lines else None


def _resume(rows):
    groups = {}
    for row in rows:
        if row["mode"] == "resume":
            groups.setdefault((row["rival"], row["extra"]["stop"]), []).append(row)
    lines = []
    for (rival, stop), group in groups.items():
        exact = _all([row.get("is_same_sequence") for row in group])
        replayed = _spread([row.get("replayed_samples") for row in group])
        first = _spread([row.get("first_batch_s") for row in group])
        lines.append([rival, str(stop), _sums(group), first, exact, replayed])
    head = ["reader", "behind batch", "n", "first batch s", "same samples, same order"]
    table = _markdown([*head, "replayed of 1,280"], lines)
    return f"## Resuming in a new process, empty caches\n\n{table}" if lines else None


def _boundary(rows):
    keys = ("gap_ms", "median_wait_ms", "gap_in_waits")
    group = [row for row in rows if row["mode"] == "boundary"]
    lines = [[row["rival"], *(_cell(row, key) for key in keys)] for row in group]
    head = ["reader", "longest wait ms", "median wait ms", "ratio"]
    table = _markdown(head, lines)
    return f"## The end of an epoch (32 batches before and after it)\n\n{table}" if lines else None


def _indexes(rows):
    keys = ("constructor_s", "constructor_peak_mb", "first_batch_s", "peak_mb")
    group = [row for row in rows if row["mode"] == "open"]
    lines = []
    for row in group:
        cells = [row["error"], "", "", ""] if "error" in row else [_cell(row, key) for key in keys]
        lines.append([row["rival"], row["corpus"].partition("/")[2], *cells])
    head = ["reader", "shards", "constructor s", "MB", "first batch s", "MB"]
    table = _markdown(head, lines)
    title = "Very many shards (10,000 samples of 16 tokens each)"
    return f"## {title}\n\n{table}" if lines else None


def _predicates(rows):
    columns = {
        "s a pass": "seconds",
        "wanted samples/s": "samples_per_s",
        "MB fetched": "fetched_mb",
        "requests": "requests",
        "fetched / wanted": "fetched_of_wanted",
        "distinct": "distinct_share",
    }
    groups = {}
    for row in rows:
        if row["mode"] == "where":
            groups.setdefault((row["rival"], row["extra"]["where"] or "-"), []).append(row)
    lines = []
    for (rival, where), group in groups.items():
        cells = [_spread([row.get(key) for row in group]) for key in columns.values()]
        lines.append([
            rival,
            where,
            _sums(group),
            _all([row.get("is_right") for row in group]),
            *cells,
        ])
    table = _markdown(["reader", "where", "n", "all wanted", *columns], lines)
    title = "Stored labels: one pass of what is wanted, of 73,728 samples (0.30 GB raw)"
    note = "Each label has sixteen states: `cluster` is equal within a shard, `scatter` drawn for "
    note += "each sample. Wanted bytes are the stored bytes of the wanted samples."
    return f"## {title}\n\n{table}\n\n{note}" if lines else None


def _inline(rows):
    columns = {
        "documents/s": "documents_per_s",
        "steady": "steady_documents_per_s",
        "steady tokens/s": "steady_tokens_per_s",
        "documents/CPU s": "documents_per_cpu_s",
        "first batch s": "first_batch_s",
    }
    found = [row for row in rows if row["mode"] == "inline"]
    groups = {
        selects: [r for r in found if r["extra"]["selects"] is selects] for selects in (False, True)
    }
    lines = []
    for selects, group in groups.items():
        cells = [_spread([row.get(key) for row in group]) for key in columns.values()]
        name = "three agents, a quarter kept" if selects else "off"
        lines.append([name, _sums(group), *cells])
    table = _markdown(["selection", "n", *columns], lines)
    parts = []
    for name in ("documents/s", "steady"):
        off, on = (_median([row.get(columns[name]) for row in group]) for group in groups.values())
        parts += [f"{on / off:.2f}x in {name}"] if off and on else []
    alone = _spread([row.get("scored_tokens_per_s") for row in groups[True]])
    note = f"Selection against none: {', '.join(parts)}. `document_scores` alone, in one thread, "
    note += f"tokens a CPU second: {alone}."
    title = "Inline agents: documents offered, every one scored"
    return f"## {title}\n\n{table}\n\n{note}" if found else None


def _python(rows):
    columns = {
        "Python us a sample": "python_us_per_sample",
        "native us a sample": "native_us_per_sample",
        "native calls a batch": "native_calls_per_batch",
        "samples a batch": "samples_per_batch",
        "making, us a batch": "maker_us_per_batch",
        "taking, us a batch": "taker_us_per_batch",
        "held, %": "hits_percent",
    }
    groups = {}
    for row in rows:
        if row["mode"] == "python":
            groups.setdefault(row["corpus"], []).append(row)
    lines = [
        [
            corpus,
            _sums(group),
            *(_spread([row.get(key) for row in group]) for key in columns.values()),
        ]
        for corpus, group in groups.items()
    ]
    table = _markdown(["corpus", "n", *columns], lines)
    title = "Python in the step: CPU time of both threads less that of native calls, shards held"
    return f"## {title}\n\n{table}" if lines else None


def _left(rows):
    """Return what readers left behind after a run, mean over all their runs."""
    lines = []
    for rival, group in _by_rival([row for row in rows if row["mode"] == "pass"]).items():
        files = statistics.mean(row["left_files"] for row in group)
        segments = statistics.mean(row["left_segments"] for row in group)
        if files or segments:
            lines.append([rival, f"{files:.1f}", f"{segments:.1f}"])
    if not lines:
        return None
    table = _markdown(["reader", "temporary files", "shared-memory segments"], lines)
    return f"## Left behind by a process, mean\n\n{table}"


def _by_rival(rows):
    groups = {}
    for row in rows:
        groups.setdefault(row["rival"], []).append(row)
    return groups


def _sums(group):
    """Return how many runs there are, and how many failed."""
    failed = sum("error" in row for row in group)
    return f"{len(group)}" if not failed else f"{len(group)}, {failed} failed"


def _all(values):
    """Return whether all that is known is true; a dash where nothing is known."""
    known = [value for value in values if value is not None]
    return ("yes" if all(known) else "NO") if known else "-"


def _median(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _spread(values):
    known = [float(value) for value in values if value is not None]
    if not known:
        return "-"
    middle = _number(statistics.median(known))
    if len(known) == 1:
        return middle
    return f"{middle} ({_number(min(known))} to {_number(max(known))})"


def _cell(row, key):
    if "error" in row:
        return row["error"]
    return _number(float(row[key]))


def _number(value):
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def _markdown(head, lines):
    rows = [head, ["---"] * len(head), *lines]
    rows = [[cell.replace("|", "/") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)

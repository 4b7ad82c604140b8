# SPDX-License-Identifier: Apache-2.0
"""The command line: a mechanical view of the settings, one function a command.

What goes wrong in the world (MootError) is one red line and exit status 1; `moot --debug ...`
shows where it came from. Progress goes to stderr, results to stdout. Heavy imports wait for their
command.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console as Terminal
from rich.markup import escape
from typer.core import TyperGroup

from ..loader.errors import ConfigError, MootError

_COMMANDS = (
    *("corpus", "convert", "index", "fit", "label"),
    *("doctor", "inspect", "train", "report", "demo"),
)


class _InOrder(TyperGroup):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)


app = typer.Typer(
    cls=_InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="A streaming data loader in which agents decide what a model trains on.",
)
corpus_app = typer.Typer(no_args_is_help=True, help="Build a corpus and write it into a bucket.")
app.add_typer(corpus_app, name="corpus")

_DEMO_FOLDER = Path("runs/demo")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_LINE: dict[str, Any] = {"highlight": False, "soft_wrap": True}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

Out = Annotated[str, typer.Option(help="Where the corpus goes: a folder or s3://bucket/prefix.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides every random choice.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a corpus that is already there.")]
Vocab = Annotated[int, typer.Option(help="Tokens of the byte-level BPE.")]
Degraded = Annotated[float, typer.Option(help="Share of degraded copies among the documents.")]
Format = Annotated[
    str | None, typer.Option("--format", help="Format to read; default: found out.")
]
Files = Annotated[
    str | None, typer.Option(help="Files to read, as train.bin; default all of the format.")
]
Dtype = Annotated[str | None, typer.Option(help="Of the tokens in raw files, such as uint16.")]
SampleTokens = Annotated[int | None, typer.Option(help="Tokens of a sample in raw files.")]
Text = Annotated[bool, typer.Option(help="Keep the text beside its tokens.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Take the options of all commands; main looks for --debug itself."""


@corpus_app.command("local")
def corpus_local(
    out: Out,
    size: Annotated[str, typer.Option(help="Text in the train set, e.g. 60MB.")] = "60MB",
    seed: Seed = 0,
    degraded_share: Degraded = 0.25,
    vocab_size: Vocab = 8192,
    text_column: Text = True,
    force: Force = False,
) -> None:
    """Build a corpus of the text found on this machine."""
    from .corpora import LocalConfig, build_local

    config = LocalConfig(
        size_bytes=parse_size(size),
        seed=seed,
        degraded_share=degraded_share,
        vocab_size=vocab_size,
        text_column=text_column,
    )
    with _display() as display:
        meta = build_local(out, config, display.progress, force=force)
    _say_built(out, meta)


@corpus_app.command("text")
def corpus_text(
    paths: Annotated[list[str], typer.Argument(help=".jsonl .parquet .txt .md files, or folders.")],
    out: Out,
    text_column: Annotated[str, typer.Option(help="Column that holds the text.")] = "text",
    source_column: Annotated[
        str | None, typer.Option(help="Column that names the source; its values are the domains.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column that holds a unique id.")] = None,
    reference: Annotated[
        list[str] | None, typer.Option(help="File or folder of the reference set; repeatable.")
    ] = None,
    heldout: Annotated[
        list[str] | None, typer.Option(help="File or folder of the held-out set; repeatable.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Text in the train set; default all.")] = None,
    seed: Seed = 0,
    degraded_share: Degraded = 0.0,
    vocab_size: Vocab = 8192,
    keep_text: Text = True,
    force: Force = False,
) -> None:
    """Build a corpus of your own JSONL, Parquet or text files."""
    from .corpora import TextConfig, build_text

    config = TextConfig(
        text_from=text_column,
        source_from=source_column,
        id_from=id_column,
        reference=tuple(reference or ()),
        heldout=tuple(heldout or ()),
        size_bytes=None if size is None else parse_size(size),
        seed=seed,
        degraded_share=degraded_share,
        vocab_size=vocab_size,
        text_column=keep_text,
    )
    with _display() as display:
        meta = build_text(out, paths, config, display.progress, force=force)
    _say_built(out, meta)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A corpus of any format.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Where the new corpus goes.")],
    to: Annotated[str, typer.Option(help="Format to write: mds or parquet.")] = "mds",
    format_name: Format = None,
    compression: Annotated[
        str, typer.Option(help="zstd[:LEVEL], gz, bz2, br, snappy or none.")
    ] = "zstd:3",
    hashes: Annotated[str, typer.Option(help="Digests in the index, as xxh64,sha256.")] = "xxh64",
    size_limit: Annotated[str, typer.Option(help="Size of a shard before compression.")] = "64MiB",
    workers: Annotated[int, typer.Option(help="Parts written at the same time.")] = 4,
    columns: Annotated[
        str | None, typer.Option(help="Columns to write, as tokens,id; default all.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json that turns the text into tokens.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column that is tokenised.")] = "text",
    eod: Annotated[
        str | None, typer.Option(help="Token behind every document, as <|endoftext|>.")
    ] = None,
    files: Files = None,
    dtype: Dtype = None,
    sample_tokens: SampleTokens = None,
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="Leave out samples without tokens.")
    ] = False,
    verify: Annotated[bool, typer.Option(help="Read all of it back and compare.")] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier conversion in the same place.")
    ] = False,
) -> None:
    """Write a corpus anew as MDS or Parquet; a run cut short goes on."""
    from ..loader.convert import ConvertConfig
    from ..loader.convert import convert as convert_corpus

    config = ConvertConfig(
        to=to,
        format=format_name,
        options=_told(files=files, dtype=dtype, sample_tokens=sample_tokens),
        columns=None if columns is None else _listed(columns),
        compression=None if compression == "none" else compression,
        hashes=_listed(hashes),
        size_limit=parse_size(size_limit),
        tokenizer=tokenizer,
        text_column=text_column,
        eod=eod,
        drop_empty=drop_empty,
        workers=workers,
        verify=verify,
        force=force,
    )
    with _display() as display:
        done = convert_corpus(source, target, config, display.progress)
    _say_converted(done)


@app.command()
def index(
    url: Annotated[str, typer.Argument(metavar="URL", help="A corpus without an index.")],
    format_name: Format = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns that it lists; of JSON lines name:encoding.")
    ] = None,
    files: Files = None,
    dtype: Dtype = None,
    sample_tokens: SampleTokens = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Also labels.parquet: lengths, hashes and these columns (or none)."),
    ] = None,
    length_of: Annotated[
        str | None, typer.Option(help="The column whose lengths labels.parquet stores.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json whose tokens of that column are counted.")
    ] = None,
    eod: Annotated[
        str | None, typer.Option(help="The token that it puts behind every document.")
    ] = None,
) -> None:
    """Write the index of a corpus beside it: of JSON lines where they are, of others one table."""
    from ..loader.convert import index_corpus, store_labels
    from ..loader.shards.tokenise import Tokeniser

    if labels is None and (length_of or tokenizer):
        raise ConfigError("--length-of and --tokenizer say what --labels stores: give it, or none")
    options = _told(columns=columns, files=files, dtype=dtype, sample_tokens=sample_tokens)
    made = index_corpus(url, format_name, options)
    size = f"{made.samples:,} samples in {made.shards:,} shards of {made.format}"
    Terminal().print(f"index [bold]{escape(made.url)}[/]: {size}", **_LINE)
    if labels is None:
        return
    with _display() as display:
        named = () if labels == "none" else _listed(labels)
        where = store_labels(
            *(url, named, format_name, options),
            length_of=length_of,
            tokeniser=None if tokenizer is None else Tokeniser.load(tokenizer, eod=eod),
            progress=display.progress,
        )
    Terminal().print(f"labels [bold]{escape(where)}[/]", **_LINE)


@app.command()
def fit(
    corpus: Annotated[str, typer.Argument(metavar="URL", help="A corpus.")],
    seed: Seed = 0,
    num_topics: Annotated[int, typer.Option(help="Clusters of the topic agent.")] = 13,
    force: Annotated[bool, typer.Option("--force", help="Fit again although it was done.")] = False,
) -> None:
    """Fit the agents to a corpus and store them beside it."""
    from ..loader.label import FitConfig, report_table
    from ..loader.label import fit as fit_agents

    config = FitConfig(seed=seed, num_topics=num_topics, force=force)
    with _display() as display:
        report = fit_agents(corpus, config, display.progress)
    Terminal().print(report_table(report))


@app.command()
def label(
    corpus: Annotated[str, typer.Argument(metavar="URL", help="A corpus that was fitted.")],
) -> None:
    """Store what the fitted agents say of every document beside the shards."""
    from ..loader import AgentSet
    from ..loader.label import label_corpus
    from ..loader.storage import open_store

    agents = AgentSet.load(open_store(corpus))
    url = f"{corpus.rstrip('/')}/train"
    with _display() as display:
        label_corpus(url, agents, progress=lambda n, of: display.progress("label", n, of, ""))
    Terminal().print(f"labels [bold]{escape(url)}/labels.parquet[/]", **_LINE)


@app.command()
def inspect(
    url: Annotated[str, typer.Argument(metavar="URL", help="A corpus or the folder of a run.")],
) -> None:
    """Show what a corpus holds, or what a run has selected so far."""
    from .views import show

    show(Terminal(), url)


@app.command()
def doctor(
    url: Annotated[str, typer.Argument(metavar="URL", help="A corpus, or where one should go.")],
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of the storage; repeatable.")
    ] = None,
) -> None:
    """Say whether a URL can be read, as who and how fast, or what is wrong with it."""
    from .doctor import examine

    terminal, is_wrong = Terminal(), False
    for finding in examine(url, _options_of(option or [])):
        style = "bold red" if finding.is_wrong else "bold"
        terminal.print(f"[{style}]{finding.name:<12}[/] {escape(finding.text)}", **_LINE)
        is_wrong |= finding.is_wrong
    terminal.print("something is wrong" if is_wrong else "all is well", **_LINE)
    if is_wrong:
        raise typer.Exit(1)


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="TOML file with the run's settings.")],
    out: Annotated[str | None, typer.Option(help="Folder of the run, over the file's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, over the file's.")] = None,
) -> None:
    """Train the reference model as a TOML file says; a run cut short goes on."""
    from .config import RunConfig
    from .train import train_from_config

    steps = RunConfig.from_toml(config).train.steps
    overrides = {name: value for name, value in (("out", out), ("seed", seed)) if value is not None}
    with _display(steps) as display:
        summary = train_from_config(config, overrides, display.run(config.stem))
    terminal = Terminal()
    for name, value in summary.items():
        if isinstance(value, int | float | str):
            terminal.print(f"{name}: {escape(_plain(value))}", **_LINE)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run, or a folder of runs to compare.")],
) -> None:
    """Write report.html of a run, or of several runs side by side."""
    from .report import print_comparison, write_report

    path = write_report(run)
    terminal = Terminal()
    print_comparison(run, terminal)
    terminal.print(f"report: {escape(str(path))}", **_LINE)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of corpus, runs, report.")] = _DEMO_FOLDER,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = 250,
    size: Annotated[str, typer.Option(help="Text in the corpus.")] = "60MB",
) -> None:
    """Go the whole way: corpus, agents, three runs, comparison, report."""
    from .demo import run_demo

    run_demo(out, seed=seed, steps=steps, size_bytes=parse_size(size))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 1 for an error of the world, 2 for a wrong option."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        app(args=arguments, prog_name="moot")
    except MootError as error:
        if "--debug" in arguments:
            raise
        line = " ".join(str(error).split())
        Terminal(stderr=True).print(f"[bold red]error:[/] [red]{escape(line)}[/]", **_LINE)
        sys.exit(1)
    sys.exit(0)


def parse_size(text: str) -> int:
    """Return bytes of a size such as 60MB (10^6), 64KiB (2^10) or 1500000."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigError(f"size {text!r} is not understood; write it as 60MB, 64KiB or 1500000")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def _options_of(pairs: Sequence[str]) -> dict[str, str]:
    """Return NAME=VALUE pairs by name."""
    for pair in pairs:
        if not re.fullmatch(r"\w+=.*", pair, re.DOTALL):
            raise ConfigError(f"--option {pair!r} is not understood; write it as endpoint=https://host")
    return dict(pair.split("=", 1) for pair in pairs)


def _display(steps: int = 0) -> Any:
    """Progress on stderr."""
    from .display import Display

    return Display(Terminal(stderr=True), steps)


def _say_built(out: str, meta: dict[str, Any]) -> None:
    """Say in a few lines what a corpus holds."""
    terminal = Terminal()
    splits = {
        name: sum(count["tokens"] for count in split["domains"].values())
        for name, split in meta["splits"].items()
    }
    listed = ", ".join(f"{name} {tokens:,}" for name, tokens in splits.items())
    state = "is there already" if meta["reused"] else "is built"
    terminal.print(f"corpus [bold]{escape(out)}[/] {state}; tokens: {listed}", **_LINE)
    if meta["notes"].get("split") == "seeded":
        terminal.print(
            "reference and held-out sets are a seeded split of the same text; "
            "--reference and --heldout name better ones",
            **_LINE,
        )
    terminal.print(f"next: moot inspect {escape(out)}; moot fit {escape(out)}", **_LINE)


def _told(**options: str | int | None) -> dict[str, str]:
    """The options of a format that were given."""
    return {name: str(value) for name, value in options.items() if value is not None}


def _listed(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _say_converted(done: Any) -> None:
    """Say in a few lines what a conversion has written."""
    terminal = Terminal()
    size = f"{done.samples:,} samples in {done.files:,} files, {done.stored_bytes:,} bytes"
    state = "is there already" if done.was_complete else "is written"
    terminal.print(f"corpus [bold]{escape(done.url)}[/] {state}: {size}", **_LINE)
    if done.kept_parts:
        terminal.print(f"kept from an earlier run: {done.kept_parts:,} parts", **_LINE)
    if done.dropped:
        terminal.print(f"left out, being empty: {done.dropped:,} samples", **_LINE)
    if not done.was_complete:
        compared = "equal, sample by sample" if done.is_verified else "not compared (--no-verify)"
        terminal.print(f"source and destination: {compared}", **_LINE)


def _plain(value: float | str) -> str:
    """A number as a person reads it."""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()

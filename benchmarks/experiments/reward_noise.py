# SPDX-License-Identifier: Apache-2.0
"""Do rewards say something about documents, or about the reference documents that were drawn?

Run: python benchmarks/experiments/reward_noise.py RUN [--probes 300] [--draws 1] [--out FILE.json]
RUN is a console run of the reference trainer on a corpus of `moot corpus local`. At each of its
checkpoints, probes are drawn as the loader draws them and rewarded twice, along the gradients of
either half of the reference set (even and odd documents; baselines drawn apart). Rewards are
standardised as the console does, every probe weighing the same. Prints means over the draws and
halves, smallest and largest in brackets; clean and degraded is what truth.parquet says.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from moot.loader import Loader, open_corpus
from moot.loader.agents import AgentSet
from moot.loader.console.probes import standardise
from moot.loader.storage import open_store
from moot.trainer.config import RunConfig
from moot.trainer.corpora import read_meta
from moot.trainer.feedback import Feedback, FeedbackConfig
from moot.trainer.model import GPT, GPTConfig
from moot.trainer.recipe import make_optimizer

PIECES = {"reference_docs": 96, "max_reference_tokens": 64}
WHOLE = {"reference_docs": 24, "max_reference_tokens": None}
VARIANTS = {
    "24 whole documents": WHOLE | {"baseline_docs": 0},
    "24 whole documents, baseline 48": WHOLE | {"baseline_docs": 48},
    "96 pieces of 64": PIECES | {"baseline_docs": 0},
    "96 pieces of 64, baseline 48": PIECES | {"baseline_docs": 48},
}
FIRST_DRAW = 100_000  # refresh numbers that no run has reached


def read_column(url, column):
    """Return a column of a split, sample by sample."""
    corpus = open_corpus(url)
    values = []
    for shard_id in range(len(corpus.shards)):
        shard = corpus.read(shard_id)
        values += shard.values(column, np.arange(shard.num_samples))
    corpus.close()
    return values


def load_model(config, checkpoint):
    """Return model and optimizer as they stood at a checkpoint."""
    meta = read_meta(open_store(config.data.corpus))
    shape = {"vocab_size": meta["vocab_size"], "max_seq_len": config.data.seq_len}
    shape |= {name: getattr(config.model, name) for name in ("dim", "num_layers", "num_heads")}
    model = GPT(GPTConfig(**shape))
    optimizer = make_optimizer(model, config)
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return model, optimizer


def draw_probes(config, num_probes, num_draws):
    """Return the agents' names and the probes of some refreshes."""
    data = config.data
    agents = AgentSet.load(open_store(data.corpus))
    with (
        tempfile.TemporaryDirectory() as folder,
        Loader(
            f"{data.corpus}/train",
            batch_rows=data.batch_rows,
            seq_len=data.seq_len,
            seed=config.seed,
            console=config.console,
            agents=agents,
            keep=data.keep,
            num_probes=num_probes,
            window_shards=data.window_shards,
            ledger=folder,
        ) as loader,
    ):
        return agents.names, [loader.probes(FIRST_DRAW + i) for i in range(num_draws)]


def score_probes(parts, config, settings, probes):
    """Return the standardised rewards of either half of the reference set, [2, n]."""
    model, optimizer, reference = parts
    scores = []
    for half in (0, 1):
        feedback = Feedback(
            model,
            optimizer,
            FeedbackConfig(
                seq_len=config.data.seq_len,
                max_probe_tokens=config.feedback.max_probe_tokens,
                seed=half,
                **settings,
            ),
        )
        feedback.set_reference(reference[half::2])
        rewards = feedback.rewards(probes.refresh, probes.tokens, probes.cu_seqlens)
        scores.append(standardise(rewards, np.ones(len(rewards)), config.console.clip))
    return np.array(scores)


def summarise(scores, is_degraded, domain, num_domains):
    """Return the figures of one draw."""

    def gap(values, chosen):
        clean, degraded = values[chosen & ~is_degraded], values[chosen & is_degraded]
        return clean.mean() - degraded.mean() if len(clean) and len(degraded) else np.nan

    domains = [domain == d for d in range(num_domains)]
    return {
        "correlation": [float(np.corrcoef(scores)[0, 1])],
        "gap": [float(gap(values, domain >= 0)) for values in scores],
        "gap_within": [float(np.nanmean([gap(values, d) for d in domains])) for values in scores],
        "by_domain": [
            [float(values[d].mean()) if d.any() else np.nan for d in domains] for values in scores
        ],
    }


def spread(values):
    """Return the mean and, behind it, smallest and largest."""
    return f"{np.mean(values):.2f} ({np.min(values):.2f} to {np.max(values):.2f})"


def measure(run, args):
    """Measure all variants at all checkpoints; prints as it goes and returns the rows."""
    info = json.loads((run / "run.json").read_text())
    config = RunConfig.from_dict(info["config"])
    corpus, domains = config.data.corpus, info["domains"]
    truth = pq.read_table(f"{corpus}/truth.parquet").to_pydict()
    kinds = dict(zip(truth["id"], truth["kind"], strict=True))
    is_degraded = np.array([
        kinds[name] != "clean" for name in read_column(f"{corpus}/train", "id")
    ])
    tokens = read_column(f"{corpus}/reference", "tokens")
    reference = [np.asarray(document, dtype=np.int64) for document in tokens]
    names, draws = draw_probes(config, args.probes, args.draws)
    head = ["step", "rewards", "correlation of halves", "clean - degraded", "within domains"]
    print("| " + " | ".join(head + domains) + " |\n" + "|---" * (len(head) + len(domains)) + "|")
    rows = []
    for checkpoint in sorted((run / "checkpoints").glob("step-*.pt")):
        parts = (*load_model(config, checkpoint), reference)
        for variant, settings in VARIANTS.items():
            found = {}
            for probes in draws:
                scores = score_probes(parts, config, settings, probes)
                domain = probes.states[:, names.index("domain")]
                figures = summarise(scores, is_degraded[probes.sample_id], domain, len(domains))
                found = {key: found.get(key, []) + values for key, values in figures.items()}
            step = int(checkpoint.stem.removeprefix("step-"))
            rows.append({"step": step, "variant": variant, **settings, **found})
            print(line_of(rows[-1]), flush=True)
    facts = {"probes": args.probes, "draws": args.draws, "config": info["config"]}
    return {"facts": facts | {"reference": len(reference), "domains": domains}, "rows": rows}


def line_of(row):
    """Return a row of the Markdown table."""
    cells = [str(row["step"]), row["variant"]]
    cells += [spread(row[key]) for key in ("correlation", "gap", "gap_within")]
    cells += [f"{mean:+.2f}" for mean in np.nanmean(row["by_domain"], axis=0)]
    return f"| {' | '.join(cells)} |"


def main():
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--probes", type=int, default=300)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result = measure(args.run, args)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

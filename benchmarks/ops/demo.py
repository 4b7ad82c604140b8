# SPDX-License-Identifier: Apache-2.0
"""The demo corpus and its fitted agents, made once under build/: documents, texts, models.

`moot corpus local` and `moot fit` make them of the text found on this machine; no network. How long
documents are, and how often words repeat, is thus as in real text.
"""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import torch
from moot.loader.agents import AgentSet
from moot.loader.corpus import open_corpus
from moot.loader.shards import gather
from moot.loader.storage import open_store

from .facts import ROOT

FOLDER = ROOT / "build" / "bench-corpus"
SIZE = "8MB"


@dataclass(frozen=True)
class Demo:
    """Documents of the train set: tokens [T] uint16, cu_seqlens [n+1] int64; and the agents."""

    tokens: torch.Tensor
    cu_seqlens: torch.Tensor
    agents: AgentSet

    def texts(self) -> list[str]:
        """Return each document as one line of text."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        ids, borders = self.tokens.numpy(), self.cu_seqlens.tolist()
        parts = [ids[i:j].tolist() for i, j in zip(borders[:-1], borders[1:], strict=True)]
        return [" ".join(text.split()) for text in tokenizer.decode_batch(parts)]


def demo() -> Demo:
    """Read the demo corpus; make it first where it is missing (about a minute)."""
    if not (FOLDER / "agents.safetensors").exists():
        command = [sys.executable, "-c", "from moot.trainer.cli import main; main()"]
        asked = ["corpus", "local", "--out", str(FOLDER), "--size", SIZE, "--force"]
        for words in (asked, ["fit", str(FOLDER)]):
            subprocess.run([*command, *words], check=True, capture_output=True)
    store = open_store(str(FOLDER))
    corpus = open_corpus(str(FOLDER / "train"))
    try:
        shards = [corpus.read(pos) for pos in range(len(corpus.shards))]
        lengths = [shard.lengths("tokens") for shard in shards]
        start = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        tokens = np.empty(int(start[-1]), np.uint16)
        row = np.concatenate([np.arange(len(each)) for each in lengths]).astype(np.int32)
        which = np.repeat(np.arange(len(shards)), [len(each) for each in lengths])
        zeros = np.zeros(len(row), np.int64)
        gather(shards, "tokens", which.astype(np.int32), row, zeros, np.diff(start), tokens)
        return Demo(torch.from_numpy(tokens), torch.from_numpy(start), AgentSet.load(store))
    finally:
        corpus.close()
        store.close()

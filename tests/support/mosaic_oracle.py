# SPDX-License-Identifier: Apache-2.0
"""What real StreamingDatasets yield: `python mosaic_oracle.py JOBS RESULTS`, two JSON files.

A job is a world (`ranks`, `ranks_per_node`) and its cases; a case is a dataset, a loader and the
runs that are made of them one after the other. Each run makes dataset and loader anew, as a
restarted training does, loads a state and reads on. Ranks are forked from this process after the
slow imports, one job after the other, and joined by gloo over a file. The answer to a job: rank by
rank, case by case, run by run `{plan, epochs, state}`, `epochs` being lists of batches of sample
ids; if asked for `start`, also where ours would begin and what a swap would take.

Two things of theirs are moved aside, so that tests beside this one are not disturbed: the number
with which names of shared memory begin, and the folder for lock files (TMPDIR).
"""

import gc
import itertools
import json
import os
import signal
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from mosaicml import import_streaming


def ids_of(samples):
    return torch.tensor([sample["id"] for sample in samples])


def make(case):
    """A dataset over local folders and a loader around it."""
    streams = [streaming.Stream(**stream) for stream in case["streams"]]
    dataset = streaming.StreamingDataset(streams=streams, predownload=1 << 20, **case["dataset"])
    loader = streaming.StreamingDataLoader(
        dataset, batch_size=case["dataset"]["batch_size"], collate_fn=ids_of, **case["loader"]
    )
    return dataset, loader


def read(case, run, last_state):
    """One run: load a state, read `epochs` epochs or `batches` batches of one."""
    dataset, loader = make(case)
    state = last_state if run.get("load") == "last" else run.get("load")
    plan = MosaicPlan.from_dataset(dataset).to_dict()
    if state is not None:
        loader.load_state_dict(state)
    swap = {"start": None}
    if run.get("start"):
        taken = MosaicSwap.from_dataset(dataset)
        swap = {"start": MosaicState.from_dataset(dataset).to_dict(), "swap": asdict(taken)}
        swap["swap"]["plan"] = taken.plan.to_dict()
    epochs = []
    for _ in range(run.get("epochs", 1)):
        batches = iter(loader)
        epochs.append([batch.tolist() for batch in itertools.islice(batches, run.get("batches"))])
        state = loader.state_dict()
        batches.close()
    return {"plan": plan, "epochs": epochs, "state": state, **swap}


def read_cases(cases):
    answers = []
    for case in cases:
        runs = []
        for run in case["runs"]:
            runs.append(read(case, run, runs[-1]["state"] if runs else None))
        answers.append(runs)
    return answers


def be_rank(job, rank, folder):
    """Read a job's cases as one rank of it, in a process of its own."""
    local = job["ranks_per_node"]
    node = rank // local
    names = {"RANK": rank, "WORLD_SIZE": job["ranks"], "LOCAL_WORLD_SIZE": local}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(LOCAL_RANK=str(rank % local), GLOO_SOCKET_IFNAME="lo")
    os.environ["TMPDIR"] = str(folder / f"node{node}")
    os.makedirs(os.environ["TMPDIR"], exist_ok=True)
    if job["ranks"] > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=job["ranks"]
        )
        torch.distributed.barrier()
    first = os.getppid() * 100_000 + node * 10_000
    streaming.base.shared.prefix._each_prefix_int = lambda: itertools.count(first)
    (folder / f"rank{rank}.json").write_text(json.dumps(read_cases(job["cases"])))
    if job["ranks"] > 1:
        torch.distributed.destroy_process_group()


def fork_ranks(job, folder):
    """Fork the ranks of a job and wait; the first that fails ends the others."""
    running = set()
    for rank in range(job["ranks"]):
        pid = os.fork()
        if pid == 0:
            be_rank(job, rank, folder)
            sys.exit()  # by the usual way, on which they clean up
        running.add(pid)
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if status:
            for other in running:
                os.kill(other, signal.SIGTERM)
            sys.exit(f"a rank of {job['ranks']} failed with status {status}")


def main(jobs_file, results_file):
    results = []
    for number, job in enumerate(json.loads(Path(jobs_file).read_text())):
        folder = Path(results_file).parent / f"job{number}"
        folder.mkdir()
        fork_ranks(job, folder)
        ranks = [folder / f"rank{rank}.json" for rank in range(job["ranks"])]
        results.append([json.loads(path.read_text()) for path in ranks])
    Path(results_file).write_text(json.dumps(results))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    streaming = import_streaming()
    import torch
    from moot.loader.order.mosaic_plan import MosaicPlan
    from moot.loader.order.mosaic_state import MosaicState
    from moot.loader.order.mosaic_swap import MosaicSwap

    torch.set_num_threads(1)
    gc.freeze()  # ranks and workers are forks: the fewer pages they touch, the quicker
    main(*sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""Where readers run: the peers' own virtual environment, and a process that leaves nothing behind.

Our loader runs under the Python that started the benchmark; everybody else under
`build/bench-venv`, made here with the same build of torch. Every run is a process of its own, with
folders of its own for cache and temporary files, which are removed after it.
"""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from .reader import KEYS
from .server import end_with_parent

BENCHMARKS = Path(__file__).resolve().parent.parent
BUILD = BENCHMARKS.parent / "build"
VENV = BUILD / "bench-venv"
PACKAGES = ("mosaicml-streaming>=0.13", "litdata", "webdataset", "datasets", "psutil")
# mosaicml locks a file for every sample, and releases of filelock differ several times over in
# speed: as "default" it has the one pip chooses, as "tuned" this one, the fastest found.
FILELOCK = VENV / "filelock"
OLD_FILELOCK = "filelock==3.13.1"
_NAMES = ("torch", "numpy", "pyarrow", "obstore", "xxhash", "zstandard")
_PEER_NAMES = ("mosaicml-streaming", "litdata", "webdataset", "datasets", "filelock", "boto3")
_SEGMENT = re.compile(r"^\d{6}_\w+$")  # what mosaicml-streaming calls its shared memory


def peers_python(torch: str) -> str:
    """Return the Python of the peers' environment, which is made if its packages have changed."""
    wanted = json.dumps([torch, *PACKAGES, OLD_FILELOCK])
    mark = VENV / "made"
    python = VENV / "bin/python"
    if mark.exists() and mark.read_text() == wanted:
        return str(python)
    print("bench: the peers' environment (some minutes, once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    subprocess.run([*pip, torch, *PACKAGES], check=True)
    subprocess.run([*pip, "--target", FILELOCK, OLD_FILELOCK], check=True)
    mark.write_text(wanted)
    return str(python)


def facts(peers: str, nginx: str) -> dict:
    """Return what a reader of the figures has to know about machine and versions."""
    listed = "import importlib.metadata as m, json, sys; "
    listed += "f = lambda n: m.version(n) if n in {d.name for d in m.distributions()} else None; "
    listed += "print(json.dumps({n: f(n) for n in sys.argv[1:]}))"

    def versions(python, names):
        done = subprocess.run([python, "-c", listed, *names], capture_output=True, text=True)
        return json.loads(done.stdout)

    return {
        "commit": commit(),
        **machine(),
        "nginx": nginx,
        "ours": versions(sys.executable, _NAMES),
        "peers": versions(peers, (*_NAMES, *_PEER_NAMES)),
        "filelock of mosaic-tuned": OLD_FILELOCK,
    }


def machine() -> dict:
    """Return what this machine is, and its Python."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": cpu[0].split(": ")[1] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """Return the commit of this tree, with + where the loader has changed since."""
    git = ["git", "-C", str(BENCHMARKS.parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    code = ["loader", "csrc", "triton_kernels"]
    changed = subprocess.run([*git, "status", "--porcelain", "--", *code], capture_output=True)
    return (head.stdout.strip() or "unknown") + ("+" if changed.stdout else "")


def run(python: str, module: str, ask: dict, *, folder: Path, limit_s: float, env: dict) -> dict:
    """Run `python -m module JSON` and return what it printed as its result.

    Args:
        python: Whose environment.
        module: stream.measure, stream.corpora or stream.floor.
        ask: What the module is asked.
        folder: The run's own folder: made, and removed afterwards.
        limit_s: After that it is killed; this is then the result, as {"error": ...}.
        env: Variables on top of this process's own.
    """
    for name in ("tmp", "home"):
        (folder / name).mkdir(parents=True)
    variables = {**os.environ, "PYTHONPATH": str(BENCHMARKS), "TMPDIR": str(folder / "tmp")}
    variables |= {"HOME": str(folder / "home"), "HF_HOME": str(folder / "home"), **env}
    before = set(os.listdir("/dev/shm"))
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [python, "-m", module, json.dumps(ask)],
            cwd=folder,
            env=variables,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(process)
    result = _result(folder, process.returncode, limit_s)
    result["left_files"] = sum(path.is_file() for path in (folder / "tmp").rglob("*"))
    result["left_segments"] = _remove_segments(before)
    shutil.rmtree(folder)
    return result


def s3_variables(endpoint: str, authority: Path) -> dict:
    """Return what S3 clients and HTTP clients read from their environment."""
    variables = {
        "S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEYS["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": KEYS["secret_access_key"],
        "AWS_REGION": KEYS["region"],
        "LITDATA_DISABLE_VERSION_CHECK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if endpoint.startswith("https"):
        names = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
        variables |= dict.fromkeys(names, str(authority))
    return variables


def _end(process):
    """End the process and all that it started and left."""
    for each in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, each)
        except ProcessLookupError:
            break
        time.sleep(0.2)
    process.wait()


def _result(folder, returncode, limit_s):
    for line in (folder / "out").read_text().splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:])
    if returncode == -signal.SIGTERM:
        return {"error": f"no result within {limit_s:.0f} s"}
    said = (folder / "err").read_text().strip().splitlines()
    return {"error": (said or [f"exit status {returncode}"])[-1][:500]}


def _remove_segments(before):
    """Remove the shared memory that mosaicml-streaming left since `before`; return how many."""
    new = {name for name in os.listdir("/dev/shm") if _SEGMENT.match(name)} - before
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            mapped |= set(re.findall(r"/dev/shm/(\S+)", maps.read_text()))
        except OSError:
            continue
    for name in new - mapped:
        Path("/dev/shm", name).unlink(missing_ok=True)
    return len(new - mapped)

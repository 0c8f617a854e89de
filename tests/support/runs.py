# SPDX-License-Identifier: Apache-2.0
"""Runs of the built program, as a user would start them, and what they leave behind. For the scripts in tests/whole.

    with runs.folder():                                            # a fresh one, entered, and removed at the end
        runs.write_text("text.txt", 20_000)
        runs.write_config("gpt.toml", {"data.files": ["text.txt"], "training.steps": 20})
        run = runs.train("gpt.toml", "run.folder=a", ranks=2)      # under mpirun; a failure is an AssertionError
        runs.expect_same(runs.read("a"), runs.read("b"), "2 ranks and 1")
"""
import contextlib
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import time
import typing

import h5py
import numpy as np

REAL_PROGRAM = os.environ["TESSERA"]
# The same where it is built with CUDA, on an emulated GPU: without CUDA's libraries, which take each process time to load.
PROGRAM = os.environ.get("TESSERA_EMULATED") or REAL_PROGRAM
os.environ.setdefault("TESSERA_EMULATION_DEVICES", "0")  # no GPU, unless a test wants some
MPIRUN = os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support", "mpirun")
TIMEOUT = 120  # seconds of one run: these take one or two, and a hung one must not take the whole suite's time
WORDS = "the of and a to in he that was it his is with as had for on not at but be they by from her all she there we so".split()


class Run(typing.NamedTuple):
    code: int
    out: str
    err: str


@contextlib.contextmanager
def folder():
    before = os.getcwd()
    path = tempfile.mkdtemp(prefix="tessera-whole-")
    os.chdir(path)
    try:
        yield pathlib.Path(path)
    finally:
        os.chdir(before)
        shutil.rmtree(path)


def write_text(path, letters, seed=1):
    """Words at random, of which the next depends a little on the one before: there is something to learn."""
    draw = random.Random(seed)
    text, last = "", 0
    while len(text) < letters:
        last = (last * 3 + draw.randrange(7)) % len(WORDS)
        text += WORDS[last] + " "
    pathlib.Path(path).write_text(text[:letters], encoding="utf-8")


def write_tokens(path, tokens, magic=20240520, version=1, count=None):
    """A .bin file as llm.c writes them, of 16-bit tokens."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    pathlib.Path(path).write_bytes(header.tobytes() + np.asarray(tokens, "<u2").tobytes())


def write_idx(path, array):
    """An IDX file of bytes, as Fashion-MNIST's are."""
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape)
    pathlib.Path(path).write_bytes(header + array.astype(np.uint8).tobytes())


def write_config(path, keys):
    """{"section.key": value} as a TOML file."""
    sections = {}
    for name, value in keys.items():
        section, key = name.split(".")
        sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}")
    pathlib.Path(path).write_text("".join(f"[{name}]\n" + "\n".join(lines) + "\n\n" for name, lines in sections.items()))


def environment(extra=None):
    """Of a run outside any launcher, with one thread; where more threads than cores wait, they let the others work."""
    taken = ("OMPI_", "PMIX_", "PMI_", "SLURM_", "PRTE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(taken)}
    kept.pop("NO_COLOR", None)
    kept.update({"OMPI_MCA_btl": "self,vader", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"})
    return {**kept, **(extra or {})}


def command(words, ranks):
    """ranks = 0: without mpirun."""
    return ([MPIRUN, str(ranks)] if ranks else []) + [PROGRAM, *map(str, words)]


def tessera(*words, ranks=0, code=0, extra=None):
    """Runs `tessera WORD…` to its end, and asserts its exit code."""
    done = subprocess.run(command(words, ranks), env=environment(extra), stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=TIMEOUT, check=False)
    run = Run(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert run.code == code, (
        f"tessera {' '.join(map(str, words))} on {ranks} ranks: exit code {run.code}, expected {code}\n{run.out}{run.err}")
    return run


def train(*words, **options):
    return tessera("train", *words, **options)


def start(*words, ranks=0, extra=None):
    """Starts `tessera WORD…` and does not wait; what it says goes to the file `started.log`."""
    with open("started.log", "wb") as log:
        return subprocess.Popen(command(words, ranks), env=environment(extra), stdin=subprocess.DEVNULL, stdout=log,
                                stderr=subprocess.STDOUT)


def metrics(run_folder, kind=None):
    """The records of metrics.jsonl, all or of one kind; numbers that are no integers stay text, to the last digit."""
    with open(os.path.join(run_folder, "metrics.jsonl"), encoding="utf-8") as lines:
        records = [json.loads(line, parse_float=str) for line in lines]
    return [record for record in records if kind in (None, record["kind"])]


def checkpoints(run_folder):
    """The checkpoint folders of a run, the oldest first."""
    return sorted(pathlib.Path(run_folder, "checkpoints").glob("step-*"))


def newest(run_folder):
    return int(checkpoints(run_folder)[-1].name[5:])


def rank_processes(parent):
    """{rank: process} of the ranks that a started mpirun (or a launcher above it) has begun."""
    ranks = {}
    children = [int(word) for word in pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    for child in children:
        try:
            environment = pathlib.Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = [int(entry[21:]) for entry in environment if entry.startswith(b"OMPI_COMM_WORLD_RANK=")]
        ranks.update({rank[0]: child} if rank else rank_processes(child))
    return ranks


def wait_until_stopped(process, rank):
    """Until that rank has stopped itself (`--plant "RANK STEP WHERE stop"`); its process."""
    until = time.monotonic() + TIMEOUT
    while True:
        pid = rank_processes(process.pid).get(rank)
        if pid and "State:\tT" in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8"):
            return pid
        assert process.poll() is None, f"it ended: {pathlib.Path('started.log').read_text(encoding='utf-8')}"
        assert time.monotonic() < until, f"rank {rank} does not stop"
        time.sleep(0.01)


def wait_for_steps(process, run_folder, steps):
    """Until the run's metrics have that many records of steps."""
    path = pathlib.Path(run_folder, "metrics.jsonl")
    until = time.monotonic() + TIMEOUT
    while not path.exists() or path.read_bytes().count(b'"kind":"step"') < steps:
        assert process.poll() is None, f"{run_folder} ended: {pathlib.Path('started.log').read_text(encoding='utf-8')}"
        assert time.monotonic() < until, f"{run_folder} has not made {steps} steps"
        time.sleep(0.002)


def read_tensors(checkpoint):
    """{name: array} of a checkpoint's index.h5, without the metadata. A missing file of a rank is an error."""
    tensors = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            for source in item.virtual_sources() if item.is_virtual else ():
                if not os.path.exists(os.path.join(checkpoint, source.file_name)):  # HDF5 itself would show NaN
                    raise FileNotFoundError(os.path.join(checkpoint, source.file_name))
            tensors[name] = item[()]

    with h5py.File(os.path.join(checkpoint, "index.h5"), "r") as file:
        file.visititems(visit)
    return tensors


def writers(checkpoint):
    """How many ranks wrote a checkpoint."""
    with h5py.File(os.path.join(checkpoint, "index.h5"), "r") as file:
        return int(file.attrs["ranks"])


class Result(typing.NamedTuple):
    """What must not depend on how a run was spread or interrupted. Numbers as text, as metrics.jsonl has them."""

    losses: dict  # by step
    grad_norms: dict  # by step
    evaluations: dict  # by step: loss, accuracies, and tokens or samples
    tensors: dict  # of the last checkpoint: weights and optimizer states


def read(run_folder):
    steps, evaluations = metrics(run_folder, "step"), metrics(run_folder, "evaluation")
    assert [record["step"] for record in steps] == list(range(steps[0]["step"], steps[0]["step"] + len(steps))), (
        f"{run_folder}: the steps are not one sequence: {[record['step'] for record in steps]}")
    assert len({record["step"] for record in evaluations}) == len(evaluations), f"{run_folder}: a step is evaluated twice"
    return Result(
        {record["step"]: record["loss"] for record in steps},
        {record["step"]: record["grad_norm"] for record in steps},
        {record["step"]: tuple(value for name, value in record.items() if name not in ("kind", "step")) for record in evaluations},
        read_tensors(checkpoints(run_folder)[-1]),
    )


def differences(one, other, since=0):
    """Sentences about what is not the same, bit for bit. Losses, norms and evaluations of steps after `since` count."""
    found = []
    for what in ("losses", "grad_norms", "evaluations"):
        a, b = ({step: value for step, value in getattr(result, what).items() if step > since} for result in (one, other))
        if sorted(a) != sorted(b):
            found.append(f"{what}: of steps {sorted(a)} and {sorted(b)}")
        unlike = [step for step in a if step in b and a[step] != b[step]]
        if unlike:
            found.append(f"{what}: {len(unlike)} of {len(a)} differ, first at step {unlike[0]}: {a[unlike[0]]} and {b[unlike[0]]}")
    if sorted(one.tensors) != sorted(other.tensors):
        found.append(f"tensors: only one has {sorted(set(one.tensors) ^ set(other.tensors))}")
    for name in sorted(set(one.tensors) & set(other.tensors)):
        a, b = one.tensors[name], other.tensors[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            found.append(f"{name}: {a.dtype} {a.shape} and {b.dtype} {b.shape}")
        elif a.tobytes() != b.tobytes():
            found.append(f"{name}: {np.count_nonzero(a != b)} of {a.size} elements differ")
    return found


def expect_same(one, other, what, since=0):
    found = differences(one, other, since)
    assert not found, f"{what}: not the same bits:\n  " + "\n  ".join(found[:8])

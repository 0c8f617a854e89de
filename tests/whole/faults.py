# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed at random instants, and saves that fail, of the whole program: what a run started again ends with
has the bits of one that was left alone, whatever was under way. TESSERA_LONG_TESTS: 200 instants."""
import math
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

LONG = "TESSERA_LONG_TESTS" in os.environ
FAULT_IO = os.environ["TESSERA_FAULT_IO"]
KEYS = {
    "data.files": ["text.txt"],
    "model.n_layers": 2, "model.n_heads": 2, "model.dim": 32, "model.dropout": 0.1,
    "training.steps": 60, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 1,
    "metrics.evaluate_every": 0, "checkpoint.interval": 2,
}


def children_of(parent):
    """{rank: process} of the ranks below a started mpirun."""
    ranks = {}
    for word in pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            environment = pathlib.Path(f"/proc/{word}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks.update({int(entry[21:]): int(word) for entry in environment if entry.startswith(b"OMPI_COMM_WORLD_RANK=")})
    return ranks


def weights(run_folder):
    """What the newest checkpoint says of its tensors: shapes, ranks and the hash of every block; not at which byte a file
    has them, which the length of the config before them decides."""
    text = (runs.checkpoints(run_folder)[-1] / "MANIFEST").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("tensor", "slab"))]
    return [re.sub(r"^(slab \S+ \S+ \S+) \d+ ", r"\1 ", line) for line in lines]


def end_of(process):
    """The exit code. Where a rank is killed while it connects, in MPI_Init, mpirun waits for ever for a mutex of PMIx 4.2
    (PMIX ERROR: UNREACHABLE, then PMIx_server_finalize): where no rank is left it goes, too; a rank that is left is our
    fault."""
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        left = children_of(process.pid)
        process.kill()
        process.wait()
        assert not left, f"ranks {sorted(left)} wait for one that was killed"
        return -signal.SIGKILL


def killed_again_and_again(run_folder, ranks, kills, draw):
    """Kills one rank, or all, at random instants, and starts the run again each time; then lets it end."""
    done = 0
    while done < kills:
        process = runs.start("train", "gpt.toml", f"run.folder={run_folder}", ranks=ranks)
        begin = time.monotonic()
        while process.poll() is None and len(children_of(process.pid)) < ranks:
            assert time.monotonic() < begin + runs.TIMEOUT
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 1.0 if done % 2 else 0.5))
        victims = list(children_of(process.pid).values())
        for victim in victims if draw.random() < 0.4 else victims and [draw.choice(victims)]:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                pass
        code = end_of(process)
        text = pathlib.Path("started.log").read_text(encoding="utf-8", errors="replace")
        assert "internal error" not in text and "none that can be resumed" not in text, text[-3000:]
        done += 1
        if code == 0:  # the end was reached in time: another run of the same kind
            assert weights(run_folder) == expected_weights(ranks), f"{run_folder}: after {done} kills"
            runs.expect_same(whole, runs.read(run_folder), f"{run_folder}: after {done} kills")
            shutil.rmtree(run_folder)
    runs.train("gpt.toml", f"run.folder={run_folder}", ranks=ranks)
    runs.expect_same(whole, runs.read(run_folder), f"{run_folder}: after {done} kills")
    assert weights(run_folder) == expected_weights(ranks), f"{run_folder}: the weights differ after {done} kills"


def expected_weights(ranks):
    """Of an undisturbed run on so many ranks: the slabs lie otherwise on others."""
    folder = f"whole-{ranks}"
    if not pathlib.Path(folder).exists():
        runs.train("gpt.toml", f"run.folder={folder}", ranks=ranks)
    return weights(folder)


def check_failing_save(on_error, kind, at):
    """A call of rank 1 fails in a save that training goes on beside."""
    folder = f"fails-{on_error}-{kind}"
    run = runs.train("gpt.toml", f"run.folder={folder}", f"checkpoint.on_error={on_error}", ranks=2,
                     code=0 if on_error == "continue" else 1,
                     extra={"LD_PRELOAD": FAULT_IO, "FAULT_FOLDER": f"{folder}/checkpoints", "FAULT_RANK": "1",
                                  "FAULT_AT": str(at), "FAULT_KIND": kind})
    said = run.out + run.err
    reason = {"ENOSPC": "No space left on device", "EIO": "Input/output error"}[kind]
    assert f"{folder}/checkpoints/step-" in said and "was not saved: rank 1: cannot " in said and reason in said, said
    assert "rank-00001.h5" in said, said
    if on_error == "continue":
        assert "warning: training goes on: checkpoint" in run.out, run.out
    else:
        assert runs.checkpoints(folder), "the checkpoint before is gone"
        runs.train("gpt.toml", f"run.folder={folder}", ranks=2)
    runs.expect_same(whole, runs.read(folder), f"{folder}")
    assert weights(folder) == expected_weights(2), folder


def check_no_memory():
    """Where a rank has no memory for its copy, saves are synchronous, and it is said."""
    bytes_of_copy, counts = 0, re.compile(r"^slab 1 \S+ \((\S*)\) ", re.MULTILINE)
    for count in counts.findall((runs.checkpoints("whole-2")[-1] / "MANIFEST").read_text(encoding="utf-8")):
        bytes_of_copy += (4 * math.prod(map(int, filter(None, count.split(",")))) + 63) // 64 * 64
    run = runs.train("gpt.toml", "run.folder=little", "training.steps=6", ranks=2, extra={
        "LD_PRELOAD": FAULT_IO, "FAULT_RANK": "1", "FAULT_FOLDER": "/nowhere", "FAULT_MEMORY": str(bytes_of_copy)})
    said = "training will stand still for each checkpoint: rank 1 has no memory for a copy: cannot allocate "
    assert said in run.out and "step-00000002" in run.out, run.out
    records = [(float(save["stall"]), float(save["seconds"])) for save in runs.metrics("little", "checkpoint")]
    assert len(records) == 3 and all(stall >= seconds > 0 for stall, seconds in records), records


def check_little_space():
    """A disk without room for a checkpoint is refused before the first step, one without room for two is told of."""
    pages = int(runs.metrics("whole-2", "checkpoint")[-1]["bytes"]) // 8192 * 2  # of a checkpoint; what is free is whole ones
    little, enough_for_two = pages // 2 * 4096, (pages * 2 + 2) * 4096
    for free, on_error, code in ((little, "stop", 2), (little, "continue", 1),
                                 (enough_for_two, "stop", 0)):
        folder = f"space-{free}-{on_error}"
        run = runs.train("gpt.toml", f"run.folder={folder}", "training.steps=4", "checkpoint.interval=1",
                         f"checkpoint.on_error={on_error}", ranks=1, code=code,
                         extra={"LD_PRELOAD": FAULT_IO, "FAULT_FOLDER": "/nowhere", "FAULT_FREE": str(free)})
        said = run.out + run.err
        assert f"{folder}/checkpoints has {free / 2**20:.2f} MiB free, a checkpoint needs " in said, said
        assert ("3 more will be there at once" in said) == (code != 2), said
        assert pathlib.Path(folder, "metrics.jsonl").exists() == (code != 2), "steps were taken, or none"


def check_lost_sector():
    """A file that the disk does not give back counts as damaged: the checkpoint before is taken."""
    runs.train("gpt.toml", "run.folder=sector", "training.steps=6", ranks=2)
    run = runs.train("gpt.toml", "run.folder=sector", ranks=2, extra={
        "LD_PRELOAD": FAULT_IO, "FAULT_RANK": "1", "FAULT_FOLDER": "/nowhere",
        "FAULT_UNREADABLE": "step-00000006/rank-00000.h5"})
    said = run.out + run.err
    assert "warning: not resumed from: " in said and "Input/output error" in said, said
    assert "resumed from sector/checkpoints/step-00000004 at step 4" in said, said
    runs.expect_same(whole, runs.read("sector"), "after a lost sector")


with runs.folder():
    runs.write_text("text.txt", 9_000)
    runs.write_config("gpt.toml", KEYS)
    runs.train("gpt.toml", "run.folder=whole-2", ranks=2)
    whole = runs.read("whole-2")
    saves = runs.metrics("whole-2", "checkpoint")
    assert [save["step"] for save in saves] == list(range(2, 61, 2)), saves
    assert all(0 < float(save["stall"]) and int(save["bytes"]) > 100_000 for save in saves), saves
    check_no_memory()
    check_little_space()
    check_lost_sector()
    check_failing_save("stop", "ENOSPC", 130)
    check_failing_save("continue", "EIO", 130)
    killed_again_and_again("killed-2", 2, 170 if LONG else 3, random.Random(1))
    if LONG:
        killed_again_and_again("killed-3", 3, 30, random.Random(2))
print("killed runs, and runs whose saves fail, end with the bits of one that was left alone")

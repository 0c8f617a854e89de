# SPDX-License-Identifier: Apache-2.0
"""A run that was asked to stop, or of which a rank was killed, goes on to the same bits as one that was left alone, on
other numbers of ranks too; and whatever would go on with something else is refused."""
import os
import pathlib
import shutil
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

KEYS = {
    "data.files": ["text.txt"],
    "model.n_layers": 2, "model.n_heads": 2, "model.dim": 32, "model.dropout": 0.1,
    "training.steps": 1_000_000,  # no run ends by itself while a test waits to interrupt it
    "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 1,
    "lr_scheduler.warmup_steps": 10, "lr_scheduler.decay_steps": 60,
    "metrics.evaluate_every": 10, "metrics.evaluate_batches": 5,
    "checkpoint.interval": 10,
}


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


def wait_for_steps(process, run_folder, steps):
    """Until the run's metrics have that many records of steps."""
    path = pathlib.Path(run_folder, "metrics.jsonl")
    until = time.monotonic() + runs.TIMEOUT
    while not path.exists() or path.read_bytes().count(b'"kind":"step"') < steps:
        assert process.poll() is None, f"{run_folder} ended: {pathlib.Path('started.log').read_text(encoding='utf-8')}"
        assert time.monotonic() < until, f"{run_folder} has not made {steps} steps"
        time.sleep(0.002)


def newest(run_folder):
    return int(runs.checkpoints(run_folder)[-1].name[5:])


def stopped_by_request(run_folder, words, ranks, which):
    """Signals a started run; it must save where it is and say so. Returns the step it had reached."""
    process = runs.start(*words, "gpt.toml", f"run.folder={run_folder}", ranks=ranks)
    wait_for_steps(process, run_folder, 15)
    process.send_signal(which)
    code = process.wait(runs.TIMEOUT)
    said = pathlib.Path("started.log").read_text(encoding="utf-8")
    assert code == 75, f"{run_folder}: exit code {code}, expected 75: {said}"
    assert f"stopped on request, run again to go on: {run_folder}" in said, said
    steps = list(runs.read(run_folder).losses)
    assert newest(run_folder) == steps[-1], f"{run_folder}: saved step {newest(run_folder)} of {steps[-1]}"
    return steps[-1]


def killed(run_folder, ranks, victim):
    """Kills one rank outright; the others must not wait for it. Returns the step of the newest checkpoint."""
    process = runs.start("train", "gpt.toml", f"run.folder={run_folder}", ranks=ranks)
    wait_for_steps(process, run_folder, 25)
    started = rank_processes(process.pid)
    assert sorted(started) == list(range(ranks)), started
    os.kill(started[victim], signal.SIGKILL)
    code = process.wait(runs.TIMEOUT)
    assert code not in (0, 75), f"{run_folder}: exit code {code} although rank {victim} was killed"
    assert newest(run_folder) % 10 == 0 and newest(run_folder) >= 20, newest(run_folder)
    assert max(runs.read(run_folder).losses) >= newest(run_folder)
    return newest(run_folder)


def goes_on(run_folder, reached, steps, whole, ranks):
    """Started again, it ends with the very numbers of the uninterrupted run, in one sequence of steps."""
    run = runs.train("gpt.toml", f"run.folder={run_folder}", f"training.steps={steps}", ranks=ranks)
    assert f"step-{reached:08d} at step {reached}, written by" in run.out, f"{run_folder} at {reached}: {run.out}"
    result = runs.read(run_folder)
    assert list(result.losses) == list(range(1, steps + 1)), list(result.losses)
    missing = set(whole.evaluations) - set(result.evaluations)
    assert missing <= {reached}, f"{run_folder}: no evaluation at steps {missing}"
    runs.expect_same(whole._replace(evaluations={step: record for step, record in whole.evaluations.items() if step not in missing}),
                     result, f"{run_folder}: stopped at {reached} and resumed on {ranks} ranks")


def refused(run_folder, sentence, *words):
    """Exit code 2 and one sentence, and the run is as it was."""
    before = {path: path.read_bytes() for path in pathlib.Path(run_folder).rglob("*") if path.is_file() and path.suffix != ".log"}
    run = runs.train("gpt.toml", f"run.folder={run_folder}", *words, code=2)
    assert sentence in run.err and run.err.count("\n") == 1, f"expected '{sentence}', found: {run.err}"
    for path, content in before.items():
        assert path.read_bytes() == content, f"{path} changed although the run was refused: {run.err}"


def check_interruptions():
    """Four runs are interrupted, then one is left alone up to a step that is beyond them all; all must agree."""
    usr1 = stopped_by_request("launched-4", ["launch", "-n", "4"], 0, signal.SIGUSR1)
    term = stopped_by_request("alone", ["train"], 0, signal.SIGTERM)
    first = killed("killed-3", 3, 0)
    last = killed("killed-2", 2, 1)
    steps = max(usr1, term, max(runs.read("killed-3").losses), max(runs.read("killed-2").losses)) + 7
    runs.train("gpt.toml", "run.folder=whole", f"training.steps={steps}", "checkpoint.keep_latest_k=0")
    whole = runs.read("whole")
    assert list(whole.evaluations) == sorted({*range(10, steps + 1, 10), steps}), list(whole.evaluations)
    goes_on("launched-4", usr1, steps, whole, 1)
    goes_on("alone", term, steps, whole, 3)
    goes_on("killed-3", first, steps, whole, 2)
    goes_on("killed-2", last, steps, whole, 4)
    return steps, whole


def check_paths(steps, whole):
    """From named checkpoints into new folders; and a finished run has nothing left to do."""
    for step, ranks, stage in ((10, 2, 3), (20, 3, 1)):
        folder = f"from-{step}"
        runs.train("gpt.toml", f"run.folder={folder}", f"training.steps={steps}",
                   f"checkpoint.resume=whole/checkpoints/step-{step:08d}", f"parallelism.zero_stage={stage}", ranks=ranks)
        result = runs.read(folder)
        assert min(result.losses) == step + 1, list(result.losses)
        runs.expect_same(whole, result, f"from the checkpoint of step {step} on {ranks} ranks", since=step)
    before = pathlib.Path("whole/metrics.jsonl").read_bytes()
    runs.train("gpt.toml", "run.folder=whole", f"training.steps={steps}")
    assert pathlib.Path("whole/metrics.jsonl").read_bytes() == before, "a finished run was run again"
    run = runs.train("gpt.toml", "run.folder=whole", f"training.steps={steps - 1}")
    assert "nothing is left to train" in run.out, run.out


def check_refusals():
    """What is not the same run, in a copy."""
    shutil.copytree("whole", "other")
    refused("other", "command line: training.seed = 2: ", "training.seed=2")
    runs.write_text("other.txt", 9_000, seed=2)
    refused("other", "data.files = [\"other.txt\"]: ", 'data.files=["other.txt"]')
    refused("other", "nowhere", "checkpoint.resume=nowhere")
    refused("other", "data.next_sample", "training.global_batch_size=16")
    refused("other", "no tensor 'optimizer.velocity/", "optimizer.name=sgd")
    refused("other", "embedding.weight", "model.dim=64")
    refused("other", "no tensor 'layers.2.", "model.n_layers=3")


def check_damage(steps, whole):
    """A damaged newest checkpoint is passed over with a warning, and the one before it serves."""
    damaged, before = reversed(runs.checkpoints("other")[-2:])
    with open(damaged / "rank-00000.h5", "r+b") as file:
        file.truncate(1000)
    run = runs.train("gpt.toml", "run.folder=other", f"training.steps={steps}")
    assert "warning: not resumed from" in run.out and str(damaged) in run.out, run.out
    assert f"resumed from {before}" in run.out, run.out
    runs.expect_same(whole, runs.read("other"), "after damage")


def check_all_damaged():
    """With no checkpoint left that opens, a run does not silently begin again."""
    shutil.copytree("other", "lost")
    for folder in runs.checkpoints("lost"):
        (folder / "MANIFEST").write_text("nothing\n")
    refused("lost", "none that can be resumed")


def check_fresh_start(whole):
    """checkpoint.resume = "never" begins at step 1 again; what the former run had saved gets out of the way of what this
    one saves, and is not lost."""
    former = [path.name for path in runs.checkpoints("other")]
    runs.train("gpt.toml", "run.folder=other", "training.steps=25", "checkpoint.resume=never", "checkpoint.keep_latest_k=1")
    again = runs.read("other")
    assert list(again.losses) == list(range(1, 26)), list(again.losses)
    assert all(again.losses[step] == whole.losses[step] for step in again.losses), "another start than the first"
    assert [path.name for path in runs.checkpoints("other")] == ["step-00000025"]
    assert all(pathlib.Path("other/checkpoints", "old-" + name, "MANIFEST").exists() for name in former), former
    run = runs.train("gpt.toml", "run.folder=other", "training.steps=30")
    assert "resumed from other/checkpoints/step-00000025 at step 25" in run.out, run.out
    again = runs.read("other")
    assert all(again.losses[step] == whole.losses[step] for step in range(1, 31)), "another course after the new start"


def check_f16():
    """The loss scale and the count of skipped steps go on too: it starts too high, and grows every fourth good step. After
    steps in another type there is none yet."""
    words = ["training.dtype=f16", "training.loss_scale=16777216", "training.loss_scale_interval=4", "model.dropout=0"]
    runs.train("gpt.toml", "run.folder=f16-whole", "training.steps=30", *words)
    whole, steps = runs.read("f16-whole"), runs.metrics("f16-whole", "step")
    assert steps[0]["skipped_steps"] == 1 and steps[-1]["skipped_steps"] > steps[8]["skipped_steps"], steps
    runs.train("gpt.toml", "run.folder=f16-parts", "training.steps=9", *words, ranks=2)
    goes_on_f16 = runs.train("gpt.toml", "run.folder=f16-parts", "training.steps=30", *words, ranks=4)
    assert "at step 9, written by 2 ranks" in goes_on_f16.out, goes_on_f16.out
    found = runs.read("f16-parts")
    runs.expect_same(whole._replace(evaluations={}), found._replace(evaluations={}), "f16: stopped at 9 and resumed")
    keys = ("skipped_steps", "loss_scale")
    assert [[record[key] for key in keys] for record in runs.metrics("f16-parts", "step")] == [[record[key] for key in keys] for record in steps]
    run = runs.train("gpt.toml", "run.folder=other", "training.steps=40", *words)
    assert "which start anew: optimizer.loss_scale, optimizer.good_steps, optimizer.skipped_steps" in run.out, run.out
    assert [record["skipped_steps"] for record in runs.metrics("other", "step")[-10:]][0] == 1, "it does not start anew"


def check_keep(name, keep, expected):
    runs.train("gpt.toml", f"run.folder={name}", "training.steps=35", f"checkpoint.keep_latest_k={keep}")
    found = [int(path.name[5:]) for path in runs.checkpoints(name)]
    assert found == expected, f"keep_latest_k = {keep}: {found}"
    left = [path.name for path in pathlib.Path(name, "checkpoints").iterdir() if not path.name.startswith("step-")]
    assert not left, left


# The same program without CUDA's libraries, which take each rank 0.3 s to load, and without a GPU.
runs.PROGRAM = os.environ.get("TESSERA_EMULATED") or runs.PROGRAM
os.environ["TESSERA_EMULATION_DEVICES"] = "0"
with runs.folder():
    runs.write_text("text.txt", 9_000)
    runs.write_config("gpt.toml", KEYS)
    last_step, undisturbed = check_interruptions()
    check_paths(last_step, undisturbed)
    check_refusals()
    check_damage(last_step, undisturbed)
    check_all_damaged()
    check_fresh_start(undisturbed)
    check_f16()
    check_keep("keep-2", 2, [30, 35])
    check_keep("keep-all", 0, [10, 20, 30, 35])
print("stopped, killed and resumed runs end with the bits of one that was left alone")

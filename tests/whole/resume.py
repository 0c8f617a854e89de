# SPDX-License-Identifier: Apache-2.0
"""A run that was asked to stop, or of which a rank was killed, goes on to the same bits as one that was left alone, on
other numbers of ranks too; and whatever would go on with something else is refused."""
import os
import pathlib
import shutil
import signal
import sys

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


def stopped_by_request(run_folder, words, ranks, which):
    """Signals a started run; it must save where it is and say so. Returns the step it had reached."""
    process = runs.start(*words, "gpt.toml", f"run.folder={run_folder}", ranks=ranks)
    runs.wait_for_steps(process, run_folder, 15)
    process.send_signal(which)
    code = process.wait(runs.TIMEOUT)
    said = pathlib.Path("started.log").read_text(encoding="utf-8")
    assert code == 75, f"{run_folder}: exit code {code}, expected 75: {said}"
    assert f"stopped on request, run again to go on: {run_folder}" in said, said
    steps = list(runs.read(run_folder).losses)
    assert runs.newest(run_folder) == steps[-1], f"{run_folder}: saved step {runs.newest(run_folder)} of {steps[-1]}"
    return steps[-1]


def killed(run_folder, ranks, victim):
    """Kills one rank outright; the others must not wait for it. Returns the step of the newest checkpoint."""
    process = runs.start("train", "gpt.toml", f"run.folder={run_folder}", ranks=ranks)
    runs.wait_for_steps(process, run_folder, 25)
    started = runs.rank_processes(process.pid)
    assert sorted(started) == list(range(ranks)), started
    os.kill(started[victim], signal.SIGKILL)
    code = process.wait(runs.TIMEOUT)
    assert code not in (0, 75), f"{run_folder}: exit code {code} although rank {victim} was killed"
    assert runs.newest(run_folder) % 10 == 0 and runs.newest(run_folder) >= 10, runs.newest(run_folder)  # that of 20 may be under way
    assert max(runs.read(run_folder).losses) >= runs.newest(run_folder)
    return runs.newest(run_folder)


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
    before = {path: path.read_bytes() for path in pathlib.Path(run_folder).rglob("*") if path.is_file() and path.suffix != ".log" and path.parent.name != "job"}
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
    refused("other", "command line: model.dim = 64: other/checkpoints/step-", "model.dim=64")
    refused("other", "was saved with 2; change it back", "model.n_layers=3", 'checkpoint.allow_changes=["model.dim"]')
    refused("other", "no tensor 'layers.2.", "model.n_layers=3", 'checkpoint.allow_changes=["model.n_layers"]')
    refused("other", "no key is named 'model.layer'", 'checkpoint.allow_changes=["model.layer"]')
    refused("other", "checkpoint.on_error = \"wait\": expected stop or continue", "checkpoint.on_error=wait")


def check_allowed_changes(steps):
    """Said twice, the seed may change, and how data are read without a word; what has changed is listed."""
    shutil.copytree("whole", "changed")
    run = runs.train("gpt.toml", "run.folder=changed", f"training.steps={steps + 1}", "training.seed=2", "data.loader_threads=2", "data.prefetch=2",
                     'checkpoint.allow_changes=["training.seed"]')
    assert f"was saved: data.loader_threads 0 -> 2, data.prefetch 0 -> 2, run.folder \"whole\" -> \"changed\", training.seed 1 -> 2, training.steps {steps} -> {steps + 1}" in run.out, run.out


def check_data_damage(steps, whole):
    """A byte that differs inside a tensor is found while it is read, on whichever rank: the checkpoint before serves."""
    shutil.copytree("whole", "bits")
    damaged, before = reversed(runs.checkpoints("bits")[-2:])
    path = damaged / "rank-00000.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    run = runs.train("gpt.toml", "run.folder=bits", f"training.steps={steps}", ranks=2)
    assert "warning: not resumed from: " in run.out and str(path) in run.out and "damaged" in run.out, run.out
    assert f"resumed from {before}" in run.out, run.out
    runs.expect_same(whole, runs.read("bits"), "after a flipped bit")
    assert (pathlib.Path("bits/checkpoints") / f"old-{damaged.name}").exists()


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
    run = runs.train("gpt.toml", "run.folder=other", "training.steps=40", *words, 'checkpoint.allow_changes=["model.dropout"]')
    assert "which start anew: optimizer.loss_scale, optimizer.good_steps, optimizer.skipped_steps" in run.out, run.out
    assert [record["skipped_steps"] for record in runs.metrics("other", "step")[-10:]][0] == 1, "it does not start anew"


def check_keep(name, keep, expected, *words):
    runs.train("gpt.toml", f"run.folder={name}", "training.steps=35", f"checkpoint.keep_latest_k={keep}", *words)
    found = [int(path.name[5:]) for path in runs.checkpoints(name)]
    assert found == expected, f"keep_latest_k = {keep}: {found}"
    left = [path.name for path in pathlib.Path(name, "checkpoints").iterdir() if not path.name.startswith("step-")]
    assert not left, left


with runs.folder():
    runs.write_text("text.txt", 9_000)
    runs.write_config("gpt.toml", KEYS)
    last_step, undisturbed = check_interruptions()
    check_paths(last_step, undisturbed)
    check_refusals()
    check_allowed_changes(last_step)
    check_data_damage(last_step, undisturbed)
    check_damage(last_step, undisturbed)
    check_all_damaged()
    check_fresh_start(undisturbed)
    check_f16()
    check_keep("keep-2", 2, [20, 30, 35], "checkpoint.keep_every=20", "checkpoint.asynchronous=false")
    check_keep("keep-all", 0, [10, 20, 30, 35])
print("stopped, killed and resumed runs end with the bits of one that was left alone")

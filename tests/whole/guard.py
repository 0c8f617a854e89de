# SPDX-License-Identifier: Apache-2.0
"""A run that diverges, because its learning rate grows until it does: the guard stops it, or skips the steps, or goes
back to a checkpoint; the same on any number of ranks, and when the run is stopped and resumed on the way."""
import os
import pathlib
import signal
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

KEYS = {
    "data.reader": "synthetic", "data.vocab_size": 40, "data.synthetic_tokens": 20000,
    "model.n_layers": 2, "model.n_heads": 2, "model.dim": 32,
    "training.steps": 50, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2,
    "training.max_norm": 0, "optimizer.name": "sgd", "optimizer.momentum": 0, "optimizer.lr": 14,
    "optimizer.weight_decay": 0, "lr_scheduler.type": "constant", "lr_scheduler.warmup_steps": 60,
    "checkpoint.interval": 10, "guard.z_score": 6, "guard.window": 16, "guard.max_in_a_row": 5,
}
SKIP, ROLL_BACK = "guard.policy=skip", "guard.policy=rollback"


def numbers(folder):
    return [(record["step"], record["skipped_steps"], "divergence" in record) for record in runs.metrics(folder, "step")]


def check_stop():
    run = runs.train("guard.toml", "run.folder=stop", ranks=2, code=5)
    assert "diverged at step 29: the loss " in run.err and "its samples are numbers 224 to 231 of the order" in run.err, run.err
    assert [path.name for path in runs.checkpoints("stop")] == ["step-00000010", "step-00000020"], "an odd step was saved"


def check_skip():
    run = runs.train("guard.toml", "run.folder=skip", SKIP, ranks=2, code=5)
    assert run.out.count(" changes nothing: the loss ") == 4, run.out
    assert "diverged at step 33, odd steps in a row: 5 (guard.max_in_a_row): the loss " in run.err, run.err
    assert numbers("skip")[27:] == [(28, 0, False)] + [(step, step - 28, True) for step in range(29, 33)], numbers("skip")


def check_skip_in_two_parts():
    """Odd steps are counted on when the run is stopped among them."""
    runs.train("guard.toml", "run.folder=two", SKIP, "training.steps=31", ranks=2)
    run = runs.train("guard.toml", "run.folder=two", SKIP, code=5)
    assert "diverged at step 33, odd steps in a row: 5 (guard.max_in_a_row): the loss " in run.err, run.err


def check_roll_back():
    """What has been trained since the checkpoint counts as skipped; its batches and numbers of steps do not come again."""
    run = runs.train("guard.toml", "run.folder=alone", ROLL_BACK)
    assert "rolled back to the weights of alone/checkpoints/step-00000020; steps given up: 21 to 29" in run.out, run.out
    assert numbers("alone")[27:30] == [(28, 0, False), (29, 1, True), (30, 9, False)], numbers("alone")
    whole = runs.read("alone")
    runs.train("guard.toml", "run.folder=three", ROLL_BACK, ranks=3)
    runs.expect_same(whole, runs.read("three"), "rolled back on 3 ranks")
    runs.train("guard.toml", "run.folder=parts", ROLL_BACK, "training.steps=33", ranks=2)
    runs.train("guard.toml", "run.folder=parts", ROLL_BACK)
    parts = runs.read("parts")
    runs.expect_same(whole._replace(evaluations={}), parts._replace(evaluations={}), "stopped after it was rolled back")
    assert numbers("parts") == numbers("alone")
    run = runs.train("guard.toml", "run.folder=parts", "guard.z_score=0", "training.steps=51")
    assert "steps that changed nothing count as updates from here on: there is no guard now" in run.out, run.out


def check_roll_back_to_memory():
    """As to a checkpoint of the same step; the copy is saved where the run stops that would go back to it."""
    def rolled_back(folder):
        return [(record["step"], record["to"], record["from"]) for record in runs.metrics(folder, "rollback")]

    copies = ["guard.toml", ROLL_BACK, "guard.snapshot_interval=6", "guard.repeat_interval=7"]
    runs.train("guard.toml", "run.folder=disk", ROLL_BACK, "checkpoint.interval=6", "checkpoint.asynchronous=false")
    disk = runs.read("disk")
    assert rolled_back("disk")[0] == (29, 24, "disk/checkpoints/step-00000024"), rolled_back("disk")
    for ranks, words in ((1, ["checkpoint.interval=0"]), (2, ["parallelism.zero_stage=1", "checkpoint.interval=0"]), (4, ["checkpoint.interval=12"])):
        folder = f"memory-{ranks}"
        run = runs.train(*copies, *words, f"run.folder={folder}", ranks=ranks)
        assert "rolled back to the weights of step 24, in memory; steps given up: 25 to 29" in run.out, run.out
        assert [entry[:2] for entry in rolled_back(folder)] == [entry[:2] for entry in rolled_back("disk")], rolled_back(folder)
        runs.expect_same(disk._replace(evaluations={}), runs.read(folder)._replace(evaluations={}), f"from memory on {ranks} ranks, and from disk")
    process = runs.start("train", *copies, "run.folder=paused", "checkpoint.keep_latest_k=1", "--plant", "0 27 reading stop", ranks=2)
    rank = runs.wait_until_stopped(process, 0)
    os.kill(rank, signal.SIGUSR1)
    os.kill(rank, signal.SIGCONT)
    assert process.wait(runs.TIMEOUT) == 75, pathlib.Path("started.log").read_text(encoding="utf-8")
    assert [path.name for path in runs.checkpoints("paused")] == ["step-00000024", "step-00000027"]
    runs.train(*copies, "run.folder=paused")
    assert rolled_back("paused")[0] == (29, 24, "paused/checkpoints/step-00000024"), rolled_back("paused")
    runs.expect_same(disk._replace(evaluations={}), runs.read("paused")._replace(evaluations={}), "stopped between a copy and the rollback")
    run = runs.tessera("plan", "guard.toml", ROLL_BACK, "guard.snapshot_interval=6", "run.memory_limit=0.5MiB", code=2)
    assert "checkpoint" in run.err and "more than run.memory_limit" in run.err, run.err
    run = runs.train("guard.toml", "guard.snapshot_interval=6", code=2)
    assert 'guard.snapshot_interval = 6: only guard.policy = "rollback" goes back to copies' in run.err, run.err


def check_roll_back_on_gpu():
    if not os.environ.get("TESSERA_EMULATED"):
        return
    words = ["guard.toml", ROLL_BACK, "run.device=cuda", "training.steps=30"]
    for folder, more in {"gpu-disk": ["checkpoint.interval=6"], "gpu-memory": ["checkpoint.interval=0", "guard.snapshot_interval=6", "guard.repeat_interval=13"]}.items():
        run = runs.train(*words, *more, f"run.folder={folder}", extra={"TESSERA_EMULATION_DEVICES": "1"})
        assert "steps given up: 25 to 29" in run.out, run.out
    runs.tessera("checkpoint", "diff", *(runs.checkpoints(folder)[-1] for folder in ("gpu-disk", "gpu-memory")))


def check_nowhere_to_go():
    run = runs.train("guard.toml", "run.folder=nowhere", ROLL_BACK, "checkpoint.interval=0", code=5)
    assert "no checkpoint to roll back to after step 29: the loss " in run.err, run.err


with runs.folder():
    runs.write_config("guard.toml", KEYS)
    check_stop()
    check_skip()
    check_skip_in_two_parts()
    check_roll_back()
    check_roll_back_to_memory()
    check_roll_back_on_gpu()
    check_nowhere_to_go()
print("a run that diverges stops, skips or goes back, alike on all ranks")

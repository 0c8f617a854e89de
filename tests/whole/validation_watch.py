# SPDX-License-Identifier: Apache-2.0
"""What the validation loss decides: rates as torch.optim.lr_scheduler.ReduceLROnPlateau has them, and an early end; the same
on more ranks, and in a run that is stopped and resumed."""
import os
import pathlib
import signal
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs
import torch

KEYS = {
    "data.files": ["text.txt"], "model.n_layers": 2, "model.n_heads": 2, "model.dim": 16, "training.seq_len": 16,
    "training.steps": 24, "training.global_batch_size": 8, "training.local_batch_size": 2, "optimizer.lr": 0.3,
    "lr_scheduler.type": "plateau", "lr_scheduler.warmup_steps": 0, "lr_scheduler.plateau_patience": 1,
    "lr_scheduler.plateau_factor": 0.5, "lr_scheduler.plateau_threshold": 0.02, "lr_scheduler.min_lr_factor": 0.2,
    "metrics.evaluate_every": 2, "metrics.evaluate_batches": 4, "checkpoint.interval": 0,
}


def check_plateau():
    runs.train("gpt.toml", "run.folder=one")
    evaluations = {record["step"]: float(record["loss"]) for record in runs.metrics("one", "evaluation")}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0.02, min_lr=0.06)
    rates = []
    for record in runs.metrics("one", "step"):
        rates.append(float(record["learning_rate"]))
        wanted = optimizer.param_groups[0]["lr"]
        assert abs(rates[-1] / wanted - 1) < 1e-6, f"step {record['step']}: rate {rates[-1]}, expected {wanted}"
        if record["step"] in evaluations:
            torchs.step(evaluations[record["step"]])
    assert len(set(rates)) > 2, f"the rate does not fall: {rates}, losses {evaluations}"
    runs.train("gpt.toml", "run.folder=many", "parallelism.zero_stage=1", "training.steps=8", ranks=2)
    runs.train("gpt.toml", "run.folder=many", "parallelism.pipeline_parallel_degree=2", ranks=4)
    one, many = runs.read("one"), runs.read("many")
    runs.expect_same(one, many, "one run, and one that was stopped and resumed on other ranks", since=8)


def check_stopped():
    """A run that is told to stop does not evaluate first: what the evaluation decides is made up for."""
    words = ["gpt.toml", "metrics.evaluate_every=1", "metrics.evaluate_batches=1", "lr_scheduler.plateau_patience=0",
             "training.global_batch_size=256", "training.local_batch_size=1"]
    process = runs.start("train", *words, "run.folder=stopped", "parallelism.zero_stage=1", "training.steps=1000000", ranks=2)
    runs.wait_for_steps(process, "stopped", 3)
    process.send_signal(signal.SIGUSR1)
    code = process.wait(runs.TIMEOUT)
    assert code == 75, f"exit code {code}: " + pathlib.Path("started.log").read_text()
    stopped_at = runs.newest("stopped")
    put_off = stopped_at - runs.metrics("stopped", "evaluation")[-1]["step"]
    assert put_off in (0, 1), put_off  # 0: the signal came while it evaluated
    for run_folder in ("stopped", "alone"):
        runs.train(*words, f"run.folder={run_folder}", f"training.steps={stopped_at + 3}")
    assert len(set(record["learning_rate"] for record in runs.metrics("alone", "step"))) > 1
    runs.expect_same(runs.read("alone"), runs.read("stopped"), f"a run alone, and one that put off {put_off} evaluations")


def check_longer():
    """The evaluation at the end of a run is none of the runs that go on from there."""
    words = ["gpt.toml", "metrics.evaluate_every=3", "lr_scheduler.plateau_patience=0"]
    runs.train(*words, "run.folder=once")
    runs.train(*words, "run.folder=twice", "training.steps=10")
    runs.train(*words, "run.folder=twice", ranks=2)
    once, twice = runs.read("once"), runs.read("twice")
    del twice.evaluations[10]
    runs.expect_same(once, twice, "one run, and one that was given more steps")


def check_early_stopping():
    words = ["gpt.toml", "lr_scheduler.type=constant", "training.early_stopping_patience=3", "training.early_stopping_min_delta=10"]
    keys = {key: value for key, value in KEYS.items() if "plateau" not in key and "min_lr" not in key}
    runs.write_config("gpt.toml", keys)
    out = runs.train(*words, "run.folder=early", ranks=2)
    assert "no lower loss in 3 evaluations: training ends" in out.out + out.err, out
    assert [record["step"] for record in runs.metrics("early", "step")] == list(range(1, 9))
    assert [record.get("note") for record in runs.metrics("early", "evaluation")][-1] is not None
    assert runs.newest("early") == 8
    runs.train(*words, "run.folder=early")  # it has ended
    assert runs.newest("early") == 8 and len(runs.metrics("early", "step")) == 8
    process = runs.start("train", *words, "run.folder=put-off", "--plant", "0 8 reading sleep:1")
    runs.wait_for_steps(process, "put-off", 7)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(runs.TIMEOUT) == 75, pathlib.Path("started.log").read_text(encoding="utf-8")
    for evaluated in (True, False):  # where it was stopped, before it had evaluated; and what came of that was saved
        run = runs.train(*words, "run.folder=put-off")
        assert ("no lower loss in 3 evaluations: training ends" in run.out) == evaluated, run.out
    runs.expect_same(runs.read("early"), runs.read("put-off"), "ended by an evaluation that was put off")


def refuse(words, sentence):
    err = runs.tessera("train", "gpt.toml", *words, code=2).err
    assert sentence in err and err.count("\n") == 1, f"{words}: expected {sentence!r}, got:\n{err}"


with runs.folder():
    runs.write_text("text.txt", 4000)
    runs.write_config("gpt.toml", KEYS)
    check_plateau()
    check_stopped()
    check_longer()
    refuse(["lr_scheduler.plateau_factor=1"], "must be above 0 and below 1")
    refuse(["metrics.evaluate_every=0"], "goes by the validation loss: set metrics.evaluate_every")
    refuse(["data.validation_fraction=0.0"], "goes by the validation loss, and the data have no validation split")
    check_early_stopping()
    refuse(["training.early_stopping_patience=-1"], "must be at least 0")

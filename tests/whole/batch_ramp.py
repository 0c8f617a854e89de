# SPDX-License-Identifier: Apache-2.0
"""training.batch_size_ramp: a batch that grows reads each sample once, and a step of each size is that of a run of such steps: of a
BERT, whose masks go by the number of the sample. The bits are the same on 1 and 2 ranks, and of a run stopped within stages."""
import os
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

KEYS = {"data.files": ["text.txt"], "model.n_layers": 1, "model.n_heads": 2, "model.dim": 32, "training.steps": 4,
        "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2, "checkpoint.interval": 0}


def check_stages():
    """Without a change of the weights the steps of a stage are those of a run of such batches alone."""
    still = ["gpt.toml", "model.type=bert", "optimizer.lr=0.0", "metrics.evaluate_every=0", "training.steps=4"]
    ramp = ["training.batch_size_ramp=[4,4,16]"]
    runs.train(*still, "run.folder=fours", "training.global_batch_size=4")
    runs.train(*still, "run.folder=eights")
    run = runs.train(*still, *ramp, "run.folder=grows", "training.steps=6")
    assert "batches grow: 4 samples in steps 1 to 4, then 8\n" in run.out, run.out
    numbers = lambda folder: [(step["loss"], step["grad_norm"]) for step in runs.metrics(folder, "step")]
    assert numbers("grows") == numbers("fours") + numbers("eights")[2:], (numbers("grows"), numbers("fours"), numbers("eights"))
    assert [step["tokens"] for step in runs.metrics("grows", "step")] == [64, 128, 192, 256, 384, 512]


def check_stops():
    words = ["gpt.toml", "training.batch_size_ramp=[2,2,24]", "lr_scheduler.warmup_steps=2", "lr_scheduler.decay_steps=11"]
    run = runs.train(*words, "run.folder=steps", "training.steps=11")
    for text in ("2 = 1 micro-batches", "4 = 2 micro-batches", "6 = 3 micro-batches", "8 = 4 micro-batches"):
        assert f"global batch {text}" in run.out, run.out
    for stop, ranks in ((3, 2), (5, 1), (11, 2)):
        runs.train(*words, "run.folder=stops", f"training.steps={stop}", ranks=ranks)
    alone, stopped = (runs.read(folder)._replace(evaluations={}) for folder in ("steps", "stops"))
    runs.expect_same(alone, stopped, "a growing batch, stopped")
    run = runs.train(*words, "run.folder=stops", "training.steps=12", "training.batch_size_ramp=[2,2,12]", code=2)
    assert "training.batch_size_ramp = [2, 2, 12]: " in run.err and "data.next_sample" in run.err, run.err
    out = runs.tessera("plan", *words).out
    assert "It grows: 2 samples in steps 1 to 4, 4 to step 6, 6 to step 8, then 8\n" in out, out
    out = runs.tessera("verify", "-n", 2, "--steps", 2, *words).out
    assert "2 steps: all agree" in out, out


with runs.folder():
    runs.write_text("text.txt", 4000)
    runs.write_config("gpt.toml", KEYS)
    check_stages()
    check_stops()
    run = runs.train("gpt.toml", "training.batch_size_ramp=[2,2,24]", "checkpoint.interval=-1", code=2)
    assert "checkpoint.interval = -1: each stage of training.batch_size_ramp ends with a checkpoint" in run.err, run.err
    run = runs.train("gpt.toml", "training.batch_size_ramp=[2,2,24]", "parallelism.zero_stage=2", ranks=2, code=2)
    assert ("training.batch_size_ramp = [2, 2, 24]: a step of 2 samples: parallelism.zero_stage 2 and 3 sum the gradients of each "
            "micro-batch over the 2 ranks of mesh axis 'data': the 1 micro-batches of a step must be a multiple of that") in run.err, run.err

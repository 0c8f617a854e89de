# SPDX-License-Identifier: Apache-2.0
"""The moving average of the weights, against PyTorch's AveragedModel over 20 steps; stopped and resumed in another layout;
evaluated in training as by `tessera evaluate`; begun in the middle of a run; taken as weights."""
import os
import pathlib
import re
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import runs
import torch

DECAY, STEPS, PREFIX = 0.6, 20, "optimizer.ema/"
KEYS = {
    "data.files": ["text.txt"], "data.tokenizer": "byte",
    "model.n_layers": 2, "model.n_heads": 4, "model.dim": 32, "model.dropout": 0.1,
    "training.steps": STEPS, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2,
    "training.ema_decay": DECAY, "optimizer.lr": 1e-2, "lr_scheduler.warmup_steps": 2,
    "metrics.evaluate_every": 10, "checkpoint.interval": 1, "checkpoint.keep_latest_k": 100,
}


def averages(tensors):
    return {name[len(PREFIX):]: array for name, array in tensors.items() if name.startswith(PREFIX)}


def check_torch():
    """AveragedModel of a module whose parameters are those of each step's checkpoint."""
    runs.train("gpt.toml", "run.folder=one")
    folders = runs.checkpoints("one")
    assert len(folders) == STEPS, folders
    module = mean = None
    for n, folder in enumerate(folders, 1):
        tensors = runs.read_tensors(folder)
        found = averages(tensors)
        assert sorted(found) == sorted(name for name in tensors if not name.startswith(("optimizer.", "metadata")))
        weights = [torch.tensor(tensors[name].astype(np.float64)) for name in sorted(found)]
        if module is None:
            module = torch.nn.Module()
            module.all = torch.nn.ParameterList([torch.nn.Parameter(weight) for weight in weights])
            mean = torch.optim.swa_utils.AveragedModel(
                module, avg_fn=lambda average, weight, before: average + (1 - min(DECAY, (2 + before) / (11 + before))) * (weight - average))
        with torch.no_grad():
            for parameter, weight in zip(module.all, weights):
                parameter.copy_(weight)
        mean.update_parameters(module)
        for name, expected in zip(sorted(found), mean.module.all):
            np.testing.assert_allclose(found[name], expected.detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=f"{name} after {n} steps")
    assert not np.array_equal(found["norm.scale"], runs.read_tensors(folders[-1])["norm.scale"])


def check_layouts():
    one = runs.read("one")
    layouts = [(["parallelism.zero_stage=2"], 2), (["parallelism.pipeline_parallel_degree=2", "parallelism.zero_stage=1"], 4), ([], 1)]
    for step, (words, ranks) in zip((7, 13, STEPS), layouts):
        runs.train("gpt.toml", "run.folder=many", "checkpoint.interval=0", f"training.steps={step}", f"lr_scheduler.decay_steps={STEPS}",
                   *words, ranks=ranks)
    runs.train("gpt.toml", "run.folder=whole", "checkpoint.interval=0", f"lr_scheduler.decay_steps={STEPS}")
    many, whole = runs.read("many"), runs.read("whole")
    runs.expect_same(whole, many._replace(evaluations=whole.evaluations), "stopped in two layouts and resumed in a third")
    assert many.evaluations[STEPS] == whole.evaluations[STEPS] == one.evaluations[STEPS]


def loss_of(folder, *words, ranks=0):
    out = runs.tessera("evaluate", folder, *words, ranks=ranks).out
    return "averaged weights" in out, float(re.search(r"validation loss: ([\d.]+)", out)[1])


def check_evaluation():
    told = {record["step"]: float(record["loss"]) for record in runs.metrics("one", "evaluation")}
    runs.train("gpt.toml", "run.folder=last", "metrics.evaluate_ema=false", "checkpoint.interval=0")
    last = {record["step"]: float(record["loss"]) for record in runs.metrics("last", "evaluation")}
    assert [record["loss"] for record in runs.metrics("last", "step")] == [record["loss"] for record in runs.metrics("one", "step")]
    assert told.keys() == last.keys() and all(told[step] != last[step] for step in told), (told, last)
    for ranks in (0, 2):
        averaged, loss = loss_of("one", ranks=ranks)
        assert averaged and abs(loss - told[STEPS]) < 1e-6, (loss, told)
    averaged, loss = loss_of("one", "metrics.evaluate_ema=false")
    assert not averaged and abs(loss - last[STEPS]) < 1e-6, (loss, last)


def check_begun_later():
    """A run without averages goes on with them: they start as the weights it had."""
    runs.train("gpt.toml", "run.folder=later", "training.ema_decay=0", "training.steps=5", f"lr_scheduler.decay_steps={STEPS}")
    err = runs.tessera("train", "gpt.toml", "run.folder=none", "training.ema_decay=0", "metrics.evaluate_ema=false", code=2).err
    assert "metrics.evaluate_ema" in err, err
    runs.train("gpt.toml", "run.folder=later", "training.steps=6", f"lr_scheduler.decay_steps={STEPS}", ranks=2)
    before, after = (runs.read_tensors(folder) for folder in runs.checkpoints("later")[-2:])
    assert not averages(before)
    keeps = min(DECAY, 7 / 16)
    for name, average in averages(after).items():
        expected = keeps * before[name].astype(np.float64) + (1 - keeps) * after[name]
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    log = pathlib.Path("later", "logs", "rank-0000.log").read_text(encoding="utf-8")
    assert "start anew: optimizer.ema/*" in log, log


def check_taken():
    """As first weights, exported, merged with adapters, and to generate with, averages have the bits of the checkpoint's."""
    expected = averages(runs.read_tensors(runs.checkpoints("one")[-1]))
    runs.train("gpt.toml", "run.folder=taken", "model.init_from=one", "model.init_ema=true", "training.steps=1", "optimizer.lr=0",
               "training.ema_decay=0", "parallelism.zero_stage=3", ranks=2)
    runs.tessera("checkpoint", "export", "--ema", "--safetensors", "one.safetensors", "one")
    runs.tessera("checkpoint", "import", "one.safetensors", "--to", "imported")
    assert not [path for path in os.listdir() if "averaged" in path], os.listdir()
    for folder in ("taken", "imported"):
        found = runs.read_tensors(runs.checkpoints(folder)[-1])
        for name, average in expected.items():
            assert found[name].tobytes() == average.tobytes(), f"{folder}: {name}"
    fresh = averages(runs.read_tensors(runs.checkpoints("imported")[-1]))
    assert all(fresh[name].tobytes() == average.tobytes() for name, average in expected.items()) and len(fresh) == len(expected)
    logits = {}
    for name, words in (("averaged", ["--ema", "one"]), ("taken", ["taken"]), ("last", ["one"])):
        runs.tessera("generate", "--prompt", "the old", "--logits", f"{name}.npy", *words)
        logits[name] = np.load(f"{name}.npy").tobytes()
    assert logits["averaged"] == logits["taken"] != logits["last"]


def check_adapters():
    runs.train("gpt.toml", "run.folder=adapted", "model.init_from=one", "lora.rank=2", "training.steps=3", "checkpoint.interval=0")
    found = runs.read_tensors(runs.checkpoints("adapted")[-1])
    assert averages(found) and all(".lora_" in name for name in averages(found)), sorted(averages(found))
    runs.tessera("checkpoint", "export", "--ema", "--safetensors", "merged.safetensors", "adapted")
    runs.tessera("checkpoint", "import", "merged.safetensors", "--to", "merged")
    loss = loss_of("merged", "metrics.evaluate_ema=false")[1]
    assert abs(loss - float(runs.metrics("adapted", "evaluation")[-1]["loss"])) < 1e-4, loss


def check_refusals():
    runs.train("gpt.toml", "run.folder=without", "training.ema_decay=0", "training.steps=1")
    runs.tessera("checkpoint", "export", "--safetensors", "without.safetensors", "without")
    for words, sentence in ((["generate", "--ema", "without"], "no averages of its weights"),
                            (["checkpoint", "export", "--ema", "--safetensors", "no.safetensors", "without"], "no averages of its weights"),
                            (["checkpoint", "export", "--ema", "--states", "--safetensors", "no.safetensors", "one"], "averages of weights have none"),
                            (["train", "gpt.toml", "model.init_ema=true"], "model.init_from says from nowhere"),
                            (["train", "gpt.toml", "model.init_ema=true", "model.init_from=without"], "no averages of its weights"),
                            (["train", "gpt.toml", "model.init_ema=true", "model.init_from=without.safetensors"], "is of checkpoints")):
        err = runs.tessera(*words, code=2).err
        assert sentence in err and err.count("\n") == 1, f"{words}: expected {sentence!r}, got:\n{err}"
    for value in ("1", "-0.1", "nan"):
        err = runs.tessera("train", "gpt.toml", f"training.ema_decay={value}", code=2).err
        assert "training.ema_decay" in err and "must be at least 0 and below 1" in err and err.count("\n") == 1, err


with runs.folder():
    runs.write_text("text.txt", 4000)
    runs.write_config("gpt.toml", KEYS)
    check_torch()
    check_layouts()
    check_evaluation()
    check_begun_later()
    check_taken()
    check_adapters()
    check_refusals()

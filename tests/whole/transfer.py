# SPDX-License-Identifier: Apache-2.0
"""Weights to start from: of a checkpoint, a file and a folder, by rules of names, with new heads, on one rank and on several;
and low-rank adapters, which train while the weights stay, and are merged into them on export."""
import os
import pathlib
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import runs

LLAMA = {"model.norm": "rms_norm", "model.position_embedding": "rope", "model.gated_mlp": True, "model.activation": "silu",
         "model.n_kv_heads": 2}
KEYS = {
    "data.reader": "synthetic", "data.vocab_size": 40, "model.n_layers": 2, "model.n_heads": 4, "model.dim": 32, "model.bias": True,
    "model.activation": "gelu_tanh",
    "training.steps": 4, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2,
    "optimizer.lr": 1e-2, "lr_scheduler.warmup_steps": 0, "metrics.log_every": 1,
}
UNTRAINED = ["training.steps=1", "optimizer.lr=0"]
LORA = ["lora.rank=4", "lora.alpha=8", 'lora.targets=["*"]']


def tensors(run):
    found = runs.read_tensors(runs.checkpoints(run)[-1])
    return {name: array for name, array in found.items() if not name.startswith(("optimizer.", "metadata"))}


def log_of(run):
    return pathlib.Path(run, "logs", "rank-0000.log").read_text(encoding="utf-8")


def taken(what, run, source, started=()):
    """Of `run`, which trained nothing, all but `started` are the source's."""
    for name, array in tensors(run).items():
        same = np.array_equal(array, source.get(name))
        assert same == (name not in started), f"{what}: {name} is {'' if same else 'not '}the source's"


def check_sources():
    runs.train("gpt.toml", "run.folder=first")
    source = tensors("first")
    runs.tessera("checkpoint", "export", "--safetensors", "first.safetensors", "first")
    runs.tessera("checkpoint", "export", "--llmc", "first.bin", "first")
    runs.tessera("checkpoint", "export", "--hugging-face", "first-hf", "first")
    for path in ("first", runs.checkpoints("first")[-1], "first.safetensors", "first.bin", "first-hf"):
        name = f"from-{pathlib.Path(path).name}"
        runs.train("gpt.toml", f"run.folder={name}", f"model.init_from={path}", "training.seed=9", *UNTRAINED)
        taken(path, name, source)
        assert f"{len(source)} of {len(source)} weights are those of {path}" in log_of(name), log_of(name)
    for name, words, ranks in (("tensor", ["parallelism.tensor_parallel_degree=2"], 2), ("zero", ["parallelism.zero_stage=3"], 2),
                               ("stages", ["parallelism.pipeline_parallel_degree=2"], 2)):
        runs.train("gpt.toml", f"run.folder={name}", "model.init_from=first-hf", "training.seed=9", *UNTRAINED, *words, ranks=ranks)
        taken(name, name, source)
    runs.train("gpt.toml", "run.folder=from-first", "training.steps=2", "training.seed=9")  # goes on, though it says no longer from where
    assert runs.newest("from-first") == 2
    return source


def check_heads_and_names(source):
    """Another head, one layer less, fewer positions, and layers under other names."""
    runs.train("gpt.toml", "run.folder=head", "model.init_from=first", "model.tied_head=false", "training.seq_len=12",
               "model.n_layers=1", "training.seed=9", *UNTRAINED)
    cut = {**source, "position.weight": source["position.weight"][:12]}
    taken("a new head", "head", cut, ["head.weight"])
    log = log_of("head")
    assert "at random: head.weight; not taken: layers.1." in log, log
    second = {name.replace("layers.1.", "layers.0."): array for name, array in source.items() if not name.startswith("layers.0.")}
    runs.train("gpt.toml", "run.folder=renamed", "model.init_from=first", "model.n_layers=1", "training.seed=9",
               'model.init_rename=["layers.0.=layers.1."]', 'model.init_skip=["*.mlp.up.weight"]', *UNTRAINED)
    taken("renamed", "renamed", second, ["layers.0.mlp.up.weight"])
    for words, sentence in (
            (["model.dim=16"], 'starts it at random: model.init_skip = ["'),
            (["model.init_rename=[\"a\"]"], "'a' is no rule OURS=THEIRS"),
            (["model.init_rename=[\"=x\"]"], "holds none of the model's"),
            (["model.init_from=nowhere"], "nowhere"),
            (["model.init_from=", "model.init_skip=[\"a\"]"], "model.init_from says from nowhere")):
        err = runs.tessera("train", "gpt.toml", "run.folder=refused", "model.init_from=first", *words, code=2).err
        assert sentence in err, err


def check_adapters(name, config, linears):
    """Only they change, alike on any number of ranks; merged, the model is the adapted one."""
    runs.train(config, f"run.folder={name}-base")
    base = tensors(f"{name}-base")
    runs.train(config, f"run.folder={name}-few", "lora.rank=1", *UNTRAINED)
    few = sorted(set(tensors(f"{name}-few")) - set(base))
    assert few == sorted(f"layers.{layer}.attention.{linear}.lora_{kind}" for layer in (0, 1) for linear in ("qkv", "out") for kind in "ab")
    words = [f"model.init_from={name}-base", "training.steps=12", "training.seed=9", *LORA]
    runs.train(config, f"run.folder={name}-lora", *words)
    adapted = tensors(f"{name}-lora")
    adapters = sorted(set(adapted) - set(base))
    assert len(adapters) == 2 * linears * 2 and all(".lora_" in adapter for adapter in adapters), adapters
    taken("adapters", f"{name}-lora", base, adapters)
    states = {entry.split("/")[-1] for entry in runs.read_tensors(runs.checkpoints(f"{name}-lora")[-1]) if entry.startswith("optimizer.")}
    assert states == set(adapters), f"states of {states}"
    assert "are trained" in log_of(f"{name}-lora")
    losses = [float(record["loss"]) for record in runs.metrics(f"{name}-lora", "step")]
    assert losses[-1] < losses[0] - 0.01, f"{name}: adapters learn nothing: {losses}"
    for folder, extra, ranks in (("2", [], 2), ("zero", ["parallelism.zero_stage=3"], 2),
                                 ("stages", ["parallelism.pipeline_parallel_degree=2"], 2)):
        runs.train(config, f"run.folder={name}-lora-{folder}", *words, *extra, ranks=ranks)
        runs.expect_same(runs.read(f"{name}-lora"), runs.read(f"{name}-lora-{folder}"), f"{name}: adapters on {folder}")
    runs.train(config, f"run.folder={name}-lora-tensor", *words, "parallelism.tensor_parallel_degree=2", ranks=2)
    cut = [float(record["loss"]) for record in runs.metrics(f"{name}-lora-tensor", "step")]
    assert np.allclose(losses, cut, atol=1e-5, rtol=0), f"{name}: tensor parallel: {losses} and {cut}"

    runs.tessera("checkpoint", "export", "--hugging-face", f"{name}-merged", f"{name}-lora")
    assert not pathlib.Path(f"{name}-merged.merged").exists()
    runs.tessera("checkpoint", "import", f"{name}-merged", "--to", f"{name}-again")
    merged = tensors(f"{name}-again")
    assert sorted(merged) == sorted(base), "adapters are left"
    for adapter in adapters:
        if adapter.endswith(".lora_b"):
            layer = adapter.removesuffix(".lora_b")
            b, a = adapted[adapter], adapted[f"{layer}.lora_a"]
            expected = base[f"{layer}.weight"] + 2 * np.tensordot(b, a, 1).reshape(base[f"{layer}.weight"].shape)
            assert np.abs(b).max() > 0 and np.allclose(merged[f"{layer}.weight"], expected, atol=1e-6), layer
    ids = ",".join(map(str, range(1, 13)))
    for run in (f"{name}-lora", f"{name}-again"):
        runs.tessera("generate", run, "--ids", ids, "--logits", f"{run}.npy")
    apart = np.abs(np.load(f"{name}-lora.npy") - np.load(f"{name}-again.npy")).max()
    assert apart < 1e-5, f"{name}: merged, logits differ by {apart:.1e}"


with runs.folder():
    runs.write_config("gpt.toml", KEYS)
    runs.write_config("llama.toml", {**KEYS, **LLAMA, "model.bias": False})
    check_heads_and_names(check_sources())
    check_adapters("gpt", "gpt.toml", 4)
    check_adapters("llama", "llama.toml", 5)

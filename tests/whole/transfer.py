# SPDX-License-Identifier: Apache-2.0
"""Weights to start from: of a checkpoint, a file and a folder, by rules of names, with new heads, on one rank and on several;
and low-rank adapters, which train while the weights stay, and are merged into them on export: of a ViT and of layers, too."""
import json
import os
import pathlib
import struct
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


def check_other_exports():
    """ONNX and llm.c of a model with adapters have the merged one's weights; llm.c's file is the same, byte for byte."""
    for kind in ("onnx", "llmc"):
        for run in ("gpt-lora", "gpt-again"):
            runs.tessera("checkpoint", "export", f"--{kind}", f"{run}.{kind}", run)
    files = [pathlib.Path(f"{run}.llmc").read_bytes() for run in ("gpt-lora", "gpt-again")]
    assert files[0] == files[1] and len(files[0]) > 40_000, f"llm.c: {len(files[0])} bytes, merged {len(files[1])}"
    merged = tensors("gpt-again")
    files = [pathlib.Path(f"{run}.onnx").read_bytes() for run in ("gpt-lora", "gpt-again")]
    for file in files:
        whole = [name for name, array in merged.items() if name.endswith("mlp.up.weight") and array.T.astype("<f4").tobytes() in file]
        assert len(whole) == 2, f"ONNX holds {whole} alone"


IMAGES = {"data.reader": "idx", "data.files": ["images"], "data.label_files": ["labels"], "data.image_shape": [8, 8, 1], "data.classes": 4}
OTHERS = {  # of each: keys, and how many layers have adapters where all may
    "vit": ({"model.type": "vit", "model.patch_size": 4, "model.bias": True, **IMAGES}, 9),
    "layers": ({"model.type": "layers", **IMAGES}, 2),
}
LAYERS = """
[[model.layers]]
type = "flatten"
[[model.layers]]
name = "fc1"
type = "linear"
outputs = 24
[[model.layers]]
type = "relu"
[[model.layers]]
name = "fc2"
type = "linear"
outputs = 4
[[model.layers]]
type = "cross_entropy"
"""


def write_images():
    draw = np.random.default_rng(5)
    labels = np.arange(64) % 4
    pixels = draw.integers(0, 120, (64, 8, 8))
    for image, label in zip(pixels, labels):
        image[label // 2 * 4:label // 2 * 4 + 4, label % 2 * 4:label % 2 * 4 + 4] += 60
    runs.write_idx("images", pixels)
    runs.write_idx("labels", labels)


def write_other(name):
    keys = {**{key: value for key, value in KEYS.items() if key not in ("model.bias", "model.activation")}, "data.validation_fraction": 0.25,
            **OTHERS[name][0]}
    of_text = ("data.vocab_size", "training.seq_len")
    of_blocks = ("model.n_layers", "model.n_heads", "model.dim")
    left_out = (*of_text, *of_blocks) if name == "layers" else of_text if name == "vit" else ()
    runs.write_config(f"{name}.toml", {key: value for key, value in keys.items() if key not in left_out})
    if name == "layers":
        with open("layers.toml", "a", encoding="utf-8") as config:
            config.write(LAYERS)


def check_other_adapters(name):
    """As check_adapters, of models that write no text: what merged weights come to is told by an evaluation."""
    config, linears = f"{name}.toml", OTHERS[name][1]
    runs.train(config, f"run.folder={name}-base")
    base = tensors(f"{name}-base")
    words = [f"model.init_from={name}-base", "training.steps=12", "training.seed=9", *LORA]
    runs.train(config, f"run.folder={name}-lora", *words)
    adapters = sorted(set(tensors(f"{name}-lora")) - set(base))
    assert len(adapters) == 2 * linears and all(".lora_" in adapter for adapter in adapters), f"{name}: {len(adapters)} {adapters}"
    taken(name, f"{name}-lora", base, adapters)
    losses = [float(record["loss"]) for record in runs.metrics(f"{name}-lora", "step")]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]), f"{name}: adapters learn nothing: {losses}"
    runs.train(config, f"run.folder={name}-lora-2", *words, "parallelism.zero_stage=2", ranks=2)
    runs.expect_same(runs.read(f"{name}-lora"), runs.read(f"{name}-lora-2"), f"{name}: adapters on 2 ranks")
    runs.tessera("checkpoint", "export", "--safetensors", f"{name}-merged.safetensors", f"{name}-lora")
    runs.tessera("checkpoint", "import", f"{name}-merged.safetensors", "--to", f"{name}-again", "--config", config)
    assert sorted(tensors(f"{name}-again")) == sorted(base), f"{name}: adapters are left"
    found, merged, before = (float(runs.tessera("evaluate", run).out.split("loss: ")[1].split()[0])
                             for run in (f"{name}-lora", f"{name}-again", f"{name}-base"))
    assert abs(found - merged) < 1e-4 < abs(found - before), f"{name}: loss {found}, merged {merged}, without adapters {before}"


def write_bare_vit(folder, to):
    """The folder of a classifier as transformers writes a ViTModel: without a prefix and the classifier, with a pooler."""
    data = pathlib.Path(folder, "model.safetensors").read_bytes()
    behind = 8 + struct.unpack("<Q", data[:8])[0]
    header, parts, at = {}, [], 0
    stored = {name.removeprefix("vit."): entry for name, entry in json.loads(data[8:behind]).items() if name.startswith("vit.")}
    stored["pooler.dense.weight"] = stored["encoder.layer.0.attention.output.dense.weight"]
    for name, entry in stored.items():
        part = data[behind + entry["data_offsets"][0]:behind + entry["data_offsets"][1]]
        header[name] = {**entry, "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    text = json.dumps(header).encode()
    pathlib.Path(to).mkdir()
    pathlib.Path(to, "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    config = json.loads(pathlib.Path(folder, "config.json").read_text(encoding="utf-8"))
    pathlib.Path(to, "config.json").write_text(json.dumps({**config, "architectures": ["ViTModel"]}), encoding="utf-8")


def check_bare_vit():
    """A new head on a backbone; which is no model by itself."""
    runs.tessera("checkpoint", "export", "--hugging-face", "vit-hf", "vit-base")
    write_bare_vit("vit-hf", "vit-bare")
    runs.train("vit.toml", "run.folder=vit-tuned", "model.init_from=vit-bare", "training.seed=9", *UNTRAINED)
    base = tensors("vit-base")
    taken("a ViTModel", "vit-tuned", {name: array for name, array in base.items() if name != "head.bias"},
          ["head.weight", "head.bias"])
    log = log_of("vit-tuned")
    assert "at random: head.bias, head.weight" in log or "at random: head.weight, head.bias" in log, log
    err = runs.tessera("checkpoint", "import", "vit-bare", "--to", "vit-refused", "--config", "vit.toml", code=2).err
    assert "has no tensor 'classifier." in err and err.count("\n") == 1, err


with runs.folder():
    runs.write_config("gpt.toml", KEYS)
    runs.write_config("llama.toml", {**KEYS, **LLAMA, "model.bias": False})
    check_heads_and_names(check_sources())
    check_adapters("gpt", "gpt.toml", 4)
    check_adapters("llama", "llama.toml", 5)
    check_other_exports()
    write_images()
    for family in OTHERS:
        write_other(family)
        check_other_adapters(family)
    check_bare_vit()

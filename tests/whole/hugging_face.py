# SPDX-License-Identifier: Apache-2.0
"""Folders that transformers has written are imported, give its logits, and exported are loaded by it and give them again:
with one file and with several, with prefixes and without, in f32 and in bf16."""
import json
import os
import pathlib
import shutil
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import peer_packages
import runs

peer_packages.use("transformers")
import hub_files
import safetensors.torch
import torch
import transformers

transformers.utils.logging.disable_progress_bar()

LOGITS = 1e-4  # absolute; they are a few units large
IDS = [3, 1, 41, 5, 9, 26, 5, 35, 8, 9, 7, 0]


def their_logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([IDS])).logits[0].numpy()


def our_logits(run):
    path = pathlib.Path(f"{run}.npy")
    runs.tessera("generate", run, "--ids", ",".join(map(str, IDS)), "--logits", path)
    logits = np.load(path)
    path.unlink()
    return logits


def near(what, found, expected, allowed=LOGITS):
    error = np.abs(found - expected).max()
    assert found.shape == expected.shape and error < allowed, f"{what}: logits differ by {error:.1e}"
    assert np.ptp(expected) > 1, f"{what}: the logits say nothing"
    return error


def random_model(kind, config):
    """With weights so large that a wrong order of any tensor shows in the logits, biases and scales among them."""
    torch.manual_seed(3)
    model = kind(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn_like(weight) * 0.2 + (1.0 if "ln_" in name or "norm" in name else 0.0))
    return model


def check_round_trip(name, model):
    model.save_pretrained(name)
    expected = their_logits(model)
    runs.tessera("checkpoint", "import", name, "--to", f"run-{name}")
    error = near(f"{name} imported", our_logits(f"run-{name}"), expected)
    runs.tessera("checkpoint", "export", "--hugging-face", f"out-{name}", f"run-{name}")
    again = type(model).from_pretrained(f"out-{name}")
    assert np.array_equal(their_logits(again), expected), f"{name}: exported, other logits"
    for weight, back in zip(model.parameters(), again.parameters()):
        assert torch.equal(weight, back), f"{name}: exported, other weights"
    print(f"{name}: logits within {error:.1e}, exported the same")
    return expected


def check_files(name, model, expected, wide):
    """Several files with an index, both ways; and rounded to bf16."""
    hub_files.check(f"{name}-wide", wide)
    model.save_pretrained(f"{name}-files", max_shard_size="5KB")
    assert len(list(pathlib.Path(f"{name}-files").glob("*.safetensors"))) > 2
    runs.tessera("checkpoint", "import", f"{name}-files", "--to", f"run-{name}-files")
    near(f"{name} of several files", our_logits(f"run-{name}-files"), expected)
    runs.tessera("checkpoint", "export", "--hugging-face", f"out-{name}-bf16", "--dtype", "bf16", f"run-{name}")
    stored = safetensors.torch.load_file(f"out-{name}-bf16/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    runs.tessera("checkpoint", "import", f"out-{name}-bf16", "--to", f"run-{name}-bf16")
    rounded = model.to(torch.bfloat16).to(torch.float32)
    near(f"{name} in bf16", our_logits(f"run-{name}-bf16"), their_logits(rounded))


def check_gpt2():
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=24, vocab_size=50, n_inner=40,
                                     layer_norm_epsilon=1e-3, activation_function="gelu_new")
    model = random_model(transformers.GPT2LMHeadModel, config)
    expected = check_round_trip("gpt2", model)
    model.transformer.save_pretrained("gpt2-bare")  # as the hub's own: without the prefix
    runs.tessera("checkpoint", "import", "gpt2-bare", "--to", "run-gpt2-bare")
    near("gpt2 without prefix", our_logits("run-gpt2-bare"), expected)
    wide = random_model(transformers.GPT2LMHeadModel, transformers.GPT2Config(n_layer=1, n_head=2, n_embd=128,
                                                                                    n_positions=16, vocab_size=2000))
    check_files("gpt2", model, expected, wide)


def llama_config(**changes):
    return transformers.LlamaConfig(**{
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48, "intermediate_size": 40,
        "vocab_size": 50, "max_position_embeddings": 24, "rms_norm_eps": 1e-4, "rope_theta": 1000.0, **changes})


def check_llama():
    """Heads that share keys and heads that do not, a head of its own width, biases, a tied head, both ways to scale angles."""
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 12}
    for name, changes in {
        "llama": {},
        "llama-alike": {"num_key_value_heads": 6, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        "llama-3": {"rope_scaling": llama3, "head_dim": 16, "num_key_value_heads": 1},
        "llama-linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.5}, "attention_bias": True, "mlp_bias": True},
    }.items():
        check_round_trip(name, random_model(transformers.LlamaForCausalLM, llama_config(**changes)))
    for name in ("llama", "llama-3", "llama-linear"):  # as transformers 5 says it
        said = json.loads(pathlib.Path(name, "config.json").read_text(encoding="utf-8"))
        scaling = said.pop("rope_scaling") or {"rope_type": "default"}
        said["rope_parameters"] = {**scaling, "rope_theta": said.pop("rope_theta")}
        shutil.copytree(name, f"{name}-5")
        pathlib.Path(f"{name}-5", "config.json").write_text(json.dumps(said), encoding="utf-8")
        runs.tessera("checkpoint", "import", f"{name}-5", "--to", f"run-{name}-5")
        assert np.array_equal(our_logits(f"run-{name}-5"), our_logits(f"run-{name}")), f"{name}: other angles from rope_parameters"
    hub_files.check("llama-wide", random_model(transformers.LlamaForCausalLM, llama_config(
        num_hidden_layers=1, hidden_size=120, vocab_size=2000)))
    plain, scaled = (our_logits(f"run-{name}") for name in ("llama", "llama-alike"))
    assert np.abs(plain - scaled).max() > 10 * LOGITS, "the models are one"


def check_goes_on():
    """Trained further with the config that the import wrote, and other parts of it said on the line."""
    words = ["data.reader=synthetic", "training.steps=3", "training.global_batch_size=4", "optimizer.lr=1e-3",
             "metrics.log_every=1", "run.folder=run-gpt2", "data.vocab_size=50"]
    runs.tessera("train", "run-gpt2/model.toml", *words)
    assert runs.newest("run-gpt2") == 3


def check_adapters():
    """Low-rank adapters are merged into what is exported: theirs tells what our model with adapters does."""
    words = ["data.reader=synthetic", "data.vocab_size=50", "training.steps=5", "training.global_batch_size=4", "optimizer.lr=0.05", "run.folder=run-adapted"]
    runs.train("run-llama/model.toml", *words, "model.init_from=llama", "lora.rank=2", "lora.targets=['*']")
    runs.tessera("checkpoint", "export", "--hugging-face", "out-adapted", "run-adapted")
    merged = their_logits(transformers.LlamaForCausalLM.from_pretrained("out-adapted"))
    error = near("llama with adapters", our_logits("run-adapted"), merged)
    assert np.abs(merged - our_logits("run-llama")).max() > 1000 * LOGITS, "the adapters do nothing"
    print(f"llama with adapters, merged: logits within {error:.1e}")


def check_refusals():
    folder = pathlib.Path("gpt2-odd")
    folder.mkdir()
    said = json.loads(pathlib.Path("gpt2/config.json").read_text(encoding="utf-8"))

    def refused(sentence, **changes):
        (folder / "config.json").write_text(json.dumps({**said, **changes}), encoding="utf-8")
        found = runs.tessera("checkpoint", "import", folder, "--to", "run-odd", code=2).err
        assert sentence in found, found

    refused("gpt2-odd has neither model.safetensors nor model.safetensors.index.json")
    refused('model_type = "gpt3": no family of models named \'gpt3\'', model_type="gpt3")
    refused('activation_function = "mish": expected gelu_new', activation_function="mish")
    refused("add_cross_attention = true: is not computed here", add_cross_attention=True)
    refused("'n_layer' is missing: a whole number", n_layer=None)
    (folder / "model.safetensors").write_bytes(pathlib.Path("gpt2/model.safetensors").read_bytes())
    refused("tensor 'transformer.wpe.weight' is (24, 16), the model's 'position.weight' wants (25, 16)", n_positions=25)
    refused("has no tensor 'transformer.h.2.ln_1.weight', of which 'layers.2.attention_norm.scale' is made", n_layer=3)
    refused("no tensor of the model named 'transformer.h.1.", n_layer=1)
    said = json.loads(pathlib.Path("llama/config.json").read_text(encoding="utf-8"))
    refused('rope_scaling.rope_type = "yarn": expected default, linear or llama3', rope_scaling={"rope_type": "yarn", "factor": 4.0})
    for table, sentence in (({"rope_type": "yarn", "factor": 4.0}, 'rope_parameters.rope_type = "yarn": expected default, linear or llama3'),
                            ({"rope_type": "default", "partial_rotary_factor": 0.5}, "rope_parameters.partial_rotary_factor = 0.5: is not computed here"),
                            ({"rope_type": "default", "rope_theta": "big"}, 'rope_parameters.rope_theta = "big"'),
                            ({"full_attention": {"rope_type": "default"}}, "angles that are not the same in all layers are not computed here")):
        refused(sentence, rope_parameters=table)
    refused("rope_parameters.factor = 2: stands beside rope_scaling, which says the same in another way", rope_scaling={"rope_type": "linear", "factor": 4.0},
            rope_parameters={"factor": 2})
    refused("mlp_bias = true: here either all linear layers have biases or none", mlp_bias=True)
    assert "is there already" in runs.tessera("checkpoint", "export", "--hugging-face", "gpt2", "run-gpt2", code=2).err


with runs.folder():
    check_gpt2()
    check_llama()
    check_goes_on()
    check_adapters()
    check_refusals()

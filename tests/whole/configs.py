# SPDX-License-Identifier: Apache-2.0
"""Every config in configs/ trains for two steps, made small where it is large, on data of its form; and has as many parameters as
it says it has, where its data are not needed to tell."""
import os
import pathlib
import re
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import runs

CONFIGS = pathlib.Path(os.environ["TESSERA_SOURCE"], "configs")
SMALL = ["model.n_layers=1", "model.n_heads=4", "model.dim=32", "training.seq_len=16"]
TEXT = ["data.files=['text.txt']"]
FASHION = ["data.files=['images']", "data.label_files=['labels']", "data.validation_files=['images']", "data.validation_label_files=['labels']"]
IMAGENET = ["data.files=['large-images']", "data.label_files=['labels']", "data.validation_files=['large-images']",
            "data.validation_label_files=['labels']", "data.image_shape=[32,32,3]", "model.layers.fc.outputs=10", "data.classes=10"]
WORDS = {  # of each config: what stands in for its data, and what makes it small
    "bert_char": TEXT,
    "bert_classifier": ["data.files=['verses.tsv']", "data.vocab_size=60"],
    "gpt2_124m": SMALL,
    "gpt2_1558m": SMALL,
    "gpt2_355m": SMALL,
    "gpt2_774m": SMALL,
    "gpt_70b": [*SMALL, "model.n_kv_heads=2", "model.hidden_dim=64"],
    "gpt_char": TEXT,
    "gpt_char_gpu": [*TEXT, *SMALL, "run.device=cpu"],
    "gpt_moe_char": TEXT,
    "gru_characters": TEXT,
    "lenet_fashion_mnist": FASHION,
    "llama_8b": [*SMALL, "model.n_kv_heads=2", "model.hidden_dim=64"],
    "llama_char": TEXT,
    "lstm_words": [*TEXT, "data.vocab_size=30", "model.layers.lstm.hidden=16"],
    "mlp_classifier": FASHION,
    "mlp_classifier_sgd": FASHION,
    "mlp_regression": [],
    "quickstart": TEXT,
    "resnet18": IMAGENET,
    "resnet50": IMAGENET,
    "resnet_fashion_mnist": FASHION,
    "t5_char": TEXT,
    "t5_pairs": ["data.validation_fraction=0.2"],
    "vit_fashion_mnist": FASHION,
}


WITH_DATA = {"bert_char", "bert_classifier", "gru_characters", "llama_char", "quickstart", "t5_char"}  # their vocabulary is what their text has
SAYS = {"bert_char", "bert_classifier", "gpt2_124m", "gpt2_1558m", "gpt2_355m", "gpt2_774m", "gpt_70b", "gru_characters",
        "lenet_fashion_mnist", "llama_8b", "llama_char", "lstm_words", "mlp_classifier", "mlp_classifier_sgd", "quickstart", "resnet18",
        "resnet50", "resnet_fashion_mnist", "t5_char", "vit_fashion_mnist"}


def write_data():
    draw = np.random.default_rng(4)
    runs.write_text("text.txt", 12_000)
    runs.write_idx("images", draw.integers(0, 256, (16, 28, 28)))
    runs.write_idx("large-images", draw.integers(0, 256, (16, 32, 32, 3)))
    runs.write_idx("labels", np.arange(16) % 10)
    texts = pathlib.Path("text.txt").read_text(encoding="utf-8")
    lines = [texts[at:at + 30] for at in range(0, 6000, 30)]
    pathlib.Path("verses.tsv").write_text("text\ttestament\n" + "".join(f"{line}\t{'old' if i % 3 else 'new'}\n" for i, line in enumerate(lines)))
    pathlib.Path("pairs.tsv").write_text("".join(f"{line}\t{line[::-1]}\n" for line in lines))
    rows = draw.normal(size=(60, 11))
    pathlib.Path("table.csv").write_text("\n".join([",".join([*"abcdefghij", "y"]), *(",".join(f"{x:.6f}" for x in row) for row in rows)]) + "\n")


def check_parameters(name):
    """"124,439,808 parameters", also over the end of a line, or "18.1 M parameters"."""
    comment = " ".join(line.removeprefix("#").strip() for line in (CONFIGS / f"{name}.toml").read_text(encoding="utf-8").splitlines()
                       if line.startswith("#"))
    said = re.search(r"([\d,]+|[\d.]+ M) parameters", comment)
    if not said or name in WITH_DATA:
        assert bool(said) == (name in SAYS), f"{name}: its comment says {said}"
        return
    planned = int(re.search(r"Parameters ([\d,]+)", runs.tessera("plan", CONFIGS / f"{name}.toml", "run.device=cpu").out)[1].replace(",", ""))
    millions = "M" in said[1]
    right = said[1] == f"{planned / 1e6:.1f} M" if millions else said[1] == f"{planned:,}"
    assert right, f"{name}: its comment says {said[1]}, the plan {planned:,}"
    print(f"{name}: {said[1]} parameters")
    assert name in SAYS, name


with runs.folder():
    write_data()
    found = {path.stem for path in CONFIGS.glob("*.toml")}
    assert found == set(WORDS), f"configs/ and this list are not the same: {found ^ set(WORDS)}"
    for name in sorted(WORDS):
        check_parameters(name)
        out = runs.train(CONFIGS / f"{name}.toml", f"run.folder={name}", "training.steps=2", "training.global_batch_size=4",
                         "training.local_batch_size=2", "metrics.evaluate_batches=1", "metrics.log_every=1", "checkpoint.interval=-1", *WORDS[name])
        losses = [float(record["loss"]) for record in runs.metrics(name, "step")]
        assert len(losses) == 2 and np.isfinite(losses).all(), f"{name}: {losses}\n{out.out}"
        print(name, losses)

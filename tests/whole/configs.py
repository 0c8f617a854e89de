# SPDX-License-Identifier: Apache-2.0
"""Every config in configs/ trains for two steps, made small where it is large, on data of its form; has as many parameters as it
says it has, where its data are not needed to tell; and promises figures that stand in RESULTS.md. Two keep their promise here:
the MLPs on Fashion-MNIST, after two epochs of ten, and on Friedman's function."""
import math
import os
import pathlib
import random
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
    "mlp_100_50_10": [],
    "mlp_100_50_100": [],
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
        "lenet_fashion_mnist", "llama_8b", "llama_char", "lstm_words", "mlp_100_50_10", "mlp_100_50_100", "mlp_classifier",
        "mlp_classifier_sgd", "quickstart", "resnet18", "resnet50", "resnet_fashion_mnist", "t5_char", "vit_fashion_mnist"}
# Logarithms of vocabularies, what others publish, a share of labels and a part of a formula.
NOT_OURS = {"10.9", "11.8", "9.2", "1.88", "1.4697", "0.736", "0.5"}


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


def write_tables():
    draw = np.random.default_rng(5)
    rows = draw.normal(size=(60, 200))
    pathlib.Path("numbers.csv").write_text("".join(",".join(f"{x:.4g}" for x in row) + "\n" for row in rows))
    pathlib.Path("classes.csv").write_text("".join(",".join(f"{x:.4g}" for x in row[:100]) + f",{i % 10}\n" for i, row in enumerate(rows)))


def comment_of(name):
    return " ".join(line.removeprefix("#").strip() for line in (CONFIGS / f"{name}.toml").read_text(encoding="utf-8").splitlines()
                    if line.startswith("#"))


def results_of(name):
    """Of RESULTS.md the rows of tables and the paragraphs that name this config; all of a section where there are no rows."""
    text = pathlib.Path(os.environ["TESSERA_SOURCE"], "tests", "benchmarks", "RESULTS.md").read_text(encoding="utf-8")
    named = re.compile(rf"\b{name}\b")
    rows = [line for line in text.splitlines() if line.startswith("|") and named.search(line)]
    blocks = [block for block in text.split("\n\n" if rows else "\n## ") if named.search(block) and not block.startswith("|")]
    return "\n".join(rows + blocks)


def check_expectation(name):
    """Each figure of what to expect is one of RESULTS.md, rounded; or it is said that there is none."""
    comment = comment_of(name)
    assert "Expect" in comment, f"{name}: its comment does not say what to expect"
    results = "\n".join(results_of(other) for other in WORDS if re.search(rf"\b{other}\b", f"{comment} {name}"))
    measured = [float(figure.replace(",", "")) for figure in re.findall(r"\d[\d,]*\.?\d*", results)]
    said = set(re.findall(r"(?<![\d.,])(\d+\.\d+)(?![\d.]| MB?\b)|\b(\d[\d,]*)(?= m?s\b)", comment.partition("Expect")[2]))
    said = {decimal or integer for decimal, integer in said} - NOT_OURS
    assert said or re.search("not been run", comment), f"{name}: its comment promises nothing"
    for figure in said:
        half = 0.5 * 10.0 ** -len(figure.partition(".")[2])
        assert any(abs(value - float(figure.replace(",", ""))) <= half * 1.001 for value in measured), (
            f"{name}: its comment says {figure}, which RESULTS.md does not")
    print(f"{name}: {sorted(said)} measured")


def check_promises():
    """Two epochs of the ten of the MLP on Fashion-MNIST, of which 0.8666 was seen, and the whole run on Friedman's function (1.48)."""
    draw = random.Random(1)
    with open("table.csv", "w", encoding="utf-8") as table:
        table.write(",".join([*"abcdefghij", "y"]) + "\n")
        for _ in range(10_000):
            x = [draw.random() for _ in range(10)]
            y = 10 * math.sin(math.pi * x[0] * x[1]) + 20 * (x[2] - 0.5) ** 2 + 10 * x[3] + 5 * x[4] + draw.gauss(0, 1)
            table.write(",".join(f"{number:.6f}" for number in [*x, y]) + "\n")
    for name, words, field, good in (
            ("mlp_classifier", ["training.steps=940", "metrics.evaluate_every=940"], "accuracy", lambda found: found > 0.86),
            ("mlp_regression", [], "loss", lambda found: found < 1.6)):
        runs.train(CONFIGS / f"{name}.toml", f"run.folder=whole-{name}", "checkpoint.interval=-1", *words)
        found = float(runs.metrics(f"whole-{name}", "evaluation")[-1][field])
        assert good(found), f"{name}: {field} {found}"
        print(f"{name}: {field} {found}")


def check_parameters(name):
    """"124,439,808 parameters", also over the end of a line, or "18.1 M parameters"."""
    comment = comment_of(name)
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
    write_tables()
    found = {path.stem for path in CONFIGS.glob("*.toml")}
    assert found == set(WORDS), f"configs/ and this list are not the same: {found ^ set(WORDS)}"
    for name in sorted(WORDS):
        check_expectation(name)
        check_parameters(name)
        out = runs.train(CONFIGS / f"{name}.toml", f"run.folder={name}", "training.steps=2", "training.global_batch_size=4",
                         "training.local_batch_size=2", "metrics.evaluate_batches=1", "metrics.log_every=1", "checkpoint.interval=-1", *WORDS[name])
        losses = [float(record["loss"]) for record in runs.metrics(name, "step")]
        assert len(losses) == 2 and np.isfinite(losses).all(), f"{name}: {losses}\n{out.out}"
        print(name, losses)
    check_promises()

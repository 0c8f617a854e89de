# SPDX-License-Identifier: Apache-2.0
"""BERT, its classifier of texts, ViT and T5 against PyTorch: from the same weights the gradients of the first step and the losses of 50 steps agree, with
padding, token types and masks drawn by a second implementation; the same bits on 1, 2 and 4 ranks; and what they refuse."""
import os
import pathlib
import struct
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import parity
import reference_encoders
import runs
import torch
from torch.nn import functional

STEPS, BATCH, MICRO_BATCH, TIME, VOCABULARY, SEED = parity.STEPS, 8, 2, 24, 41, 7
PADDING, SEPARATOR, CLASS = 0, 5, 9
MOMENT = "optimizer.first_moment/"
RATE, SLOW = 3e-3, 1e-3  # at the first, roundings in models of classes grow a thousandfold in 50 steps

COMMON = {
    "model.n_layers": 2, "model.n_heads": 2, "model.dim": 32, "model.hidden_dim": 48, "model.bias": True, "model.norm_eps": 1e-6,
    "training.steps": STEPS, "training.global_batch_size": BATCH, "training.local_batch_size": MICRO_BATCH,
    "training.seed": SEED, "training.max_norm": 0.0,
    "optimizer.lr": RATE, "optimizer.weight_decay": 0.0, "lr_scheduler.type": "constant", "lr_scheduler.warmup_steps": 0,
    "metrics.evaluate_every": 0, "checkpoint.interval": 0,
}
BERT = {
    **COMMON, "data.reader": "tokens", "data.files": ["tokens.bin"], "data.vocab_size": VOCABULARY, "data.order": "sequential",
    "data.validation_fraction": 0.2, "model.type": "bert", "model.padding_token": PADDING, "model.separator_token": SEPARATOR,
    "model.class_token": CLASS, "model.mask_probability": 0.2, "training.seq_len": TIME,
}
CLASSIFIER = {
    **COMMON, "optimizer.lr": SLOW, "data.reader": "labelled", "data.files": ["table.tsv"], "data.delimiter": "\t", "data.text_columns": ["first", "second"],
    "data.label_column": "kind", "data.tokenizer": "byte", "data.order": "sequential", "data.validation_fraction": 1 / 3,
    "model.type": "bert", "training.seq_len": 16,
}
VIT = {
    **COMMON, "optimizer.lr": SLOW, "data.reader": "idx", "data.files": ["images"], "data.label_files": ["labels"], "data.order": "sequential",
    "data.validation_fraction": 0.25, "model.type": "vit", "model.patch_size": 4,
}
T5 = {
    **{key: value for key, value in BERT.items() if key not in ("model.separator_token", "model.class_token", "model.mask_probability")},
    "model.type": "t5", "model.bias": False, "model.norm": "rms_norm", "model.activation": "relu",
    "model.relative_buckets": 8, "model.relative_max_distance": 20, "model.decoder_layers": 3,
}


def write_data():
    """A chain in which a token half decides the next; and images whose bright quarter is their class."""
    draw = np.random.default_rng(5)
    tokens = [7]
    for fresh, noise in zip(draw.random(3000) < 0.4, draw.integers(0, VOCABULARY, 3000)):
        tokens.append(int(noise) if fresh else (3 * tokens[-1] + 11) % VOCABULARY)
    for start in range(0, len(tokens), 5 * TIME):  # a window of five is half padding: fewer of its tokens are masked
        tokens[start + TIME // 2:start + TIME] = [PADDING] * len(tokens[start + TIME // 2:start + TIME])
    runs.write_tokens("tokens.bin", tokens)
    labels = np.arange(64) % 4
    pixels = draw.integers(0, 120, (64, 8, 8))
    for image, label in zip(pixels, labels):
        image[label // 2 * 4:label // 2 * 4 + 4, label % 2 * 4:label % 2 * 4 + 4] += 60
    for path, array in (("images", pixels), ("labels", labels)):
        header = struct.pack(">I", 0x0800 | array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        pathlib.Path(path).write_bytes(header + array.astype(np.uint8).tobytes())
    train = pixels[:48].astype(np.float64)
    return np.array(tokens), torch.tensor((pixels - train.mean()) / train.std()).unsqueeze(1), torch.tensor(labels)


def gradients_of(tensors, names):
    """What Adam's first moment says after one step; of attention without keys' biases, of which softmax takes no notice."""
    found = {name: tensors[MOMENT + name.replace("_.weight", ".weight")] / np.float32(0.1) for name in names}
    return {name: gradient[::2] if name.endswith("attention.qkv.bias") else gradient for name, gradient in found.items()}


def check_parity(what, load, loss_of_step, rate=RATE):
    """loss_of_step(model, step) is the mean loss of a step's batch."""
    runs.train(f"{what}.toml", "run.folder=start", "training.steps=1", "optimizer.lr=0", "checkpoint.resume=never")
    start = runs.checkpoints("start")[-1]
    tensors, model = runs.read_tensors(start), load(start)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.95), eps=1e-8)
    expected = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of_step(model, step)
        loss.backward()
        expected.append(loss.item())
        if step == 0:
            gradients = model.as_numpy(lambda parameter: parameter.grad)
            parity.expect_gradients(what, gradients_of(tensors, gradients), {
                name: gradient[::2] if name.endswith("attention.qkv.bias") else gradient for name, gradient in gradients.items()})
        optimizer.step()
    runs.train(f"{what}.toml", f"run.folder={what}")
    parity.expect_losses(what, what, expected, falls=0.02)
    return load(runs.checkpoints(what)[-1])


def check_bert(tokens):
    windows = (int(len(tokens) * 0.8) - TIME - 1) // TIME + 1
    masking = {"seed": SEED, "chosen": round(0.2 * TIME), "mask": VOCABULARY, "below": VOCABULARY, "kept": (PADDING, SEPARATOR, CLASS)}

    def load(folder):
        return reference_encoders.load(reference_encoders.Bert, folder, n_heads=2, eps=1e-6, masking=masking, padding=PADDING,
                                       separator=SEPARATOR)

    def loss_of_step(model, step):
        rows = np.stack([tokens[start:start + TIME] for start in (index % windows * TIME for index in range(step * BATCH, (step + 1) * BATCH))])
        return model.loss(torch.from_numpy(rows), None)

    check_parity("bert", load, loss_of_step)


LABELS = ("far", "middle", "near")


def write_pairs_of_texts():
    """72 pairs of texts, of several lengths, whose label is which letters are frequent."""
    draw, lines, rows = np.random.default_rng(11), ["id\tfirst\tkind\tsecond"], []
    for i, kind in enumerate(draw.integers(0, 3, 72).tolist()):
        first, second = ("".join(chr(97 + 2 * kind + letter) if usual else chr(97 + any_letter) for usual, letter, any_letter in zip(
            draw.random(length) < 0.8, draw.integers(0, 2, length), draw.integers(0, 6, length))) for length in draw.integers(1, 11, 2))
        lines.append(f"{i}\t{first}\t{LABELS[kind]}\t{second}")
        rows.append((first, second, kind))
    pathlib.Path("table.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rows


def as_sample(first, second, room):
    """Bytes, with [PAD] 256, [CLS] 257 and [SEP] 258 behind them; the longer text is cut, of two the second."""
    while len(first) + len(second) + 3 > room:
        first, second = (first, second[:-1]) if len(second) >= len(first) else (first[:-1], second)
    ids = [257, *first.encode(), 258, *second.encode(), 258]
    return ids + [256] * (room - len(ids))


def check_classifier():
    rows, room = write_pairs_of_texts(), 16
    runs.write_config("classifier.toml", CLASSIFIER)
    tokens = torch.tensor([as_sample(first, second, room) for first, second, _ in rows])
    labels = torch.tensor([label for _, _, label in rows])
    assert (tokens == 256).any() and (tokens[:, -1] == 258).any() and max(len(a) + len(b) for a, b, _ in rows) > room - 3

    def load(folder):
        return reference_encoders.load(reference_encoders.BertClassifier, folder, n_heads=2, eps=1e-6, padding=256, separator=258)

    def loss_of_step(model, step):
        some = [(step * BATCH + i) % 48 for i in range(BATCH)]
        return functional.cross_entropy(model(tokens[some]), labels[some])

    model, record = check_parity("classifier", load, loss_of_step, SLOW), runs.metrics("classifier", "evaluation")[-1]
    with torch.no_grad():
        logits = model(tokens[48:])
    accuracy, loss = (logits.argmax(1) == labels[48:]).double().mean().item(), functional.cross_entropy(logits, labels[48:]).item()
    assert record["samples"] == 24 and abs(float(record["accuracy"]) - accuracy) < 1e-6, (record, accuracy)
    assert abs(float(record["loss"]) / loss - 1) < parity.LOSS, (record, loss)
    return rows


def check_fine_tuning(rows):
    """A classifier from the weights of a masked language model, whose head stays behind."""
    text = " ".join(first + second for first, second, _ in rows) * 8
    runs.write_tokens("letters.bin", list(text.encode()))
    runs.write_config("letters.toml", {**BERT, "data.files": ["letters.bin"], "data.vocab_size": 259, "training.seq_len": 20, "model.padding_token": 256,
                                       "model.separator_token": 258, "model.class_token": 257})
    runs.train("letters.toml", "run.folder=letters")
    words = ["model.init_from=letters", "training.seed=9", "training.steps=20"]
    runs.train("classifier.toml", "run.folder=tuned-0", *words, "training.steps=1", "optimizer.lr=0")
    source, found = (runs.read_tensors(runs.checkpoints(run)[-1]) for run in ("letters", "tuned-0"))
    new = sorted(name for name in found if not name.startswith(("optimizer.", "metadata")) and not np.array_equal(found[name], source.get(name)))
    assert new == ["classifier.bias", "classifier.weight", "pooler.bias", "pooler.weight", "position.weight"], new  # positions are fewer
    assert np.array_equal(found["position.weight"], source["position.weight"][:16])
    log = pathlib.Path("tuned-0", "logs", "rank-0000.log").read_text(encoding="utf-8")
    assert "at random: pooler.weight, pooler.bias, classifier.weight, classifier.bias; not taken: transform.weight, transform.bias, transform_norm.scale, transform_norm.bias, head.bias" in log, log
    for run, ranks, layout in (("tuned", 0, []), ("tuned-2", 2, ["parallelism.zero_stage=3"]), ("tuned-stages", 2, ["parallelism.pipeline_parallel_degree=2"])):
        runs.train("classifier.toml", f"run.folder={run}", *words, *layout, ranks=ranks)
        if ranks:
            runs.expect_same(runs.read("tuned"), runs.read(run), f"classifier on {' '.join(layout)}")
    for layout in ("tensor_parallel_degree=2", "context_parallel_degree=2"):
        runs.train("classifier.toml", "run.folder=tuned-cut", *words, f"parallelism.{layout}", "checkpoint.resume=never", ranks=2)
        one, cut = ([float(record["loss"]) for record in runs.metrics(run, "step")] for run in ("tuned", "tuned-cut"))
        assert np.abs(np.subtract(one, cut)).max() < 1e-5, f"classifier with {layout}: {one} and {cut}"


def check_table_refusals():
    lines = pathlib.Path("table.tsv").read_text(encoding="utf-8").splitlines()
    for wrong, sentence in ((["x\ty"], "table-wrong.tsv:74: 2 fields, expected 4"),
                            (["9\t\tfar\tb"], "table-wrong.tsv:74: column 'first' is empty"),
                            (["9\ta\tnowhere\tb"], "table-wrong.tsv:74: the label 'nowhere' is none of the 3 classes")):
        pathlib.Path("table-wrong.tsv").write_text("\n".join(lines + wrong) + "\n", encoding="utf-8")
        err = runs.tessera("train", "classifier.toml", "run.folder=refused", "data.files=['table-wrong.tsv']", code=3).err
        assert sentence in err and err.count("\n") == 1, err
        out = runs.tessera("train", "classifier.toml", "run.folder=skipping", "data.files=['table-wrong.tsv']", "data.on_error=skip",
                           "training.steps=1", "checkpoint.resume=never")
        assert "1 row" in out.out + out.err + pathlib.Path("skipping", "logs", "rank-0000.log").read_text(encoding="utf-8"), out
    for word, sentence in (("data.text_columns=['frist']", "no column named 'frist'; did you mean 'first'?"),
                           ("data.text_columns=['a','b','c']", "names no column, or more than two"),
                           ("data.label_column=", "names no column of labels"),
                           ("data.classes=2", "column 'kind' has 3 labels, data.classes says 2"),
                           ("model.padding_token=3", "model.padding_token = 3: in these data it is token 256"),
                           ("training.seq_len=4", "training.seq_len is 4, expected from 5"),
                           ("model.type=gpt", "reads tokens, and samples here have")):
        err = runs.tessera("train", "classifier.toml", "run.folder=refused", word, code=3 if "frist" in word else 2).err
        assert sentence in err and err.count("\n") == 1, err
    err = runs.tessera("generate", "tuned", "--ids", "1", "--logits", "x.npy", code=2).err
    assert "writes no text" in err, err


def check_t5(tokens):
    """Its source is a window of tokens, its target the same one token later."""
    windows = (int(len(tokens) * 0.8) - TIME - 1) // TIME + 1

    def load(folder):
        return reference_encoders.load(reference_encoders.T5, folder, n_heads=2, eps=1e-6, far=20, padding=PADDING)

    def loss_of_step(model, step):
        rows = np.stack([tokens[start:start + TIME + 1] for start in (index % windows * TIME for index in range(step * BATCH, (step + 1) * BATCH))])
        return model.loss(torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:]))

    check_parity("t5", load, loss_of_step)


def check_vit(images, labels):
    def load(folder):
        return reference_encoders.load(reference_encoders.Vit, folder, n_heads=2, eps=1e-6)

    def loss_of_step(model, step):
        rows = [(step * BATCH + i) % 48 for i in range(BATCH)]
        return functional.cross_entropy(model(images[rows]), labels[rows])

    model, record = check_parity("vit", load, loss_of_step, SLOW), runs.metrics("vit", "evaluation")[-1]
    with torch.no_grad():
        logits = model(images[48:])
    accuracy, loss = (logits.argmax(1) == labels[48:]).double().mean().item(), functional.cross_entropy(logits, labels[48:]).item()
    assert record["samples"] == 16 and float(record["accuracy"]) == accuracy, (record, accuracy)
    assert abs(float(record["loss"]) / loss - 1) < parity.LOSS, (record, loss)


def check_pairs():
    """A T5 learns pairs by heart and answers each, from text to text; how far sources are filled up changes nothing."""
    pairs = [("gut", "good"), ("rot", "red"), ("blau", "blue"), ("eins", "one"), ("zwei und drei", "two and three"), ("haus", "house")]
    pathlib.Path("pairs.txt").write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    runs.write_config("pairs.toml", {
        **{key: value for key, value in T5.items() if not key.startswith(("data.", "model.padding"))}, "data.reader": "pairs",
        "data.files": ["pairs.txt"], "data.validation_fraction": 0.0, "data.target_length": 16, "training.seq_len": 16,
        "training.steps": 150, "training.global_batch_size": 6, "training.local_batch_size": 3, "optimizer.lr": 1e-2})
    runs.train("pairs.toml", "run.folder=pairs")
    for source, target in pairs:
        out = runs.tessera("generate", "pairs", "--prompt", source, "--temperature", "0").out
        assert out == target + "\n", f"{source}: {out}"
    assert runs.tessera("generate", "pairs", "--prompt", "eins", "--temperature", "0", "--tokens", "2").out == "on\n"
    for at, name in enumerate(("sources", "targets")):
        pathlib.Path(f"{name}.txt").write_text("".join(f"{pair[at]}\n" for pair in pairs), encoding="utf-8")
    pathlib.Path("arrows.txt").write_text("".join(f"{source} => {target}\n" for source, target in pairs), encoding="utf-8")
    said = {14: ["data.files=['arrows.txt']", "data.pair_separator=' => '", "data.validation_files=['arrows.txt']"],
            29: ["data.files=['sources.txt']", "data.target_files=['targets.txt']", "data.validation_files=['sources.txt']",
                 "data.validation_target_files=['targets.txt']"]}
    losses = []
    for length in (14, 29):
        runs.train("pairs.toml", f"run.folder=pairs-{length}", "training.steps=5", f"training.seq_len={length}", *said[length])
    evaluated = [float(runs.metrics(f"pairs-{length}", "evaluation")[-1]["loss"]) for length in (14, 29)]
    assert abs(evaluated[0] - evaluated[1]) < 1e-5, f"the same pairs in one file and in two: {evaluated}"
    for length in (14, 29):
        losses.append([float(record["loss"]) for record in runs.metrics(f"pairs-{length}", "step")])
    apart = np.abs(np.subtract(*losses)).max()
    assert apart < 1e-5 and len(losses[0]) == 5, f"padding changes losses by {apart:.1e}"
    print(f"pairs: {len(pairs)} answers; losses without their padding within {apart:.1e}")
    refusals = ((["generate", "pairs"], "say the source that is to be answered"),
                (["generate", "pairs", "--ids", "1,2", "--logits", "x.npy"], "say both"),
                (["train", "pairs.toml", "run.folder=refused", "model.padding_token=3"], "these data fill up with token"),
                (["train", "pairs.toml", "run.folder=refused", "model.type=bert"], "bert reads a text, and samples here begin with 'source'"))
    for words, sentence in refusals:
        err = runs.tessera(*words, code=2).err
        assert sentence in err and err.count("\n") == 1, err


def check_same_bits():
    """On 1, 2 and 4 ranks, some of another layout: tests/core/parallel_modes.cpp has the others."""
    for what, ranks, words in (("bert", 2, []), ("bert", 4, ["parallelism.zero_stage=1"]), ("vit", 2, ["parallelism.zero_stage=2"]),
                               ("vit", 4, ["parallelism.zero_stage=3"]), ("t5", 2, ["parallelism.pipeline_parallel_degree=2"]),
                               ("t5", 4, [])):
        runs.train(f"{what}.toml", f"run.folder={what}-spread", "checkpoint.resume=never", *words, ranks=ranks)
        runs.expect_same(runs.read(what), runs.read(f"{what}-spread"), f"{what} on 1 and {ranks} ranks")


def check_refusals():
    def refused(name, word, sentence):
        found = runs.tessera("train", f"{name}.toml", "run.folder=refused", word, code=2).err
        assert sentence in found and found.count("\n") == 1, found

    refused("bert", "model.padding_token=41", "model.padding_token = 41: there are 41 tokens")
    refused("bert", "model.mask_probability=1", "must be above 0 and below 1")
    refused("vit", "model.patch_size=3", "images of 8 x 8 cannot be cut into patches of 3")
    refused("vit", "model.type=t5", "t5 reads pairs of texts, and samples here begin with 'image'")
    refused("t5", "model.relative_buckets=6", "must be a multiple of 4, and model.relative_max_distance above half of it")
    refused("t5", "model.start_token=41", "model.start_token = 41: there are 41 tokens")
    refused("t5", "model.start_token=-1", "model.start_token = -1: must be a token, which decoders begin with")
    refused("bert", "model.type=vit", "vit reads images with a label, and samples here begin with 'tokens'")


with runs.folder():
    words, pictures, classes = write_data()
    runs.write_config("bert.toml", BERT)
    runs.write_config("vit.toml", VIT)
    runs.write_config("t5.toml", T5)
    check_bert(words)
    check_vit(pictures, classes)
    check_fine_tuning(check_classifier())
    check_table_refusals()
    check_t5(words)
    check_pairs()
    check_same_bits()
    check_refusals()

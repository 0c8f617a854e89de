# SPDX-License-Identifier: Apache-2.0
"""`tessera data`: a corpus prepared on 1, 2 and 4 ranks has the same bytes, which numpy reads as the ids of Hugging Face's own
library; statistics of tables and images are those of numpy and the same file on 1, 3 and 4 ranks; evaluations count each sample once;
runs on it, and on folders of images, have the same bits on any number of ranks; what is left out is counted in the log and in metrics.jsonl; and what is wrong is answered with exit code 3 and one sentence."""
import json
import os
import pathlib
import struct
import sys
import zlib

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import runs

GOLDEN = pathlib.Path(os.environ["TESSERA_SOURCE"], "tests", "core", "golden", "tokenizers")
KEYS = {"model.n_layers": 1, "model.n_heads": 2, "model.dim": 32, "training.steps": 4, "training.seq_len": 16,
        "training.global_batch_size": 8, "training.local_batch_size": 2, "checkpoint.interval": 0}


def read_megatron(name):
    """The documents of NAME.bin and NAME.idx, by the format's description."""
    index = pathlib.Path(name + ".idx").read_bytes()
    assert index[:17] == b"MMIDIDX\0\0" + (1).to_bytes(8, "little"), index[:17]
    count, documents = np.frombuffer(index, "<u8", 2, 18)
    lengths = np.frombuffer(index, "<i4", int(count), 34)
    begins = np.frombuffer(index, "<i8", int(count), 34 + 4 * int(count))
    assert documents == count + 1 and len(index) == 34 + 12 * int(count) + 8 * int(documents)
    tokens = np.fromfile(name + ".bin", {8: "<u2", 4: "<i4"}[index[17]])
    size = tokens.itemsize
    return [tokens[begin // size:begin // size + length].tolist() for begin, length in zip(begins, lengths)]


def prepare(folder, *words, ranks=0, code=0):
    return runs.tessera("data", "prepare", "--to", folder, *words, ranks=ranks, code=code)


def check_prepare():
    lines = json.loads((GOLDEN / "lines.json").read_text(encoding="utf-8"))
    ids = json.loads((GOLDEN / "gpt2.ids.json").read_text(encoding="utf-8"))["ids"]
    wanted = [(line, own) for line, own in zip(lines, ids) if line]
    with open("lines.jsonl", "w", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": line}) + "\n" for line, _ in wanted)
        out.write('{"no": 1}\n{"text": ""}\n' + json.dumps({"text": wanted[0][0]}) + "\n")
    words = ["--records", "jsonl", "--tokenizer-file", GOLDEN / "gpt2.json", "lines.jsonl"]
    said = [prepare(f"made{ranks}", *words, ranks=ranks).out for ranks in (1, 2, 4)]
    distinct = {line: own for line, own in wanted}
    assert f"records kept: {len(distinct)}\n" in said[0] and "records broken UTF-8: 1\n" in said[0], said[0]
    assert "records too short: 1\n" in said[0] and "records duplicates: " in said[0], said[0]
    files = {name: [pathlib.Path(f"made{ranks}", name).read_bytes() for ranks in (1, 2, 4)]
             for name in ("tokens.bin", "tokens.idx", "tokenizer.json", "manifest.json")}
    for name, contents in files.items():
        assert contents[0] == contents[1] == contents[2], f"{name} depends on the number of ranks"
    near = [f"{' '.join(line for line, _ in wanted)[i * 150:i * 150 + 400]} {i}" for i in range(8)]
    pathlib.Path("near.txt").write_text("".join(f"{line}\n{line} again\nno {line}\n" for line in near), encoding="utf-8")
    words = ["--records", "line", "--near-duplicates", "0.8", "--tokenizer-file", GOLDEN / "gpt2.json", "near.txt"]
    said = [prepare(f"near{ranks}", *words, ranks=ranks).out.replace(f"near{ranks}", "TO") for ranks in (1, 3)]
    assert "records kept: 8\n" in said[0] and "records near duplicates: 16\n" in said[0] and said[0] == said[1], said
    for name in ("tokens.bin", "tokens.idx", "tokenizer.json", "manifest.json"):
        one, three = (pathlib.Path(f"near{ranks}", name).read_bytes() for ranks in (1, 3))
        assert one == three, f"near duplicates: {name} depends on the number of ranks"
    end = json.loads((GOLDEN / "gpt2.json").read_text(encoding="utf-8"))["model"]["vocab"]["<|endoftext|>"]
    assert read_megatron("made1/tokens") == [own + [end] for own in distinct.values()], "other ids than Hugging Face's"


def check_look():
    out = runs.tessera("data", "inspect", "made1").out
    assert "tokenizer: huggingface, 420 tokens" in out and "the first begins: " in out, out
    assert "each within the vocabulary; all hashes are right" in runs.tessera("data", "check", "made1").out
    config = ["gpt.toml", "data.reader=megatron", 'data.files=["made1/tokens.idx"]', "data.tokenizer_file=made1/tokenizer.json"]
    out = runs.tessera("data", "check", *config).out
    assert "vocabulary: 420" in out and "every sample is readable" in out, out
    for ranks in (1, 2, 4):
        runs.train(*config, f"run.folder=on{ranks}", ranks=ranks)
    for ranks in (2, 4):
        assert runs.metrics("on1", "step")[-1]["loss"] == runs.metrics(f"on{ranks}", "step")[-1]["loss"], "other bits"
    content = bytearray(pathlib.Path("made2/tokens.bin").read_bytes())
    content[40] ^= 1
    pathlib.Path("made2/tokens.bin").write_bytes(content)
    run = runs.tessera("data", "check", "made2", code=3)
    assert "made2/tokens.bin: the hash is " in run.err, run.err


MIXED = """base = "gpt.toml"
[data]
tokenizer_file = "made1/tokenizer.json"
files = []
[[data.sources]]
name = "plain"
files = ["other.txt"]
weight = 0.75
[[data.sources]]
name = "prepared"
reader = "megatron"
files = ["made1/tokens.idx"]
weight = 0.25
"""


def check_bits_per_byte():
    """The loss by the bytes of the tokens evaluated, whose byte-level names are as long as they are."""
    prepare("plain", "--tokenizer-file", GOLDEN / "gpt2.json", "text.txt")
    vocabulary = json.loads((GOLDEN / "gpt2.json").read_text(encoding="utf-8"))["model"]["vocab"]
    lengths = {number: len(token) for token, number in vocabulary.items()}
    tokens = [lengths[number] for number in read_megatron("plain/tokens")[0]]
    held_out = tokens[int(0.9 * len(tokens)):]
    evaluated = held_out[1:(len(held_out) - 1) // 16 * 16 + 1]
    words = ["gpt.toml", "data.reader=megatron", 'data.files=["plain/tokens.idx"]', "data.tokenizer_file=plain/tokenizer.json",
             'metrics.evaluate=["bits_per_byte", "top_3"]', "run.folder=bits"]
    runs.train(*words, ranks=3)
    record = runs.metrics("bits", "evaluation")[-1]
    bits = float(record["loss"]) / np.log(2) * len(evaluated) / sum(evaluated)
    assert record["tokens"] == len(evaluated) and abs(float(record["bits_per_byte"]) / bits - 1) < 1e-12, (record, bits)
    assert 0 <= float(record["top_3_accuracy"]) < 1, record
    alone = runs.tessera("evaluate", "bits", 'metrics.evaluate=["bits_per_byte"]').out
    assert f"bits_per_byte: {float(record['bits_per_byte']):.6f}" in alone, (alone, record)
    run = runs.train("layers.toml", "data.on_error=skip", 'metrics.evaluate=["bits_per_byte"]', "run.folder=no", code=2)
    assert "'bits_per_byte' judges a model that writes a text on" in run.err, run.err


def check_losses_of_sources():
    """Evaluations tell the loss of each source: that of a run on it alone with the same weights, and together the loss of all."""
    record = runs.metrics("alone", "evaluation")[-1]
    parts = {part["name"]: part for part in record["sources"]}
    assert list(parts) == ["plain", "prepared"] and sum(part["tokens"] for part in parts.values()) == record["tokens"], record
    mean = sum(float(part["loss"]) * part["tokens"] for part in parts.values()) / record["tokens"]
    assert abs(mean / float(record["loss"]) - 1) < 1e-12, (mean, record)
    out = runs.tessera("evaluate", "alone", ranks=3).out
    for name, key, value in (("plain", "files", '["other.txt"]'), ("prepared", "reader", '"megatron"')):
        assert f"source '{name}'  validation loss: {float(parts[name]['loss']):.6f}" in out, (out, parts)
        files = [f"data.{key}={value}"] if name == "plain" else [f"data.{key}={value}", 'data.files=["made1/tokens.idx"]']
        runs.train("gpt.toml", "data.tokenizer_file=made1/tokenizer.json", *files, "model.init_from=alone", "optimizer.lr=0.0",
                   "training.steps=1", f"run.folder=only-{name}")
        only = runs.metrics(f"only-{name}", "evaluation")[-1]
        assert only["tokens"] == parts[name]["tokens"], (only, parts)
        assert abs(float(only["loss"]) / float(parts[name]["loss"]) - 1) < 1e-6, (only, parts)


def check_mixed():
    """Two sources of two readers: the same bits on 1 rank, and on 2 with a stop, and what came from each is told."""
    pathlib.Path("other.txt").write_text("".join(f"{i} and {i * i} are numbers.\n" for i in range(60)), encoding="utf-8")
    pathlib.Path("mixed.toml").write_text(MIXED, encoding="utf-8")
    out = runs.tessera("data", "inspect", "mixed.toml").out
    assert "training, source 'plain': " in out and "; 75 % of a run's\n" in out and "validation, source 'prepared': " in out, out
    words = ["mixed.toml", "training.steps=6", "metrics.evaluate_every=2", "lr_scheduler.decay_steps=6"]
    run = runs.train(*words, "run.folder=alone")
    assert "sources: 'plain' 36 samples (576 tokens, " in run.out and "; 'prepared' 12 samples (192 tokens, " in run.out, run.out
    check_losses_of_sources()
    counts = runs.metrics("alone", "sources")[-1]["sources"]
    assert [(source["name"], source["samples"], source["units"]) for source in counts] == [
        ("plain", 36, 576), ("prepared", 12, 192)], counts
    runs.train(*words, "run.folder=stopped", "checkpoint.interval=2", "training.steps=2", ranks=2)
    runs.train(*words, "run.folder=stopped", ranks=2)
    runs.expect_same(runs.read("alone"), runs.read("stopped"), "a mix of sources on 2 ranks, resumed")
    run = runs.train(*words, "run.folder=stopped", "training.steps=8", "data.sources.plain.weight=0.5", code=2)
    assert "data.sources[0].weight" in run.err, run.err
    run = runs.train("mixed.toml", "run.folder=no", "data.sources.prepared.reader=tokens", code=3)
    assert "made1/tokens.idx: " in run.err, run.err


def check_left_out():
    rows = [f"{i},{i * i % 7},{'ab'[i % 2]}\n" for i in range(60)]
    pathlib.Path("t.csv").write_text("x,y,kind\n" + "".join(rows[:30]) + "1,2\n" + "".join(rows[30:]) + "1,two,a\n", encoding="utf-8")
    (pathlib.Path("layers.toml")).write_text("""
[data]
reader = "csv"
files = ["t.csv"]
label_column = "kind"
[model]
type = "layers"
[[model.layers]]
type = "linear"
outputs = 2
[[model.layers]]
type = "cross_entropy"
[training]
steps = 2
global_batch_size = 4
local_batch_size = 2
[checkpoint]
interval = 0
""", encoding="utf-8")
    run = runs.train("layers.toml", "run.folder=stops", code=3)
    assert "t.csv:32: 2 fields, expected 3" in run.err, run.err
    run = runs.train("layers.toml", "run.folder=skips", "data.on_error=skip", ranks=2)
    assert "data: left out 2 row" in run.out and "t.csv:32: 2 fields, expected 3" in run.out, run.out
    records = runs.metrics("skips", "skipped")
    assert [(record["records"], record["count"]) for record in records] == [("row", 2)], records


def check_statistics():
    """A table and its statistics; the evaluation of 23 samples in micro-batches of 4 beside one by numpy."""
    draw = np.random.default_rng(3)
    x = np.stack([draw.normal(1000, 3, 92), draw.integers(0, 9, 92)], axis=1).astype("f4")
    kinds = (x[:, 1] > 4).astype(int)
    x[::2, 0] += 5 * kinds[::2]
    pathlib.Path("u.csv").write_text("x,y,kind\n" + "".join(f"{a},{b},{'ab'[kind]}\n" for (a, b), kind in zip(x.tolist(), kinds)), encoding="utf-8")
    words = ["layers.toml", 'data.files=["u.csv"]', "data.validation_fraction=0.25", "data.statistics=u.json"]
    files = []
    for ranks in (1, 3, 4):
        out = runs.tessera("data", "prepare", *words, ranks=ranks).out
        assert "training: 69 samples; validation: 23\n" in out and "duplicates in the training part: 0\n" in out, out
        files.append(pathlib.Path("u.json").read_bytes())
    assert files[0] == files[1] == files[2], "statistics depend on the number of ranks"
    found = json.loads(files[0])
    mean, deviation = x[:69].astype("f8").mean(axis=0), x[:69].astype("f8").std(axis=0)
    assert np.allclose(found["mean"], mean, rtol=1e-12) and np.allclose(found["deviation"], deviation, rtol=1e-9), (found, mean, deviation)
    out = runs.tessera("data", "check", *words).out
    assert "x: mean " in out and "u.json: the statistics are those of the data\n" in out, out
    for ranks in (1, 2, 3, 4):
        runs.train(*words, f"run.folder=rest{ranks}", "training.local_batch_size=4", "training.global_batch_size=16", "checkpoint.interval=2",
                   "training.steps=4", 'metrics.evaluate=["f1", "confusion_matrix"]', ranks=ranks)
        runs.expect_same(runs.read("rest1"), runs.read(f"rest{ranks}"), f"an uneven validation split on {ranks} ranks")
    weights = {name.rsplit(".", 1)[-1]: value.astype("f8") for name, value in runs.read("rest1").tensors.items() if name.count(".") == 1}
    logits = (x[69:].astype("f8") - mean) / deviation @ weights["weight"].T + weights["bias"]
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(23), kinds[69:]]
    record = runs.metrics("rest1", "evaluation")[-1]
    assert record["samples"] == 23 and abs(float(record["loss"]) - losses.mean()) < 1e-6, (record, losses.mean())
    assert float(record["accuracy"]) == np.mean(logits.argmax(axis=1) == kinds[69:]), record
    assert sum(map(float, np.ravel(record["confusion_matrix"]))) == 23, record
    out = runs.tessera("evaluate", "rest1", ranks=2).out
    assert f"validation loss: {float(record['loss']):.6f}" in out and "samples: 23" in out, out
    few = runs.tessera("evaluate", "rest1", "data.validation_fraction=0.02", "data.statistics=", ranks=2).out
    assert "samples: 2\n" in few, few
    pathlib.Path("u.csv").write_text(pathlib.Path("u.csv").read_text(encoding="utf-8") + "1,2,a\n", encoding="utf-8")
    run = runs.train(*words, "run.folder=stale", code=3)
    assert "u.json: these statistics are of 1 file of " in run.err, run.err
    run = runs.tessera("data", "prepare", "layers.toml", "data.statistics=t.json", ranks=2, code=3)
    assert "t.csv:32: 2 fields, expected 3; data.on_error=skip leaves such records out" in run.err and not os.path.exists("t.json"), run.err
    assert "left out: row: 2\nbroken samples: 0\nrows with too few fields: 1\n" in run.out, run.out


IMAGES = """
[data]
reader = "image_folder"
files = ["photos"]
image_shape = [6, 6, 3]
validation_fraction = 0.25
[model]
type = "layers"
[[model.layers]]
type = "flatten"
[[model.layers]]
type = "linear"
outputs = 2
[[model.layers]]
type = "cross_entropy"
[training]
steps = 12
global_batch_size = 8
local_batch_size = 2
[optimizer]
lr = 0.02
[lr_scheduler]
type = "constant"
warmup_steps = 0
[metrics]
evaluate_every = 12
[checkpoint]
interval = 0
"""


def write_png(path, pixels):
    """(height, width, 3) bytes, by the format's description."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def check_image_folder():
    draw = np.random.default_rng(1)
    for i in range(24):
        for name, bright in (("night", 40), ("day", 180)):
            size = (8 + i % 5, 9 + i % 3, 3)
            write_png(pathlib.Path("photos", name, f"{i}.png"), draw.integers(bright, bright + 60, size, dtype=np.uint8))
    pathlib.Path("images.toml").write_text(IMAGES, encoding="utf-8")
    for ranks in (1, 2, 4):
        runs.train("images.toml", f"run.folder=images{ranks}", ranks=ranks)
    runs.expect_same(runs.read("images1"), runs.read("images2"), "image folders on 2 ranks")
    runs.expect_same(runs.read("images1"), runs.read("images4"), "image folders on 4 ranks")
    found = runs.metrics("images1", "evaluation")[-1]
    assert float(found["accuracy"]) == 1, found
    for ranks in (1, 3):
        out = runs.tessera("data", "prepare", "images.toml", f"data.statistics=images{ranks}.json", ranks=ranks).out
    assert "training: 36 samples; validation: 12\n" in out and "  red: mean " in out, out
    assert pathlib.Path("images1.json").read_bytes() == pathlib.Path("images3.json").read_bytes(), "images: other bits on 3 ranks"
    runs.train("images.toml", "run.folder=threads", "data.loader_threads=3", "data.prefetch=2")
    runs.expect_same(runs.read("images1"), runs.read("threads"), "images read by three threads")
    out = runs.tessera("data", "check", "images.toml", "data.statistics=images1.json").out
    assert "every sample is readable" in out and "  blue: mean " in out, out
    pathlib.Path("photos/day/cut.png").write_bytes(pathlib.Path("photos/day/3.png").read_bytes()[:100])
    run = runs.train("images.toml", "run.folder=cut", code=3)
    assert "photos/day/cut.png: damaged or truncated PNG image: " in run.err, run.err
    run = runs.train("images.toml", "run.folder=left_out", "data.on_error=skip", ranks=2)
    assert "data: left out 1 file" in run.out and "photos/day/cut.png: truncated PNG image: no end mark" in run.out, run.out
    for words, sentence in ((["data.image_shape=[]"], "data.image_shape"), (["data.image_shape=[6, 6, 2]"], "channels of image folders")):
        run = runs.tessera("plan", "images.toml", *words, code=2)
        assert sentence in run.err, run.err


def check_refusals():
    cases = [(["prepare", "text.txt"], 2, "data prepare: say --to FOLDER"),
             (["prepare", "--to", "made1", "text.txt"], 2, "made1 is there already, and nothing is overwritten"),
             (["prepare", "--to", "new", "--records", "lines", "text.txt"], 2, "no kind of records named 'lines'; did you mean 'line'?"),
             (["prepare", "--to", "new", "--near-duplicates", "2", "text.txt"], 2, "--near-duplicates 2: expected a number from 0 to 1"),
             (["prepare", "--to", "new", "--end-token", "</x>", "text.txt"], 2, "--end-token: the tokenizer has no token '</x>'"),
             (["prepare", "--to", "new", "nowhere.txt"], 3, "nowhere.txt: there is no such file"),
             (["prepare", "--to", "new", "--min-characters", "1000000", "text.txt"], 3, "text.txt: none of 1 records is left to keep"),
             (["chek", "gpt.toml"], 2, "no data command named 'chek'; did you mean 'check'?"),
             (["prepare", "layers.toml"], 2, 'data.statistics = "": names no file, which data prepare would write'),
             (["prepare", "gpt.toml"], 2, "reads text, of which `data prepare --to FOLDER FILES` makes tokens"),
             (["check", "layers.toml", "data.statistics=no.json"], 3, "no.json: there is no such file; `tessera data prepare CONFIG` makes it"),
             (["inspect"], 2, "data inspect: expected a config, or a folder that data prepare made"),
             (["check", "."], 3, "./manifest.json: there is no such file"),
             (["check", "gpt.toml", "data.reader=megatron", "data.vocab_size=9", 'data.files=["text.txt"]'], 3, "text.txt.bin: there is no such file"),
             (["check", "gpt.toml", "data.tokenizer_file=made1/tokenizer.json", "data.vocab_size=9"], 2,
              "data.vocab_size = 9: the tokenizer, made1/tokenizer.json, has 420 tokens"),
             (["check", "gpt.toml", "data.on_error=ignore"], 2, "data.on_error = \"ignore\": no choice named 'ignore'")]
    for words, code, sentence in cases:
        run = runs.tessera("data", *words, code=code)
        assert sentence in run.err and "Traceback" not in run.err, (words, run.err)
        assert not pathlib.Path("new").exists(), words


with runs.folder():
    runs.write_text("text.txt", 4000)
    runs.write_config("gpt.toml", {"data.files": ["text.txt"], **KEYS})
    check_prepare()
    check_look()
    check_mixed()
    check_left_out()
    check_bits_per_byte()
    check_statistics()
    check_image_folder()
    check_refusals()

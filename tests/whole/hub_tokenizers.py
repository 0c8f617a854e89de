# SPDX-License-Identifier: Apache-2.0
"""Tokenizers in folders of Hugging Face's: an import takes the one that lies there, so does a run that starts from such a
folder, and an export writes one that AutoTokenizer loads: the same ids on 2,000 lines (TESSERA_LONG_TESTS: 10,000), Chinese and emoji among them, for theirs
and for those that are trained here."""
import json
import os
import pathlib
import random
import shutil
import struct
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import peer_packages
import runs

peer_packages.use("sentencepiece")
peer_packages.use("transformers")
import transformers

GOLDEN = pathlib.Path(os.environ["TESSERA_SOURCE"], "tests", "core", "golden", "tokenizers")
LINES = 10_000 if "TESSERA_LONG_TESTS" in os.environ else 2000
MORE_ROWS = 5  # of a model's table than its tokenizer has tokens, as is usual


def write_lines():
    """Distinct lines of the golden lines' words, between which white space of many kinds stands."""
    words = " ".join(json.loads((GOLDEN / "lines.json").read_text(encoding="utf-8"))).split()
    draw, lines = random.Random(3), []
    for number in range(LINES):
        line = str(number)
        for _ in range(draw.randrange(1, 12)):
            line += draw.choice([" ", " ", " ", "", "  ", "\t", " \u3000"]) + draw.choice(words)
        lines.append(line)
    pathlib.Path("lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


def prepared(folder):
    """The tokens of each line, with what ends it."""
    head = pathlib.Path(folder, "tokens.idx").read_bytes()
    assert head[:9] == b"MMIDIDX\0\0"
    count = struct.unpack_from("<Q", head, 18)[0]
    sizes = np.frombuffer(head, "<i4", count, 34)
    tokens = np.fromfile(f"{folder}/tokens.bin", {8: "<u2", 4: "<i4"}[head[17]]).tolist()
    assert sum(sizes) == len(tokens) and count == LINES
    ends = np.cumsum(sizes)
    return [tokens[end - size:end] for end, size in zip(ends, sizes)]


def expect_theirs(name, folder, lines, ours):
    slow = pathlib.Path(folder, "spiece.model").exists()  # the fast ones know no bytes for what is no piece
    theirs = transformers.AutoTokenizer.from_pretrained(folder, use_fast=not slow)
    tails = set()
    for line, found in zip(lines, ours):
        if slow and "<" in line:  # "</s>" in a text is a piece there and letters in SentencePiece itself
            continue
        ids = theirs.encode(line, add_special_tokens=False)
        assert found[:len(ids)] == ids, f"{name}: {line!r}: {found}, theirs {ids}"
        tails.add(tuple(found[len(ids):]))
    assert len(tails) == 1 and len(tails.pop()) < 3, f"{name}: lines end in several ways"
    return theirs


def model_of(kind, rows):
    if kind == "t5":
        return transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=rows, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    if kind == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=rows, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                                                    intermediate_size=32, max_position_embeddings=32))
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=rows, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                                                  intermediate_size=32, max_position_embeddings=32))


def check_theirs(lines):
    def content(name):
        return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))

    gpt2, bert = content("gpt2")["model"], content("bert_cased")["model"]["vocab"]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in gpt2["merges"]]
    cases = {
        "llama3": ("llama", {"tokenizer.json": (GOLDEN / "llama3.json").read_bytes()}),
        "llama2": ("llama", {"tokenizer.json": (GOLDEN / "llama2.json").read_bytes()}),
        "bert": ("bert", {"tokenizer.json": (GOLDEN / "bert.json").read_bytes()}),
        "old-gpt2": ("llama", {"vocab.json": json.dumps(gpt2["vocab"]).encode(), "merges.txt": "\n".join(["#version: 0.2", *merges]).encode()}),
        "old-bert": ("bert", {"vocab.txt": "\n".join(sorted(bert, key=bert.get)).encode(), "tokenizer_config.json": b'{"do_lower_case": false}'}),
        "pieces": ("t5", {"spiece.model": (GOLDEN / "spiece.model").read_bytes()}),
    }
    for name, (kind, files) in cases.items():
        pathlib.Path(name).mkdir()
        for file, data in files.items():
            pathlib.Path(name, file).write_bytes(data)
        runs.tessera("data", "prepare", "--to", f"corpus-{name}", "--records", "line", "--keep-duplicates", "--tokenizer-file", name, "lines.txt")
        size = int(runs.tessera("data", "inspect", f"corpus-{name}").out.split("tokenizer: ")[1].split(", ")[1].split()[0])
        model_of(kind, size + MORE_ROWS).save_pretrained(name)
        out = runs.tessera("checkpoint", "import", name, "--to", f"run-{name}").out
        assert f"run-{name}/tokenizer.json: its tokenizer" in out, out
        runs.tessera("checkpoint", "export", "--hugging-face", f"out-{name}", f"run-{name}")
        theirs = expect_theirs(name, f"out-{name}", lines, prepared(f"corpus-{name}"))
        assert len(theirs) <= size + MORE_ROWS, f"{name}: {len(theirs)} tokens, the model has {size + MORE_ROWS}"
        if name == "pieces":
            assert pathlib.Path("out-pieces/spiece.model").read_bytes() == files["spiece.model"]
        if kind == "bert":
            marks = [theirs.cls_token_id, *theirs.encode("a b", add_special_tokens=False), theirs.sep_token_id]
            assert theirs("a b").input_ids == marks, name
        if name == "old-bert":
            assert theirs("a b", "a b").token_type_ids == [0] * len(marks) + [1] * (len(marks) - 1), name
        print(f"{name}: {size} tokens, the same ids on {LINES} lines")
    runs.tessera("generate", "run-llama3", "--prompt", "My rage is gone", "--logits", "logits.npy")
    words = transformers.AutoTokenizer.from_pretrained("llama3").encode("My rage is gone", add_special_tokens=False)
    assert np.load("logits.npy").shape == (len(words), 420 + MORE_ROWS), np.load("logits.npy").shape


WORDS = ["training.steps=1", "training.seq_len=32", "training.global_batch_size=2", "metrics.evaluate_every=0", "data.files=['lines.txt']"]


def check_runs():
    """A run from a folder reads text as the folder does, with a table as large as its own; what it writes is evaluated and resumed."""
    shutil.copytree("run-llama3", "onward")
    runs.train("onward/model.toml", "run.folder=onward", *WORDS)
    runs.write_config("from.toml", {"model.init_from": "llama3"})
    settings = pathlib.Path("run-llama3/model.toml").read_text(encoding="utf-8").split("[model]")[1].split("[training]")[0]
    with open("from.toml", "a", encoding="utf-8") as file:
        file.write(settings)
    for step in (1, 2):
        runs.train("from.toml", "run.folder=from", *WORDS, f"training.steps={step}")
    assert runs.newest("from") == 2
    log = pathlib.Path("from/logs/rank-0000.log").read_text(encoding="utf-8")
    assert "12 of 12 weights are those of llama3" in log or "weights are those of llama3\n" in log, log
    one, other = (float(runs.metrics(run, "step")[0]["loss"]) for run in ("onward", "from"))
    assert one == other, f"the first loss after an import is {one}, from the folder {other}"
    runs.tessera("evaluate", "from")
    runs.tessera("plan", "from.toml", *WORDS)
    inspected = runs.tessera("data", "inspect", "from.toml", *WORDS).out
    assert "tokenizer: huggingface" in inspected, inspected
    said = runs.tessera("data", "inspect", "from.toml", *WORDS, "data.tokenizer=./llama2").out
    assert said != inspected and "tokenizer: huggingface" in said, said
    said = runs.tessera("data", "inspect", "from.toml", *WORDS, "data.tokenizer=byte").out
    assert "vocabulary: 256" in said, said


LLAMA = ["model.n_layers=1", "model.n_heads=2", "model.dim=16", "model.norm=rms_norm", "model.position_embedding=rope", "model.gated_mlp=true",
         "model.activation=silu"]


def check_ours(lines):
    pathlib.Path("plain.toml").write_text("", encoding="utf-8")
    pathlib.Path("one-line.txt").write_text(" ".join(lines), encoding="utf-8")  # "\n" is no character of a record
    for kind, words in {"bpe": ["--vocab-size", "500"], "byte": [], "character": [], "wordpiece": ["--vocab-size", "400"]}.items():
        runs.tessera("data", "prepare", "--to", f"our-{kind}", "--records", "line", "--keep-duplicates", "--tokenizer", kind, *words, "lines.txt")
        runs.train("plain.toml", f"run.folder=run-{kind}", f"data.tokenizer_file=our-{kind}/tokenizer.json", *LLAMA, *WORDS, "data.files=['one-line.txt']")
        out = runs.tessera("checkpoint", "export", "--hugging-face", f"out-{kind}", f"run-{kind}").out
        assert "without" not in out, out
        theirs = expect_theirs(kind, f"out-{kind}", lines, prepared(f"our-{kind}"))
        if kind != "wordpiece":
            assert [theirs.decode(theirs.encode(line)) for line in lines[:50]] == lines[:50], f"{kind}: other texts"
        print(f"{kind}: the same ids on {LINES} lines")
    runs.train("plain.toml", "run.folder=run-word", "data.tokenizer=word", *LLAMA, *WORDS)
    out = runs.tessera("checkpoint", "export", "--hugging-face", "out-word", "run-word").out
    assert "without a tokenizer: theirs have none of the kind 'word'" in out and not pathlib.Path("out-word/tokenizer_config.json").exists(), out


def check_unread():
    """A tokenizer that is not computed here keeps nobody from the weights."""
    shutil.copytree("llama3", "odd")
    root = json.loads(pathlib.Path("odd/tokenizer.json").read_text(encoding="utf-8"))
    root["model"]["type"] = "Odd"
    pathlib.Path("odd/tokenizer.json").write_text(json.dumps(root), encoding="utf-8")
    out = runs.tessera("checkpoint", "import", "odd", "--to", "run-odd").out
    assert "its tokenizer is not read: odd/tokenizer.json: " in out and not pathlib.Path("run-odd/tokenizer.json").exists(), out


with runs.folder():
    all_lines = write_lines()
    check_theirs(all_lines)
    check_runs()
    check_ours(all_lines)
    check_unread()

# SPDX-License-Identifier: Apache-2.0
"""`tessera checkpoint`: what it says of checkpoints, and files that it exchanges with others, each read by a reader of its
own here: safetensors by hand, HDF5 by h5py, llm.c's by struct. Through a file and back, training goes on bit for bit."""
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

KEYS = {
    "data.files": ["text.txt"],
    "model.n_layers": 2, "model.n_heads": 2, "model.dim": 32, "model.bias": True, "model.activation": "gelu_tanh",
    "training.steps": 4, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2,
    "optimizer.lr": 1e-2, "checkpoint.interval": 2, "checkpoint.keep_latest_k": 0,
}
DTYPES = {"F32": "<f4", "BF16": "<u2", "F16": "<f2", "I32": "<i4"}


def tool(*words, code=0):
    return runs.tessera("checkpoint", *words, code=code)


def read_safetensors(path):
    """(metadata, {name: (dtype word, array)}), by the format's own description."""
    data = pathlib.Path(path).read_bytes()
    size, = struct.unpack("<Q", data[:8])
    assert size % 8 == 0, "the data are not aligned"
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__")
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, after = entry["data_offsets"]
        dtype = np.dtype(DTYPES[entry["dtype"]])
        assert begin == end and begin % dtype.itemsize == 0, f"{name}: a gap, or not aligned"
        tensors[name] = (entry["dtype"], np.frombuffer(data[8 + size + begin:8 + size + after], dtype).reshape(entry["shape"]))
        end = after
    assert 8 + size + end == len(data), "bytes are left over"
    return metadata, tensors


def write_safetensors(path, tensors, metadata=None):
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for name, array in tensors.items():
        word = next(word for word, dtype in DTYPES.items() if np.dtype(dtype) == array.dtype)
        header[name] = {"dtype": word, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(array.tobytes())


def to_bf16(array):
    """The upper halves of floats, rounded to nearest even."""
    bits = array.astype("<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def weights(checkpoint):
    return {name: array for name, array in runs.read_tensors(checkpoint).items()
            if not name.startswith(("optimizer.", "metadata"))}


def same(one, other):
    assert sorted(one) == sorted(other), sorted(set(one) ^ set(other))
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape, name
        assert one[name].tobytes() == other[name].tobytes(), name


def check_inspect(two, four):
    assert re.search(r"^step 4, written by 2 ranks, ", tool("inspect", "run").out, re.MULTILINE)
    found = json.loads(tool("inspect", "--json", two).out)
    assert (found["step"], found["ranks"], found["metadata"]["seed"]) == (2, 2, "1"), found
    assert "[model]" in found["metadata"]["config"]
    expected = {name: list(array.shape) for name, array in runs.read_tensors(two).items() if not name.startswith("metadata")}
    assert {tensor["name"]: tensor["shape"] for tensor in found["tensors"]} == expected
    assert all(tensor["bytes"] == 4 * int(np.prod(tensor["shape"])) for tensor in found["tensors"])


def check_verify(two):
    assert tool("verify", "run").out.count(": whole\n") == 2
    shutil.copytree(two, "damaged")
    manifest = pathlib.Path("damaged/MANIFEST").read_text(encoding="utf-8")
    for name in ("norm.scale", "position.weight"):  # the first slab's first byte in its file
        slab = re.search(rf"^tensor {re.escape(name)} .*\nslab (\d+) \S+ \S+ (\d+) ", manifest, re.MULTILINE)
        with open(f"damaged/rank-{int(slab[1]):05d}.h5", "r+b") as file:
            file.seek(int(slab[2]))
            byte = file.read(1)
            file.seek(int(slab[2]))
            file.write(bytes([byte[0] ^ 1]))
    out = tool("verify", "damaged", two, code=1).out
    assert "tensor 'norm.scale'" in out and "tensor 'position.weight'" in out and out.count("tensor '") == 2, out
    assert "damaged: DAMAGED" in out and f"{two}: whole" in out, out
    shutil.rmtree("damaged")


def check_diff(two, four):
    assert re.search(r"the same bits$", tool("diff", two, two).out, re.MULTILINE)
    out = tool("diff", two, "run", code=1).out
    a, b = weights(two), weights(four)
    name, count, of, largest, at = re.search(r"^(embedding\.weight): (\d+) of (\d+) elements differ, by at most (\S+) at \((.*)\),", out,
                                              re.MULTILINE).groups()
    distance = np.abs(a[name].astype("f8") - b[name].astype("f8"))
    assert int(count) == np.count_nonzero(distance) and int(of) == distance.size, out
    assert tuple(map(int, at.split(", "))) == np.unravel_index(distance.argmax(), distance.shape), out
    assert abs(float(largest) / distance.max() - 1) < 1e-2, out
    first = re.search(r"the first at \((.*)\): (\S+) and (\S+)", out)
    index = tuple(map(int, first[1].split(", ")))
    name = out.split(":", 1)[0]
    assert np.float32(first[2]) == a[name][index] and np.float32(first[3]) == b[name][index], out
    assert not np.any((a[name] != b[name]).ravel()[:np.ravel_multi_index(index, a[name].shape)]), out
    assert "beside the tensors: step (2 and 4), data.next_sample\n" in out, out


def check_average(two, four):
    a, b = runs.read_tensors(two), runs.read_tensors(four)
    out = tool("average", "--to", "mean", two, four).out
    states = [name for name in a if name.startswith("optimizer.")]
    assert f"the mean of 2 checkpoints in {len(weights(two))} tensors\nleft out: {len(states)} optimizer states" in out, out
    mean = runs.checkpoints("mean")[-1]
    same(weights(mean), {name: (a[name] + b[name]) / np.float32(2) for name in weights(two)})
    assert not any(name.startswith("optimizer.") for name in runs.read_tensors(mean))
    assert "step: 4  validation loss: " in runs.tessera("evaluate", "mean").out
    assert json.loads(tool("inspect", "--json", "mean").out)["metadata"]["average_of"] == f"{two}, {four}"
    assert "is there already" in tool("average", "--to", "mean", two, four, code=2).err
    tool("average", "--states", "--to", "mean-states", two, four)
    found = runs.read_tensors(runs.checkpoints("mean-states")[-1])
    assert sorted(name for name in found) == sorted(a), "states are missing"
    name = "optimizer.second_moment/norm.scale"
    assert np.array_equal(found[name], (a[name] + b[name]) / np.float32(2))
    runs.train("gpt.toml", "run.folder=mean-states", "training.steps=5")  # goes on from it


def check_export(two):
    """One content by two writers and two readers, the folder moved away from where it was written."""
    tool("export", "--safetensors", "two.safetensors", two)
    shutil.copytree(two, "elsewhere/moved")
    metadata, tensors = read_safetensors("two.safetensors")
    expected = weights("elsewhere/moved")
    same({name: array for name, (_, array) in tensors.items()}, expected)
    assert metadata["format"] == "pt" and metadata["step"] == "2" and "[model]" in metadata["config"], metadata
    assert json.loads(metadata["tokenizer"])["kind"] == "character"
    tool("export", "--safetensors", "narrow.safetensors", "--dtype", "bf16", two)
    for name, (word, array) in read_safetensors("narrow.safetensors")[1].items():
        assert word == "BF16" and np.array_equal(array, to_bf16(expected[name])), name
    tool("export", "--hdf5-single", "two.h5", "--states", two)
    with h5py.File("two.h5", "r") as file:
        for name, array in runs.read_tensors("elsewhere/moved").items():
            assert not file[name].is_virtual and np.array_equal(file[name][()], array), name
        assert file["metadata/seed"][()] == b"1" and file["metadata/step"][()] == b"2"
    assert "is there already" in tool("export", "--safetensors", "two.h5", two, code=2).err
    assert not list(pathlib.Path(".").glob("*.unfinished"))


def check_padded_llmc():
    """A vocabulary of 130 is a table of 256 rows in the file, of which an import takes 130."""
    runs.write_config("wide.toml", {**{key: value for key, value in KEYS.items() if key != "data.files"}, "data.reader": "synthetic", "data.vocab_size": 130})
    runs.train("wide.toml", "run.folder=wide", "training.steps=1")
    wide = str(runs.checkpoints("wide")[-1])
    tool("export", "--llmc", "wide.bin", wide)
    data, table = pathlib.Path("wide.bin").read_bytes(), weights(wide)["embedding.weight"]
    assert struct.unpack("<8i", data[:32]) == (20240326, 3, 16, 130, 2, 2, 32, 256), data[:32]
    found = np.frombuffer(data, "<f4", 256 * 32, 1024).reshape(256, 32)
    assert np.array_equal(found[:130], table) and not found[130:].any()
    tool("import", "wide.bin", "--config", "wide.toml", "--to", "from-wide")
    back = runs.read_tensors(runs.checkpoints("from-wide")[-1])
    for name, array in weights(wide).items():
        assert np.array_equal(back[name], array), name


def check_llmc(two):
    expected = weights(two)
    vocabulary = expected["embedding.weight"].shape[0]
    kinds = ["attention_norm.scale", "attention_norm.bias", "attention.qkv.weight", "attention.qkv.bias", "attention.out.weight",
             "attention.out.bias", "mlp_norm.scale", "mlp_norm.bias", "mlp.up.weight", "mlp.up.bias", "mlp.down.weight",
             "mlp.down.bias"]
    order = ["embedding.weight", "position.weight", *(f"layers.{layer}.{kind}" for kind in kinds for layer in (0, 1)),
             "norm.scale", "norm.bias"]
    assert sorted(order) == sorted(expected)
    for dtype, version in (("f32", 3), ("bf16", 5)):
        path = f"{dtype}.bin"
        tool("export", "--llmc", path, "--dtype", dtype, two)
        data = pathlib.Path(path).read_bytes()
        assert struct.unpack("<8i", data[:32]) == (20240326, version, 16, vocabulary, 2, 2, 32, 128), data[:32]
        parts = [expected[name] for name in order]
        parts[0] = np.concatenate([parts[0], np.zeros((128 - vocabulary, 32), "<f4")])
        flat = np.concatenate([part.ravel() for part in parts])
        assert data[1024:] == (flat if version == 3 else to_bf16(flat)).tobytes(), path
        words = ["import", path, "--config", "gpt.toml", "--to", f"from-{dtype}", "optimizer.name=sgd"]
        assert "step 0, fresh optimizer states" in tool(*words).out
        found = runs.read_tensors(runs.checkpoints(f"from-{dtype}")[-1])
        same({name: found[name] for name in expected}, expected if version == 3 else
             {name: (to_bf16(array).astype("<u4") << 16).view("<f4") for name, array in expected.items()})
        assert not any(np.any(array) for name, array in found.items() if name.startswith("optimizer.")), "states are not fresh"
    losses = [re.search(r"validation loss: (\S+)", runs.tessera("evaluate", path).out)[1] for path in (two, "from-f32")]
    assert losses[0] == losses[1], losses
    runs.train("gpt.toml", "run.folder=from-f32", "optimizer.name=sgd", "training.steps=1")  # starts from these weights
    imported, fresh = (float(runs.metrics(name, "step")[0]["loss"]) for name in ("from-f32", "run"))
    assert imported < fresh - 0.01, f"{imported}, {fresh}"
    runs.train("gpt.toml", "run.folder=silu", "model.activation=silu", "training.steps=1")
    assert "model.activation" in tool("export", "--llmc", "silu.bin", "silu", code=2).err
    assert not os.path.exists("silu.bin")


def check_round_trip(two):
    """Step 2 through a file, and on to step 4: the same weights and states as the run that never stopped."""
    tool("export", "--safetensors", "all.safetensors", "--states", two)
    assert "step 2, the file's optimizer states" in tool("import", "all.safetensors", "--to", "again").out
    assert re.search(r"the same bits$", tool("diff", two, "again").out, re.MULTILINE)
    runs.train("gpt.toml", "run.folder=again")
    assert runs.metrics("again", "step")[0]["step"] == 3
    assert re.search(r"the same bits$", tool("diff", "run", "again").out, re.MULTILINE)
    tool("import", "two.safetensors", "--to", "start", "training.steps=1")  # its own config, fresh states
    assert "the" in runs.tessera("generate", "start", "--prompt", "the", "--tokens", 3).out, "the tokenizer is lost"


def check_hostile_safetensors():
    """Refused with a sentence, exit code 2, in little memory; what is not the format's never becomes a checkpoint."""
    def header(text, data=b""):
        text = text if isinstance(text, bytes) else json.dumps(text).encode()
        return struct.pack("<Q", len(text)) + text + data

    def one(dtype="F32", shape=(2,), offsets=(0, 8), name="embedding.weight"):
        return {name: {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}

    cases = {
        "short": (b"1234567", "is no safetensors file"),
        "huge header": (struct.pack("<Q", 2**63) + b"{}", "says that its header has 9223372036854775808"),
        "longer than the file": (struct.pack("<Q", 3) + b"{}", "is no safetensors file"),
        "no JSON": (header(b"{x"), "the text is not JSON (byte"),
        "deep": (header(b"[" * 100_000), "belongs"),
        "deep objects": (header(b'{"a":' * 100_000), "belongs"),
        "past the end": (header(one(offsets=(0, 8)), b"1234"), "its data_offsets say 0 to 8 of 4"),
        "overflow": (header(one(shape=(2**62, 2**62)), b"12345678"), "more elements than a 64-bit number"),
        "overflow to 0": (header(one(shape=(2**32, 2**32)), b"12345678"), "more elements than a 64-bit number"),
        "negative": (header(one(shape=(-2,)), b"12345678"), "no text, list or whole number"),
        "backwards": (header(one(offsets=(8, 0)), b"12345678"), "its data_offsets say 8 to 0"),
        "gap": (header({**one(shape=(1,), offsets=(0, 4)), **one(name="x", shape=(1,), offsets=(8, 12))}, b"1" * 12), "begins at byte 8"),
        "overlap": (header({**one(offsets=(0, 8)), **one(name="x", offsets=(4, 12))}, b"1" * 12), "begins at byte 4"),
        "left over": (header(one(), b"1" * 9), "9 follow the header"),
        "twice": (header(b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{}}', b"1234"), "names 'a' twice"),
        "dims": (header(one(shape=(1,) * 7, offsets=(0, 4)), b"1234"), "more than 6 dims"),
        "dtype": (header(one("F64", (1,)), b"1" * 8), "dtype 'F64'"),
        "no table": (header(one(name="x"), b"1" * 8), "no token table"),
    }
    for name, (content, said) in cases.items():
        pathlib.Path("hostile.safetensors").write_bytes(content)
        done = tool("import", "hostile.safetensors", "--config", "gpt.toml", "--to", "hostile", code=2)
        assert said in done.err and "hostile.safetensors" in done.err, f"{name}: {done.err}"
    for change, said in (((16, 2**30), "has "), ((24, 0), "no GPT-2 has"), ((28, 3), "no GPT-2 has"), ((4, 1), "version 1"),
                         ((12, -5), "no GPT-2 has"), ((20, 7), "no GPT-2 has")):
        data = bytearray(pathlib.Path("f32.bin").read_bytes())
        data[change[0]:change[0] + 4] = struct.pack("<i", change[1])
        pathlib.Path("hostile.bin").write_bytes(data)
        assert said in tool("import", "hostile.bin", "--config", "gpt.toml", "--to", "hostile", code=2).err, change
    assert not os.path.exists("hostile")


MEASURE = """import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


def check_memory():
    """A file of 214 MB in and out again, by processes that never hold as much."""
    dim, draw = 1024, np.random.default_rng(1)
    shapes = {"embedding.weight": (40_000, dim), "position.weight": (16, dim), "norm.scale": (dim,),
              "layers.0.attention_norm.scale": (dim,), "layers.0.mlp_norm.scale": (dim,),
              "layers.0.attention.qkv.weight": (3, 4, dim // 4, dim), "layers.0.attention.out.weight": (dim, 4, dim // 4),
              "layers.0.mlp.up.weight": (4 * dim, dim), "layers.0.mlp.down.weight": (dim, 4 * dim)}
    noise = draw.standard_normal(1 << 20, dtype="f4")
    write_safetensors("big.safetensors", {name: np.resize(noise, shape) for name, shape in shapes.items()})
    assert os.path.getsize("big.safetensors") > 200e6
    runs.write_config("big.toml", {"data.reader": "synthetic", "data.vocab_size": 40_000, "model.n_layers": 1, "model.n_heads": 4,
                                   "model.dim": dim, "training.seq_len": 16, "optimizer.name": "sgd", "optimizer.momentum": 0.0})
    checkpoint = "big/checkpoints/step-00000000"
    for words, most in ((["import", "big.safetensors", "--config", "big.toml", "--to", "big"], 60),
                        (["export", "--safetensors", "big2.safetensors", "big"], 60), (["diff", checkpoint, checkpoint], 80)):
        done = subprocess.run([sys.executable, "-S", "-c", MEASURE, runs.PROGRAM, "checkpoint", *words], env=runs.environment(),
                              capture_output=True, timeout=runs.TIMEOUT, check=True).stdout.split()
        assert int(done[0]) == 0, words
        print(f"checkpoint {words[0]}: {int(done[1]) / 1024:.0f} MiB at most")
        assert int(done[1]) < most << 10, f"{words[0]}: {int(done[1]) >> 10} MiB, expected below {most}"
    _, big = read_safetensors("big2.safetensors")
    assert all(np.array_equal(array.ravel()[-1000:], np.resize(noise, shapes[name]).ravel()[-1000:]) for name, (_, array) in big.items())


with runs.folder():
    runs.write_text("text.txt", 20_000)
    runs.write_config("gpt.toml", KEYS)
    runs.train("gpt.toml", "run.folder=run", ranks=2)
    step_two, step_four = map(str, runs.checkpoints("run"))
    check_inspect(step_two, step_four)
    check_verify(step_two)
    check_diff(step_two, step_four)
    check_average(step_two, step_four)
    check_export(step_two)
    check_llmc(step_two)
    check_padded_llmc()
    check_round_trip(step_two)
    check_hostile_safetensors()
    check_memory()

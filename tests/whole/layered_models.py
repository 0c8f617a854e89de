# SPDX-License-Identifier: Apache-2.0
"""Models of [[model.layers]] against PyTorch: first gradients, 50 losses and the accuracy of a LeNet on images in MNIST's
format, and of an MLP on a table. A stopped run goes on to the same bits on other ranks; every subcommand knows such models
or refuses them with a sentence; damaged files are refused with their place."""
import gzip
import os
import pathlib
import re
import struct
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import parity
import runs
import torch

STEPS, BATCH, CLASSES, SIDE = 20, 12, 5, 12

COMMON = f"""
[training]
steps = {STEPS}
global_batch_size = {BATCH}
local_batch_size = 4
max_norm = 0.0
[optimizer]
name = "adamw"
lr = 3e-3
weight_decay = 0.0
[lr_scheduler]
type = "constant"
warmup_steps = 0
[metrics]
evaluate_every = 0
[checkpoint]
interval = 0
"""
LENET = """
[data]
reader = "idx"
files = ["images.gz"]
label_files = ["labels"]
validation_files = ["more-images"]
validation_label_files = ["more-labels.gz"]
order = "sequential"
image_shape = [12, 12, 1]
classes = 5
[model]
type = "layers"
[[model.layers]]
name = "conv1"
type = "convolution"
filters = 6
kernel = 3
padding = 1
[[model.layers]]
type = "relu"
[[model.layers]]
type = "max_pool"
kernel = 2
[[model.layers]]
name = "conv2"
type = "convolution"
filters = 8
kernel = 3
[[model.layers]]
type = "relu"
[[model.layers]]
type = "average_pool"
kernel = 2
[[model.layers]]
type = "flatten"
[[model.layers]]
name = "fc1"
type = "linear"
outputs = 20
[[model.layers]]
type = "relu"
[[model.layers]]
name = "fc2"
type = "linear"
outputs = 5
[[model.layers]]
name = "loss"
type = "cross_entropy"
""" + COMMON
SIDE_BRANCH = """
[[model.layers]]
name = "conv3"
type = "convolution"
filters = 6
kernel = 3
padding = 1
groups = 2
inputs = ["conv1"]
[[model.layers]]
name = "sum"
type = "add"
inputs = ["conv3", "conv1"]
[[model.layers]]
type = "max_pool"
global = true
[[model.layers]]
type = "flatten"
[[model.layers]]
type = "layer_norm"
[[model.layers]]
type = "dropout"
probability = 0.2
[[model.layers]]
name = "side"
type = "linear"
outputs = 5
[[model.layers]]
name = "side_loss"
type = "cross_entropy"
weight = 0.25
"""
MLP = """
[data]
reader = "csv"
files = ["table.csv"]
target_columns = ["y", "z"]
order = "sequential"
validation_fraction = 0.2
[model]
type = "layers"
[[model.layers]]
name = "fc1"
type = "linear"
outputs = 24
[[model.layers]]
type = "silu"
[[model.layers]]
name = "fc2"
type = "linear"
outputs = 2
[[model.layers]]
type = "mean_squared_error"
""" + COMMON


def write_idx(path, array, magic=None):
    opened = gzip.open(path, "wb") if path.endswith(".gz") else open(path, "wb")
    with opened as file:
        file.write(struct.pack(">I", magic or 0x0800 | array.ndim) + struct.pack(f">{array.ndim}I", *array.shape))
        file.write(array.tobytes())


def write_images(count, images, labels, seed):
    draw = np.random.default_rng(seed)
    wanted = draw.integers(0, CLASSES, count).astype(np.uint8)
    pixels = draw.integers(0, 120, (count, SIDE, SIDE)).astype(np.uint8)
    for image, label in zip(pixels, wanted):
        image[label * 2:label * 2 + 3, label:label + 5] += 100
    write_idx(images, pixels)
    write_idx(labels, wanted)
    return pixels, wanted


class LeNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 6, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(6, 8, 3)
        self.fc1 = torch.nn.Linear(2 * 2 * 8, 20)
        self.fc2 = torch.nn.Linear(20, CLASSES)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.nn.functional.avg_pool2d(torch.relu(self.conv2(x)), 2)
        x = x.permute(0, 2, 3, 1).reshape(len(x), -1)  # our images have their channels last
        return self.fc2(torch.relu(self.fc1(x)))


class Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(3, 24)
        self.fc2 = torch.nn.Linear(24, 2)

    def forward(self, x):
        return self.fc2(torch.nn.functional.silu(self.fc1(x)))


def as_torch(name, tensor, like):
    """A tensor of ours in PyTorch's layout: (K, R, S, C) is (K, C, R, S) there."""
    tensor = torch.tensor(np.asarray(tensor, np.float64))
    return tensor.permute(0, 3, 1, 2) if "conv" in name and tensor.dim() == 4 else tensor.reshape(like.shape)


def load(model, tensors):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(as_torch(name, tensors[name], parameter))
    return model


def check_parity(what, model, inputs, targets, loss_of):
    """Returns the model with the weights that the program came to."""
    runs.train(f"{what}.toml", "run.folder=start", "training.steps=1", "optimizer.lr=0", "checkpoint.resume=never")
    tensors = runs.read_tensors(runs.checkpoints("start")[-1])
    model = load(model.double(), tensors)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(parity.STEPS):
        rows = [(step * BATCH + i) % len(inputs) for i in range(BATCH)]
        optimizer.zero_grad()
        loss = loss_of(model(inputs[rows]), targets[rows])
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            parity.expect_gradients(what, {
                name: as_torch(name, tensors["optimizer.first_moment/" + name], parameter) / 0.1 for name, parameter in model.named_parameters()
            }, parity.gradients(model))
        optimizer.step()
    runs.train(f"{what}.toml", f"run.folder={what}", f"training.steps={parity.STEPS}")
    parity.expect_losses(what, what, losses, falls=0.2)
    return load(model, runs.read_tensors(runs.checkpoints(what)[-1]))


def check_lenet():
    pixels, labels = write_images(60, "images.gz", "labels", 1)
    more, more_labels = write_images(24, "more-images", "more-labels.gz", 2)
    mean, deviation = pixels.mean(), pixels.std()
    normal = lambda images: torch.tensor((images - mean) / deviation).unsqueeze(1)
    model = check_parity("lenet", LeNet(), normal(pixels), torch.tensor(labels.astype(np.int64)),
                         torch.nn.functional.cross_entropy)
    record, = runs.metrics("lenet", "evaluation")
    logits, wanted = model(normal(more)), torch.tensor(more_labels.astype(np.int64))
    accuracy = (logits.argmax(1) == wanted).double().mean().item()
    assert list(record) == ["kind", "step", "loss", "accuracy", "samples"] and record["samples"] == 24, record
    assert float(record["accuracy"]) == accuracy and accuracy > 0.4, (record, accuracy)
    loss = torch.nn.functional.cross_entropy(logits, wanted).item()
    assert abs(float(record["loss"]) / loss - 1) < parity.LARGER_LOSS["lenet"], (record, loss)
    step = runs.metrics("lenet", "step")[0]
    assert step["samples"] == BATCH and "samples_per_second" in step and "tokens" not in step, step
    out = runs.tessera("evaluate", "lenet", ranks=2).out
    assert f"accuracy: {accuracy:.6f}  samples: 24" in out, out


def check_mlp():
    draw = np.random.default_rng(3)
    x = (draw.normal(size=(50, 3)) * [1, 20, 0.1] + [0, 5, 100]).astype(np.float32)
    y = np.stack([np.sin(x[:, 0]) + x[:, 1] / 20, x[:, 0] * (x[:, 2] - 100)], 1).astype(np.float32)
    lines = ["a,y,b,z,\"c, the last\""] + [f"{r[0]!r},{t[0]!r},{r[1]!r}, {t[1]!r} ,\"{r[2]!r}\"" for r, t in
                                          zip(x.tolist(), y.tolist())]
    pathlib.Path("table.csv").write_text("\r\n".join(lines) + "\r\n\n")
    train = x[:40].astype(np.float64)
    inputs = torch.tensor((train - train.mean(0)) / train.std(0))
    check_parity("mlp", Mlp(), inputs, torch.tensor(y[:40].astype(np.float64)), torch.nn.functional.mse_loss)


def check_resume():
    words = ["lenet.toml", "run.folder=resumed", "training.dtype=bf16"]
    runs.train("lenet.toml", "run.folder=straight", "training.dtype=bf16")
    runs.train(*words, "training.steps=9", ranks=3)
    runs.train(*words, f"training.steps={STEPS}", "parallelism.zero_stage=1", ranks=2)
    runs.expect_same(runs.read("straight"), runs.read("resumed"), "one run, and one that was stopped and resumed",
                     since=9)


def check_subcommands():
    out = runs.tessera("plan", "-n", 2, "lenet.toml", "data.files=['nowhere']", "parallelism.tensor_parallel_degree=2").out
    assert "GFLOP per step of 12 samples" in out and "conv2.weight" in out, out
    for name, words in {"lenet_fashion_mnist": [], "mlp_classifier": [], "mlp_regression": ["data.features=3"]}.items():
        path = os.path.join(os.environ["TESSERA_SOURCE"], "configs", name + ".toml")
        out = runs.tessera("plan", "-n", 4, path, "parallelism.zero_stage=1", *words).out  # which needs no data
        assert " samples\n" in out and "data 4" in out, out
    shown = runs.tessera("config", "show", "lenet.toml").out
    assert "model.layers[0].filters = 6" in shown, shown
    refuse(["generate", "lenet"], "model.type = \"layers\": writes no text")
    machine = os.path.join(os.environ["TESSERA_SOURCE"], "cluster", "machines", "cpu_100gb.toml")
    found = runs.tessera("plan", "--search", "-n", 4, "--machine", machine, "lenet.toml", "training.global_batch_size=2").out
    assert re.search(r"^ 1\. .*: step .* samples/s, ", found, re.MULTILINE) and " spatial" in found, found
    refuse(["train", "lenet.toml", "training.seq_len=8"], "nothing in this run reads it: training.seq_len")
    refuse(["train", "lenet.toml", "model.dim=8"], "nothing in this run reads it: model.dim")
    refuse(["train", "lenet.toml", "data.reader=idxx"], "no reader named 'idxx'; did you mean 'idx'?")


def check_layouts():
    """Bit for bit where the layout promises it: a pipeline whose stages a branch crosses; and tensor or spatial ranks, within
    rounding."""
    for words in (["parallelism.pipeline_schedule=zero_bubble", "parallelism.zero_stage=1", "training.recompute=full",
                   "parallelism.pipeline_parallel_degree=2"],
                  ["parallelism.tensor_parallel_degree=2"],
                  ["parallelism.spatial_parallel_degree=2"]):
        out = runs.tessera("verify", "-n", 4, "--steps", 3, "branch.toml", "training.global_batch_size=16", *words).out
        assert "3 steps: all agree" in out, out
        assert ("the same bits are promised" in out) == ("pipeline" in words[0]), out
    runs.train("branch.toml", "run.folder=branch", "training.dtype=f16", "training.steps=3")
    step, record = runs.metrics("branch", "step")[0], runs.metrics("branch", "evaluation")[-1]
    whole, main, side = (float(record[name]) for name in ("loss", "loss.loss", "side_loss.loss"))
    assert abs(whole - (main + 0.25 * side)) < 1e-6 and "side_loss.loss" in step and "loss_scale" in step, (step, record)
    assert {"loss.accuracy", "side_loss.accuracy"} < set(record), record


def refuse(words, sentence, code=2):
    err = runs.tessera(*words, code=code).err
    assert sentence in err and err.count("\n") == 1, f"{words}: expected {sentence!r}, got:\n{err}"


def check_damaged_files():
    whole = pathlib.Path("more-images").read_bytes()
    packed = pathlib.Path("images.gz").read_bytes()
    def damaged(path, content, sentence, key="data.files"):
        pathlib.Path(path).write_bytes(content)
        refuse(["train", "lenet.toml", f"{key}=['{path}']"], f"{path}: {sentence}", code=3)
    damaged("cut", whole[:-1], "truncated: its header says (24, 12, 12), 3456 bytes, but 3455 follow it")
    damaged("long", whole + b"x", "its header says (24, 12, 12), 3456 bytes, but more follow it")
    damaged("header", whole[:6], "truncated within its header")
    damaged("magic", b"\x89PNG" + whole[4:], "not an IDX file: it begins with 0x89504e47")
    damaged("floats", whole[:2] + b"\x0d" + whole[3:], "elements of type 0x0d, expected 0x08, bytes")
    damaged("huge", whole[:4] + b"\xff" * 12 + whole[16:], "its header says (4294967295, 4294967295, 4294967295) bytes, too many")
    damaged("none", whole[:4] + b"\0" * 12, "dim 0 has the size 0")
    damaged("cut.gz", packed[:-20], f"the packed file is cut off after {len(packed) - 20} bytes")
    damaged("broken.gz", packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:], "the packed file is damaged near byte")
    damaged("few", b"\0\0\x08\x01\0\0\0\x02\0\1", "2 labels, but images.gz has 60 images", "data.label_files")
    labels = bytearray(pathlib.Path("labels").read_bytes())
    labels[8 + 17] = 5
    damaged("beyond", bytes(labels), "label number 17 is 5, beyond the 5 classes", "data.label_files")
    refuse(["train", "lenet.toml", "data.image_shape=[12,12,3]"], "images.gz: images are (12, 12, 1), data.image_shape says (12, 12, 3)")
    def table(text, sentence, *words, code=3):
        pathlib.Path("wrong.csv").write_text(text)
        refuse(["train", "mlp.toml", "data.files=['wrong.csv']", *words], sentence, code)
    table("a,y,z\n1,2,3\n1,2\n", "wrong.csv:3: 2 fields, expected 3")
    table("a,y,z\n1,2,3\n\n1,x,3\n", "wrong.csv:4: column 'y' is 'x', expected a number")
    table("a,y,z\n1,2,nan\n", "wrong.csv:2: column 'z' is 'nan', expected a number")
    table("a,y,z\n1,\"2,3\n", "wrong.csv:2: a quote is opened and never closed")
    table("a,y,w\n", "wrong.csv:1: no column named 'z'")
    table("a,y,y\n", "wrong.csv:1: two columns are named 'y'")
    table("y,z\n", "wrong.csv:1: no column is left to be a feature")
    table("a,y,z\n", "wrong.csv: no sample is left to train on")
    table("a,y,z\n1,2,3\n", "wrong.csv:1: 1 columns are features, data.features says 2", "data.features=2")
    table("a,y,z\n1,2,3\n", "say what is to be found", "data.target_columns=[]", code=2)


with runs.folder():
    branch = LENET.replace(COMMON, SIDE_BRANCH + COMMON)
    for name, text in {"lenet": LENET, "branch": branch, "mlp": MLP}.items():
        pathlib.Path(f"{name}.toml").write_text(text)
    check_lenet()
    check_mlp()
    check_resume()
    check_layouts()
    check_subcommands()
    check_damaged_files()

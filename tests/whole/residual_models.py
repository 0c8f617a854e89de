# SPDX-License-Identifier: Apache-2.0
"""A residual network with batch norms and one with a transposed convolution against PyTorch: first gradients, 50 losses,
running statistics and the accuracy that they lead to. The same bits on 1, 2 and 4 ranks, of training on images that are
changed by chance, too; skipped steps leave the running statistics alone."""
import os
import pathlib
import struct
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import parity
import runs
import torch
from torch.nn import functional

STEPS, BATCH, MICRO_BATCH, CLASSES, SIDE, IMAGES = 20, 12, 4, 5, 9, 60
STATISTIC = 1e-5  # relative

DATA = f"""
[data]
reader = "idx"
files = ["images"]
label_files = ["labels"]
validation_files = ["more-images"]
validation_label_files = ["more-labels"]
order = "sequential"
image_shape = [{SIDE}, {SIDE}, 1]
classes = {CLASSES}
[model]
type = "layers"
[training]
steps = {STEPS}
global_batch_size = {BATCH}
local_batch_size = {MICRO_BATCH}
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
RESIDUAL = """
[[model.layers]]
name = "conv"
type = "convolution"
filters = 8
kernel = 3
padding = 1
bias = false
[[model.layers]]
name = "norm"
type = "batch_norm"
[[model.layers]]
type = "relu"
[[model.layers]]
name = "plain"
type = "residual_blocks"
filters = 8
blocks = 2
init_scale = 0.5
[[model.layers]]
name = "narrow"
type = "residual_blocks"
filters = 16
stride = 2
bottleneck = true
momentum = 0.2
init_scale = 1.0
[[model.layers]]
type = "average_pool"
global = true
[[model.layers]]
type = "flatten"
[[model.layers]]
name = "fc"
type = "linear"
outputs = 5
[[model.layers]]
name = "loss"
type = "cross_entropy"
""" + DATA
TRANSPOSED = """
[[model.layers]]
name = "conv"
type = "convolution"
filters = 6
kernel = 3
stride = 2
padding = 1
[[model.layers]]
type = "silu"
[[model.layers]]
name = "back_conv"
type = "transposed_convolution"
filters = 4
kernel = [3, 2]
stride = 2
padding = [1, 0]
output_padding = [1, 0]
groups = 2
[[model.layers]]
type = "relu"
[[model.layers]]
type = "flatten"
[[model.layers]]
name = "fc"
type = "linear"
outputs = 5
[[model.layers]]
name = "loss"
type = "cross_entropy"
""" + DATA


def write_idx(path, array):
    header = struct.pack(">I", 0x0800 | array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    pathlib.Path(path).write_bytes(header + array.tobytes())


def write_images(count, images, labels, seed):
    draw = np.random.default_rng(seed)
    wanted = draw.integers(0, CLASSES, count).astype(np.uint8)
    pixels = draw.integers(0, 120, (count, SIDE, SIDE)).astype(np.uint8)
    for image, label in zip(pixels, wanted):
        image[label:label + 3, :2 + label] += 120
    write_idx(images, pixels)
    write_idx(labels, wanted)
    return pixels, torch.tensor(wanted.astype(np.int64))


class Norm(torch.nn.Module):
    """Of each micro-batch alone; what a step has of them moves the running statistics once."""

    def __init__(self, channels, momentum):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(channels))
        self.bias = torch.nn.Parameter(torch.zeros(channels))
        self.momentum, self.seen = momentum, []
        self.running_mean, self.running_variance = torch.zeros(channels).double(), torch.ones(channels).double()

    def forward(self, x):
        if not self.training:
            return functional.batch_norm(x, self.running_mean, self.running_variance, self.scale, self.bias)
        with torch.no_grad():
            self.seen.append((x.mean((0, 2, 3)), x.var((0, 2, 3))))
        return functional.batch_norm(x, None, None, self.scale, self.bias, training=True)

    def end_step(self):
        for running, seen in zip((self.running_mean, self.running_variance), zip(*self.seen)):
            running += self.momentum * (torch.stack(seen).mean(0) - running)
        self.seen = []


def convolution(inputs, outputs, size, stride=1):
    return torch.nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


class Block(torch.nn.Module):
    def __init__(self, sizes, widths, stride, momentum):
        super().__init__()
        self.count = len(sizes)
        at = sizes.index(3) + 1  # the convolution that has the stride
        for i, size in enumerate(sizes, 1):
            setattr(self, f"conv{i}", convolution(widths[i - 1], widths[i], size, stride if i == at else 1))
            setattr(self, f"norm{i}", Norm(widths[i], momentum))
        self.projects = stride != 1 or widths[0] != widths[-1]
        if self.projects:
            self.conv_shortcut = convolution(widths[0], widths[-1], 1, stride)
            self.norm_shortcut = Norm(widths[-1], momentum)

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.count else y
        return torch.relu(y + (self.norm_shortcut(self.conv_shortcut(x)) if self.projects else x))


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = convolution(1, 8, 3), Norm(8, 0.1)
        self.plain = torch.nn.Sequential(*[Block([3, 3], [8, 8, 8], 1, 0.1) for _ in range(2)])
        self.narrow = torch.nn.Sequential(Block([1, 3, 1], [8, 4, 4, 16], 2, 0.2))
        self.fc = torch.nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.narrow(self.plain(torch.relu(self.norm(self.conv(x)))))
        return self.fc(x.mean((2, 3)))


class Transposed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.back_conv = torch.nn.ConvTranspose2d(6, 4, (3, 2), stride=2, padding=(1, 0), output_padding=(1, 0), groups=2)
        self.fc = torch.nn.Linear(10 * 10 * 4, CLASSES)

    def forward(self, x):
        x = torch.relu(self.back_conv(functional.silu(self.conv(x))))
        return self.fc(x.permute(0, 2, 3, 1).reshape(len(x), -1))  # our images have their channels last


def as_torch(tensor, like):
    """(K, R, S, C) is (K, C, R, S) there."""
    tensor = torch.tensor(np.asarray(tensor, np.float64))
    return tensor.permute(0, 3, 1, 2) if like.dim() == 4 else tensor.reshape(like.shape)


def load(model, tensors):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(as_torch(tensors[name], parameter))
    return model


def norms_of(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, Norm)}


def check_parity(what, model, images, labels, more, more_labels):
    runs.train(f"{what}.toml", "run.folder=start", "training.steps=1", "optimizer.lr=0", "checkpoint.resume=never")
    tensors = runs.read_tensors(runs.checkpoints("start")[-1])
    model = load(model.double(), tensors)
    assert {name for name in tensors if not name.startswith(("optimizer.", "running"))} >= set(dict(model.named_parameters()))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(parity.STEPS):
        optimizer.zero_grad()
        sum_of_losses = 0
        for part in np.split(np.arange(step * BATCH, (step + 1) * BATCH) % IMAGES, BATCH // MICRO_BATCH):
            loss = functional.cross_entropy(model(images[part]), labels[part], reduction="sum") / BATCH
            loss.backward()
            sum_of_losses += loss.item()
        losses.append(sum_of_losses)
        if step == 0:
            parity.expect_gradients(what, {
                name: as_torch(tensors["optimizer.first_moment/" + name], parameter) / 0.1 for name, parameter in model.named_parameters()
            }, parity.gradients(model))
        optimizer.step()
        for norm in norms_of(model).values():
            norm.end_step()
    runs.train(f"{what}.toml", f"run.folder={what}", f"training.steps={parity.STEPS}")
    parity.expect_losses(what, what, losses, falls=0.1)
    trained = runs.read_tensors(runs.checkpoints(what)[-1])
    for name, norm in norms_of(model).items():
        for field in ("running_mean", "running_variance"):
            error_of = parity.distance(trained[f"{name}.{field}"], getattr(norm, field))
            assert error_of < STATISTIC, f"{what}: {name}.{field}: relative error {error_of:.2e}"
    load(model, trained).eval()
    record, = runs.metrics(what, "evaluation")
    logits = model(more)
    assert float(record["accuracy"]) == (logits.argmax(1) == more_labels).double().mean().item(), record
    loss = functional.cross_entropy(logits, more_labels).item()
    assert abs(float(record["loss"]) / loss - 1) < parity.LARGER_LOSS["transposed"], (record, loss)


def check_bits():
    """Of ranks, ZeRO, a pipeline, recomputation, and of a run that was stopped; images changed by chance."""
    augmented = ["data.random_crop=2", "data.random_flip=true", "data.cutout=3", "data.order=shuffle",
                 "training.global_batch_size=16", "metrics.evaluate_every=10"]
    def trained(name, *words, ranks=1):
        runs.train("residual.toml", f"run.folder={name}", *augmented, *words, ranks=ranks)
        return runs.read(name)
    one = trained("bits-1")
    assert "plain.1.norm2.running_variance" in one.tensors, sorted(one.tensors)
    pipeline = "parallelism.pipeline_parallel_degree=2"
    for name, words, ranks in (("2", [], 2), ("3", ["parallelism.zero_stage=1"], 3), ("4", ["parallelism.zero_stage=3"], 4),
                               ("stages", [pipeline, "training.recompute=full"], 4), ("messages", ["parallelism.shared_memory=false"], 2)):
        runs.expect_same(one, trained(f"bits-{name}", *words, ranks=ranks), f"batch norms: 1 rank and {name}")
    trained("stopped", "training.steps=9", ranks=2)
    runs.expect_same(one, trained("stopped"), "batch norms: one run, and one that was stopped", since=9)
    assert runs.tessera("evaluate", "bits-1").out == runs.tessera("evaluate", "bits-4", ranks=2).out.replace("bits-4", "bits-1")
    plain = trained("plain", "data.cutout=0")
    assert plain.losses[1] != one.losses[1], "nothing is cut out"


def check_layouts():
    for words in (["parallelism.spatial_parallel_degree=2"],
                  ["parallelism.spatial_parallel_degree=2", "parallelism.spatial_parallel_width_degree=2"],
                  ["parallelism.pipeline_parallel_degree=2"]):
        for model in ("residual", "transposed"):
            if model == "transposed" and len(words) == 2:
                continue
            out = runs.tessera("verify", "-n", 4, "--steps", 3, f"{model}.toml", "training.global_batch_size=16", *words).out
            assert "3 steps: all agree" in out, out


def check_skipped_steps():
    """A loss that is out of the ordinary changes no statistic; in f16 neither does one that is not finite."""
    runs.train("residual.toml", "run.folder=skipped", "training.dtype=f16", "training.steps=1", "training.loss_scale=16777216")
    record, = runs.metrics("skipped", "step")
    assert record["skipped_steps"] == 1, record
    tensors = runs.read_tensors(runs.checkpoints("skipped")[-1])
    for name, expected in (("norm.running_mean", 0), ("norm.running_variance", 1)):
        assert (np.asarray(tensors[name]) == expected).all(), (name, tensors[name])


def refuse(words, sentence, code=2):
    err = runs.tessera("train", "residual.toml", *words, code=code).err
    assert sentence in err and err.count("\n") == 1, f"{words}: expected {sentence!r}, got:\n{err}"


def check_refusals():
    text = pathlib.Path("residual.toml").read_text()
    def model(old, new, sentence):
        assert old in text, old
        pathlib.Path("wrong.toml").write_text(text.replace(old, new))
        err = runs.tessera("train", "wrong.toml", code=2).err
        assert sentence in err and err.count("\n") == 1, f"expected {sentence!r}, got:\n{err}"
    model("momentum = 0.2", "momentum = 0", "must be above 0 and at most 1")
    model("blocks = 2", "blocks = 0", "must be from 1 to 1000")
    model("filters = 16", "filters = 18", "must be a multiple of 4, above 0")
    model("stride = 2", "stride = [2, 2]", "expected one number, at least 1")
    refuse(["data.random_crop=9"], "must be from 0 to 8: images are (9, 9, 1)")
    refuse(["data.cutout=10"], "must be from 0 to 9: images are (9, 9, 1)")
    runs.train("transposed.toml", "run.folder=other", "training.steps=1")
    text = pathlib.Path("transposed.toml").read_text()
    model("output_padding = [1, 0]", "output_padding = 2", "must be below the stride")
    model("groups = 2", "groups = 3", "expected a multiple of 3 groups")
    model("\npadding = [1, 0]", "\npadding = 99", "the result would be")


with runs.folder():
    for name, text in {"residual": RESIDUAL, "transposed": TRANSPOSED}.items():
        pathlib.Path(f"{name}.toml").write_text(text)
    pixels, labels = write_images(IMAGES, "images", "labels", 1)
    more, more_labels = write_images(24, "more-images", "more-labels", 2)
    normal = lambda images: torch.tensor((images - pixels.mean()) / pixels.std()).unsqueeze(1)
    for name, kind in {"residual": Residual, "transposed": Transposed}.items():
        check_parity(name, kind(), normal(pixels), labels, normal(more), more_labels)
    check_bits()
    check_layouts()
    check_skipped_steps()
    check_refusals()

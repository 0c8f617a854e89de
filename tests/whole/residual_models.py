# SPDX-License-Identifier: Apache-2.0
"""A residual network with batch norms and one with two transposed convolutions, side by side, against PyTorch: first gradients, 50 losses,
running statistics and the accuracy that they lead to, and so where ranks share out a micro-batch. The same bits on 1, 2 and 4 ranks, of
training on images that are changed by chance, too; skipped steps leave the running statistics alone."""
import os
import pathlib
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import runs
import torch
from image_parity import CLASSES, DATA, Norm, check, write_data
from torch.nn import functional

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
name = "active"
type = "silu"
[[model.layers]]
name = "back_conv"
type = "transposed_convolution"
filters = 2
kernel = [3, 2]
stride = 2
padding = [1, 0]
output_padding = [1, 0]
dilation = [2, 3]
groups = 2
[[model.layers]]
name = "other"
type = "transposed_convolution"
inputs = ["active"]
filters = 2
kernel = 4
stride = 2
[[model.layers]]
name = "both"
type = "concat"
inputs = ["back_conv", "other"]
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
        self.back_conv = torch.nn.ConvTranspose2d(6, 2, (3, 2), stride=2, padding=(1, 0), output_padding=(1, 0), dilation=(2, 3), groups=2)
        self.other = torch.nn.ConvTranspose2d(6, 2, 4, stride=2)
        self.fc = torch.nn.Linear(12 * 12 * 4, CLASSES)

    def forward(self, x):
        active = functional.silu(self.conv(x))
        x = torch.relu(torch.cat([self.back_conv(active), self.other(active)], 1))
        return self.fc(x.permute(0, 2, 3, 1).reshape(len(x), -1))  # our images have their channels last


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
                  ["parallelism.sample_parallel_degree=2", "training.local_batch_size=3", "training.global_batch_size=12"],
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
    images = write_data()
    # Of the 4 images of a micro-batch 3 ranks have 2, 1 and 1: batch norms see all of them.
    check("residual", Residual(), *images, layouts=[((), 0), (["parallelism.sample_parallel_degree=3"], 3)])
    check("transposed", Transposed(), *images)
    check_bits()
    check_layouts()
    check_skipped_steps()
    check_refusals()

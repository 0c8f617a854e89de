# SPDX-License-Identifier: Apache-2.0
"""What the other networks of [[model.layers]] do without, against PyTorch: windows that are not square, groups, depth-wise and
spread filters, overlapping, spread, padded and global pools, sums of branches, every activation, norms of rows."""
import os
import pathlib
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs
import torch
from image_parity import CLASSES, DATA, Norm, check, write_data
from torch.nn import functional


def layers(*lines):
    """Each "NAME TYPE, KEY = VALUE, …"; NAME may be -."""
    text = ""
    for line in lines:
        first, *keys = line.split("; ")
        name, kind = first.split()
        text += "\n".join(["[[model.layers]]", *([f'name = "{name}"'] if name != "-" else []), f'type = "{kind}"', *keys]) + "\n"
    return text


OPTIONS = layers(
    "conv convolution; filters = 6; kernel = [3, 2]; padding = 1",  # (9, 9, 1) -> (9, 10, 6)
    "first tanh",
    "depth convolution; filters = 6; kernel = 3; padding = 1; groups = 6; bias = false",
    "sum add; inputs = ['depth', 'first']",
    "- gelu",
    "spread convolution; filters = 9; kernel = 3; padding = 2; dilation = 2; groups = 3",
    "both gelu_tanh",
    "- max_pool; kernel = 3; stride = 2; padding = 1",  # (5, 5, 9)
    "- average_pool; kernel = 3; stride = 2; padding = 1; count_padding = false",  # (3, 3, 9)
    "- flatten",
    "rows layer_norm",
    "- silu",
    "narrow linear; outputs = 16; bias = false",
    "norm batch_norm",
    "- max_pool; kernel = 3; stride = 1; padding = 1; dilation = 2; inputs = ['both']",  # (7, 8, 9)
    "- average_pool; kernel = 2; padding = 1",  # (4, 5, 9)
    "- max_pool; global = true",
    "- flatten",
    "root rms_norm",
    "wide linear; outputs = 16",
    "all add; inputs = ['wide', 'norm']",
    "- relu",
    f"fc linear; outputs = {CLASSES}",
    "loss cross_entropy")


class Scale(torch.nn.Module):
    def __init__(self, width, bias):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(width))
        self.bias = torch.nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        if self.bias is None:
            return x * (x.square().mean(1, keepdim=True) + 1e-5).rsqrt() * self.scale
        return functional.layer_norm(x, self.scale.shape, self.scale, self.bias, eps=1e-5)


class Options(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 6, (3, 2), padding=1)
        self.depth = torch.nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.spread = torch.nn.Conv2d(6, 9, 3, padding=2, dilation=2, groups=3)
        self.rows, self.narrow, self.norm = Scale(81, True), torch.nn.Linear(81, 16, bias=False), Norm(16, 0.1)
        self.root, self.wide, self.fc = Scale(9, False), torch.nn.Linear(9, 16), torch.nn.Linear(16, CLASSES)

    def forward(self, x):
        first = torch.tanh(self.conv(x))
        both = functional.gelu(self.spread(functional.gelu(self.depth(first) + first)), approximate="tanh")
        x = functional.avg_pool2d(functional.max_pool2d(both, 3, 2, 1), 3, 2, 1, count_include_pad=False)
        x = self.norm(self.narrow(functional.silu(self.rows(x.permute(0, 2, 3, 1).flatten(1)))))  # our images have their channels last
        y = functional.avg_pool2d(functional.max_pool2d(both, 3, 1, 1, dilation=2), 2, padding=1)
        return self.fc(torch.relu(self.wide(self.root(y.amax((2, 3)))) + x))


with runs.folder():
    pathlib.Path("options.toml").write_text(OPTIONS + DATA)
    check("options", Options(), *write_data())

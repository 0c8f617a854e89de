# SPDX-License-Identifier: Apache-2.0
"""Networks of [[model.layers]] on small images beside the same in PyTorch: for the scripts in tests/whole.

    data = image_parity.write_data()                   # IDX files in the present folder
    image_parity.check("NAME", TorchModule(), *data)   # NAME.toml: its layers, then image_parity.DATA

First gradients, parity.STEPS losses, running statistics, and the evaluation that the program's weights lead to."""

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


def write_images(count, images, labels, seed):
    draw = np.random.default_rng(seed)
    wanted = draw.integers(0, CLASSES, count).astype(np.uint8)
    pixels = draw.integers(0, 120, (count, SIDE, SIDE)).astype(np.uint8)
    for image, label in zip(pixels, wanted):
        image[label:label + 3, :2 + label] += 120
    runs.write_idx(images, pixels)
    runs.write_idx(labels, wanted)
    return pixels, torch.tensor(wanted.astype(np.int64))


def write_data():
    """Images (N, 1, SIDE, SIDE), normalised, and their labels, to train on and to evaluate on."""
    pixels, labels = write_images(IMAGES, "images", "labels", 1)
    more, more_labels = write_images(24, "more-images", "more-labels", 2)
    normal = lambda images: torch.tensor((images - pixels.mean()) / pixels.std()).unsqueeze(1)
    return normal(pixels), labels, normal(more), more_labels


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
            others = [dim for dim in range(x.dim()) if dim != 1]
            self.seen.append((x.mean(others), x.var(others)))
        return functional.batch_norm(x, None, None, self.scale, self.bias, training=True)

    def end_step(self):
        for running, seen in zip((self.running_mean, self.running_variance), zip(*self.seen)):
            running += self.momentum * (torch.stack(seen).mean(0) - running)
        self.seen = []


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


def trained(what, model, images, labels, gradients):
    """The losses in PyTorch; its first gradients beside ours, of each layout."""
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
        for ours in gradients if step == 0 else ():
            parity.expect_gradients(what, {name: as_torch(ours[name], parameter) for name, parameter in model.named_parameters()},
                                    parity.gradients(model))
        optimizer.step()
        for norm in norms_of(model).values():
            norm.end_step()
    return losses


def start_of(what, words, ranks):
    """Tensors at the start, and the first gradients among them."""
    runs.train(f"{what}.toml", "run.folder=start", "training.steps=1", "optimizer.lr=0", "checkpoint.resume=never", *words, ranks=ranks)
    moment, tensors = "optimizer.first_moment/", runs.read_tensors(runs.checkpoints("start")[-1])
    return tensors, {name.removeprefix(moment): np.asarray(tensor, np.float64) / 0.1
                     for name, tensor in tensors.items() if name.startswith(moment)}


def check(what, model, images, labels, more, more_labels, layouts=(((), 0),)):
    """Each layout: words of a command line, and how many ranks run them."""
    starts = [start_of(what, *layout) for layout in layouts]
    tensors = starts[0][0]
    model = load(model.double(), tensors)
    assert {name for name in tensors if not name.startswith(("optimizer.", "running"))} >= set(dict(model.named_parameters()))
    losses = trained(what, model, images, labels, [gradients for _, gradients in starts])
    statistics = {f"{name}.{field}": getattr(norm, field) for name, norm in norms_of(model).items()
                  for field in ("running_mean", "running_variance")}
    for number, (words, ranks) in enumerate(layouts):
        run = f"{what}-{number}"
        runs.train(f"{what}.toml", f"run.folder={run}", f"training.steps={parity.STEPS}", *words, ranks=ranks)
        parity.expect_losses(what, run, losses, falls=0.1)
        tensors = runs.read_tensors(runs.checkpoints(run)[-1])
        for name, expected in statistics.items():
            error_of = parity.distance(tensors[name], expected)
            assert error_of < STATISTIC, f"{run}: {name}: relative error {error_of:.2e}"
        load(model, tensors).eval()
        record, = runs.metrics(run, "evaluation")
        logits = model(more)
        assert float(record["accuracy"]) == (logits.argmax(1) == more_labels).double().mean().item(), record
        loss = functional.cross_entropy(logits, more_labels).item()
        assert abs(float(record["loss"]) / loss - 1) < parity.LARGER_LOSS["transposed"], (record, loss)

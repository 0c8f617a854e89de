#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Trains, in PyTorch, the models of configs/ that models_vs_pytorch measures, over data that lie in memory.

    pytorch_models.py MODEL RESULT.json --batch 128 --micro-batches 128 16 --steps 100 --warmup 10 [--threads 2] [--rank 0 --ranks 2]

Of each micro-batch size, and of each order of an image in memory (NCHW, NHWC), the seconds of every step behind the warm-up.
With several ranks a step's micro-batches are shared, and their gradients summed by DistributedDataParallel over gloo.
"""
import argparse
import contextlib
import json
import time

import pytorch_gpt
import pytorch_transformers
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

ROWS_KEPT = 512  # images or rows of a table; steps go over them again and again


class Block(nn.Module):
    """He et al. 2015, two convolutions of 3 x 3."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = nn.functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return nn.functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


def stages(widths, blocks):
    inputs = widths[0]
    for stage, outputs in enumerate(widths):
        for block in range(blocks):
            yield Block(inputs, outputs, 2 if stage > 0 and block == 0 else 1)
            inputs = outputs


def lenet():
    return nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5),
                         nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 96), nn.ReLU(inplace=True),
                         nn.Dropout(0.3), nn.Linear(96, 10))


def resnet_small():
    return nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
                         nn.MaxPool2d(2), *stages([32, 64, 128], 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(128, 10))


def resnet18():
    return nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                         nn.MaxPool2d(3, 2, 1), *stages([64, 128, 256, 512], 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(512, 1000))


def mlp(inputs, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 100), nn.ReLU(inplace=True), nn.Linear(100, 50),
                         nn.ReLU(inplace=True), nn.Linear(50, outputs))


class Words(nn.Module):
    """The word-level generator; its state goes on from step to step."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10000, 256)
        self.lstm = nn.LSTM(256, 1024, batch_first=True)
        self.head = nn.Linear(1024, 10000)

    def forward(self, tokens, state):
        x = nn.functional.dropout(self.embedding(tokens), 0.2)
        y, state = self.lstm(x, state)
        return self.head(nn.functional.dropout(y, 0.3)).flatten(0, 1), state


def classes(model, rows, of):
    return nn.functional.cross_entropy(model(rows), of)


def numbers(model, rows, of):
    return nn.functional.mse_loss(model(rows), of)


def own(model, rows, of):
    return model(rows, of)


CHARACTERS = 65
transformers = {"gpt_char": pytorch_gpt.Gpt, "llama_char": pytorch_transformers.Llama,
                "gpt_moe_char": pytorch_transformers.MoeGpt, "bert_char": pytorch_transformers.Bert,
                "t5_char": pytorch_transformers.T5}


class Setting:
    """A model, what it learns from, and how: its loss of given rows, and its optimizer."""

    def __init__(self, name):
        adamw = {"weight_decay": 0.01, "lr": 1e-3}
        self.clips, self.loss, self.state = name != "resnet18", classes, None
        if name == "mlp_classifier":
            self.model, self.x, self.y = mlp(784, 10), torch.rand(ROWS_KEPT, 1, 28, 28), torch.randint(10, (ROWS_KEPT,))
        elif name == "mlp_regression":
            self.model, self.x, self.y = mlp(10, 1), torch.randn(ROWS_KEPT, 10), torch.randn(ROWS_KEPT, 1)
            self.loss = numbers
        elif name in ("lenet_fashion_mnist", "resnet_fashion_mnist"):
            self.model = lenet() if name == "lenet_fashion_mnist" else resnet_small()
            self.x, self.y = torch.rand(ROWS_KEPT, 1, 28, 28), torch.randint(10, (ROWS_KEPT,))
        elif name in transformers:
            self.model, self.loss = transformers[name](CHARACTERS), own
            windows = torch.randint(CHARACTERS, (ROWS_KEPT, pytorch_gpt.block + 1))
            self.x, self.y = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
        elif name == "vit_fashion_mnist":
            self.model, self.loss = pytorch_transformers.Vit(), own
            self.x, self.y = torch.rand(ROWS_KEPT, 1, 28, 28), torch.randint(10, (ROWS_KEPT,))
        elif name == "resnet18":
            self.model, self.x, self.y = resnet18(), torch.rand(64, 3, 224, 224), torch.randint(1000, (64,))
        elif name == "lstm_words":
            self.model, self.loss = Words(), self.words
            stream = torch.randint(10000, (64, 36))  # the rows of two steps
            self.x, self.y = stream[:, :-1].contiguous(), stream[:, 1:].contiguous()
        if name == "resnet18":
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True,
                                             weight_decay=1e-4, foreach=True)
        else:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), **adamw, foreach=True)

    def words(self, model, rows, of):
        logits, state = model(rows, self.state)
        self.state = tuple(one.detach() for one in state)
        return nn.functional.cross_entropy(logits, of.flatten())


def train(name, order, micro_batch, options):
    """The seconds of each step behind the warm-up, and the parameters' number."""
    torch.manual_seed(1 + options.rank)
    setting = Setting(name)
    module = setting.model.to(memory_format=order)
    x = setting.x.contiguous(memory_format=order) if setting.x.dim() == 4 else setting.x
    model = module
    if options.ranks > 1:
        model = DistributedDataParallel(module, gradient_as_bucket_view=True, broadcast_buffers=False)
    parameters = list(module.parameters())
    mine = options.batch // options.ranks
    micro_batch = min(micro_batch, mine)
    starts = range(0, mine, micro_batch)
    seconds, at = [], 0
    before = time.perf_counter()
    for _ in range(options.warmup + options.steps):
        for start in starts:
            last = start + micro_batch >= mine
            with contextlib.nullcontext() if last or options.ranks == 1 else model.no_sync():
                rows, of = x[at:at + micro_batch], setting.y[at:at + micro_batch]
                at = (at + micro_batch) % (len(x) - micro_batch + 1)
                loss = setting.loss(model, rows, of)
                (loss if len(starts) == 1 else loss / len(starts)).backward()
        if setting.clips:
            nn.utils.clip_grad_norm_(parameters, 1.0)
        setting.optimizer.step()
        setting.optimizer.zero_grad(set_to_none=True)
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    return seconds[options.warmup:], sum(one.numel() for one in parameters)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("result")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--micro-batches", type=int, nargs="+", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--port", type=int, default=29500)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.ranks > 1:
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{options.port}", rank=options.rank,
                                             world_size=options.ranks)
    convolves = any(word in options.model for word in ("lenet", "resnet"))
    orders = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last} if convolves else {"": torch.contiguous_format}
    results = []
    for micro_batch in options.micro_batches:
        for order, memory in orders.items():
            seconds, parameters = train(options.model, memory, micro_batch, options)
            results.append({"micro_batch": micro_batch, "order": order, "seconds": seconds, "parameters": parameters})
    if options.rank == 0:
        with open(options.result, "w", encoding="utf-8") as file:
            json.dump(results, file)


if __name__ == "__main__":
    main()

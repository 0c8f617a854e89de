# SPDX-License-Identifier: Apache-2.0
"""The peer of gpu_vs_pytorch: a GPT in PyTorch, trained as fast as PyTorch can without kernels of one's own: torch.compile,
flash attention, fused AdamW, bf16 autocast over f32 weights, no waiting for the GPU between steps.

    pytorch_gpt_gpu.py '{"checkpoint": null, "tokens": "tokens.bin", "rows": 32, …}'     see Settings

Then a command in JSON per line on the standard input, and an answer in JSON per line on the standard output:
    {"do": "train", "steps": 20}   go on for so many steps: {"seconds": […], "losses": […], "wall": …}
    {"do": "memory"}               the most bytes that tensors had since the last rest, and that PyTorch took from the GPU
    {"do": "rest"}                 give unused memory back, to let others have the GPU
    {"do": "ceilings"}             FLOP/s of an 8192 x 8192 x 8192 product in bf16, bytes/s of a copy
Needs torch 2.3 or later.
"""
import contextlib
import json
import math
import sys
import time
import typing

import numpy as np
import reference_gpt
import torch
from torch import nn
from torch.nn import functional


class Settings(typing.NamedTuple):
    tokens: str  # a .bin file of 16-bit tokens, read window after window
    vocabulary: int
    n_layers: int
    n_heads: int
    dim: int
    block: int
    bias: bool
    gelu: str  # exact or tanh
    rows: int
    lr: float
    min_lr: float
    warmup: int
    decay_steps: int
    betas: tuple
    weight_decay: float
    clip: float
    checkpoint: str = None  # a folder to take the first weights from
    bf16: bool = True
    mode: str = "default"  # of torch.compile; "": not compiled
    device: str = "cuda"


class Attention(reference_gpt.Attention):
    """The reference's, with PyTorch's fused attention."""

    def forward(self, x):
        batch, tokens, dim = x.shape
        split = self.qkv(x).view(batch, tokens, 3, self.n_heads, dim // self.n_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, dim))


class Gpt(reference_gpt.Gpt):
    def __init__(self, n_layers, n_heads, dim, block, vocab, bias=False, **others):
        super().__init__(n_layers, n_heads, dim, block, vocab, bias, **others)
        for layer in self.layers:
            layer.attention = Attention(dim, n_heads, bias)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layers) if residual else 0.02)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens, targets):
        """The mean loss. nanoGPT's way: no target is left out."""
        logits = super().forward(tokens)
        return functional.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def make_model(settings):
    if settings.checkpoint is None:
        with torch.device(settings.device):
            return Gpt(settings.n_layers, settings.n_heads, settings.dim, settings.block, settings.vocabulary, settings.bias,
                       gelu=settings.gelu)
    return reference_gpt.load(settings.checkpoint, gelu=settings.gelu, kind=Gpt)


class Training:
    def __init__(self, settings):
        self.settings, self.step = settings, 0
        self.gpu = settings.device == "cuda"
        torch.manual_seed(1)
        self.model = make_model(settings).to(settings.device)
        self.parameters = list(self.model.parameters())
        groups = [{"params": [p for p in self.parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
                  {"params": [p for p in self.parameters if p.dim() < 2], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=tuple(settings.betas), fused=True)
        self.loss_of = torch.compile(self.model, mode=settings.mode) if settings.mode else self.model
        self.precision = torch.autocast(settings.device, torch.bfloat16) if settings.bf16 else contextlib.nullcontext()
        self.data = np.memmap(settings.tokens, np.uint16, "r", offset=1024)
        self.windows = (len(self.data) - settings.block - 1) // settings.block + 1

    def batch(self):
        """What data.order = "sequential" reads at this step."""
        block, rows = self.settings.block, self.settings.rows
        starts = [index % self.windows * block for index in range(self.step * rows, (self.step + 1) * rows)]
        window = torch.from_numpy(np.stack([self.data[start:start + block + 1] for start in starts]).astype(np.int64))
        if self.gpu:
            window = window.pin_memory().to("cuda", non_blocking=True)
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()

    def one_step(self):
        """The loss, where it was computed: nobody waits for it."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = reference_gpt.learning_rate(self.step, settings.lr, settings.min_lr, settings.warmup,
                                                      settings.decay_steps)
        tokens, targets = self.batch()
        with self.precision:
            loss = self.loss_of(tokens, targets)
        loss.backward()
        if settings.clip:
            nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.detach().clone()  # a graph's output is overwritten by its next run

    def mark(self):
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds_between(self, one, other):
        return one.elapsed_time(other) / 1e3 if self.gpu else other - one

    def wait(self):
        if self.gpu:
            torch.cuda.synchronize()

    def train(self, steps):
        self.wait()
        start = time.perf_counter()
        marks, losses = [self.mark()], []
        for _ in range(steps):
            losses.append(self.one_step())
            marks.append(self.mark())
        self.wait()
        wall = time.perf_counter() - start
        return {"seconds": [self.seconds_between(*two) for two in zip(marks, marks[1:])],
                "losses": [loss.item() for loss in losses], "wall": wall}

    def memory(self):
        if not self.gpu:
            return {"tensors": 0, "taken": 0}
        return {"tensors": torch.cuda.max_memory_allocated(), "taken": torch.cuda.max_memory_reserved()}

    def rest(self):
        self.wait()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return {}


def best_seconds(work, runs=10):
    times = []
    for _ in range(runs + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return min(times[2:])


def ceilings():
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    return {"flops": 2 * 8192**3 / best_seconds(lambda: a @ b),
            "bytes": 2 * source.numel() * 4 / best_seconds(lambda: target.copy_(source))}


def main():
    settings = Settings(**json.loads(sys.argv[1]))
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    training = Training(settings)
    commands = {"train": lambda command: training.train(command["steps"]), "memory": lambda _: training.memory(),
                "rest": lambda _: training.rest(), "ceilings": lambda _: ceilings()}
    print(json.dumps({"parameters": sum(p.numel() for p in training.parameters), "torch": torch.__version__}),
          file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(commands[command["do"]](command)), file=answers, flush=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The peer of train_vs_pytorch: the same GPT, optimizer and data in PyTorch, written for speed on a CPU.

    pytorch_gpt.py CORPUS RESULT.json --threads 2 --steps 100 [--bf16]           one process
    pytorch_gpt.py CORPUS RESULT.json --rank 0 --ranks 2 --port 29500 …          one process of DistributedDataParallel

Seconds of every step, from drawing its batch to the cleared gradients, go to RESULT.json. Needs torch 1.13 or later.
"""
import argparse
import contextlib
import json
import math
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel


block, global_batch = 64, 12  # nanoGPT's CPU setting


class LayerNorm(nn.Module):
    """Without a bias, which nn.LayerNorm of torch 1.13 cannot leave out."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return functional.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Attention(nn.Module):
    def __init__(self, dim, n_heads):
        super().__init__()
        self.n_heads, self.scale = n_heads, 1 / math.sqrt(dim // n_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        # -inf above the diagonal: baddbmm adds it in the product of queries and keys, which saves two passes
        self.register_buffer("mask", torch.full((block, block), -math.inf).triu(1), persistent=False)

    def forward(self, x):
        batch, tokens, dim = x.shape
        heads = self.qkv(x).view(batch, tokens, 3, self.n_heads, dim // self.n_heads).permute(2, 0, 3, 1, 4)
        query, key, value = heads.contiguous().view(3, batch * self.n_heads, tokens, -1).unbind(0)  # (B * H, T, D)
        scores = torch.baddbmm(self.mask, query, key.transpose(1, 2), alpha=self.scale)
        y = torch.bmm(scores.softmax(-1), value).view(batch, self.n_heads, tokens, -1)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    def __init__(self, dim, n_heads):
        super().__init__()
        self.attention_norm, self.attention = LayerNorm(dim), Attention(dim, n_heads)
        self.mlp_norm = LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x))))


class Gpt(nn.Module):
    """The mean loss of (tokens, targets), both (B, T). Pre-norm, learned positions, tied head."""

    def __init__(self, vocabulary, n_layers=4, n_heads=4, dim=128):
        super().__init__()
        self.embedding, self.position = nn.Embedding(vocabulary, dim), nn.Embedding(block, dim)
        self.blocks = nn.ModuleList(Block(dim, n_heads) for _ in range(n_layers))
        self.norm = LayerNorm(dim)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layers) if residual else 0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens) + self.position.weight
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.embedding.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def encode(path):
    """The characters of a file as numbers, and how many different ones there are."""
    with open(path, encoding="utf-8") as file:
        text = np.array(list(file.read()))
    characters, tokens = np.unique(text, return_inverse=True)
    return torch.from_numpy(tokens[: len(tokens) * 9 // 10]), len(characters)


def learning_rate(step, steps, highest=1e-3, warmup=100):
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return highest * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def blas_in_use():
    """The file of the BLAS that this process has loaded."""
    with open("/proc/self/maps", encoding="ascii") as maps:
        return sorted({line.split()[-1] for line in maps if "blas" in line})


def train(options):
    """The seconds of all steps after the warm-up, and the losses of all."""
    torch.manual_seed(1 + options.rank)
    data, vocabulary = encode(options.corpus)
    windows = data.unfold(0, block + 1, 1)
    rows = global_batch // options.ranks
    model = module = Gpt(vocabulary)
    if options.ranks > 1:
        model = DistributedDataParallel(module, gradient_as_bucket_view=True)
    parameters = list(module.parameters())
    groups = [{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
              {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), foreach=True)
    compute = torch.autocast("cpu", torch.bfloat16) if options.bf16 else contextlib.nullcontext()
    seconds, losses = [], []
    before = time.perf_counter()
    for step in range(options.warmup + options.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.warmup + options.steps)
        batch = windows[torch.randint(len(windows), (rows,))]
        with compute:
            loss = model(batch[:, :-1], batch[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    return {"seconds": seconds[options.warmup:], "losses": losses, "vocabulary": vocabulary,
            "parameters": sum(p.numel() for p in parameters), "blas": blas_in_use()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("result")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--port", type=int, default=29500)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.ranks > 1:
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{options.port}", rank=options.rank,
                                             world_size=options.ranks)
    result = train(options)
    if options.rank == 0:
        with open(options.result, "w", encoding="utf-8") as file:
            json.dump(result, file)


if __name__ == "__main__":
    main()

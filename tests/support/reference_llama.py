# SPDX-License-Identifier: Apache-2.0
"""The LLaMA of the parity tests in plain PyTorch, independent of the program; trained by reference_gpt.train.

    model = reference_llama.load("RUN/checkpoints/step-00000000", theta=1e4, epsilon=1e-5)

Tensors as reference_gpt's, but for (G heads of keys, R = H / G that share one):
    layers.I.attention.qkv.weight (3, H, D, C), where G < H (G, R + 2, D, C)       layers.I.attention.out.weight (C, H, D) or (C, G, R, D)
    layers.I.mlp.gate.weight (F, C)
and no positions. Biases, where there are, as the rows of their weights.
"""
import math

import numpy as np
import torch
from reference_gpt import Gpt, Weight
from runs import read_tensors
from torch import nn
from torch.nn import functional


class RmsNorm(nn.Module):
    def __init__(self, dim, epsilon):
        super().__init__()
        self.scale, self.epsilon = nn.Parameter(torch.ones(dim)), epsilon

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * self.scale


def rotated(x, angles):
    """x (B, H, T, D), pairs being halves; angles (T, D / 2)."""
    first, second = x.chunk(2, -1)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


def scaled(frequencies, scaling):
    """As transformers' _compute_linear_scaling_rope_parameters and _compute_llama3_parameters: `scaling` is None, the factor, or
    (factor, low turns, high turns, trained length)."""
    if scaling is None:
        return frequencies
    if not isinstance(scaling, tuple):
        return frequencies / scaling
    factor, low, high, trained = scaling
    share = ((trained * frequencies / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    return (1 - share) * frequencies / factor + share * frequencies


class Attention(nn.Module):
    documents = None  # the number of each token's document (B, T): it sees those of its own

    def __init__(self, dim, heads, kv_heads, head_dim, theta, bias, scaling):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.theta, self.scaling = heads, kv_heads, head_dim, theta, scaling
        self.qkv = nn.Linear(dim, (heads + 2 * kv_heads) * head_dim, bias=bias)
        self.out = nn.Linear(heads * head_dim, dim, bias=bias)

    def split(self, x):
        batch, tokens, _ = x.shape
        packed = self.qkv(x)
        if self.heads == self.kv_heads:
            parts = packed.view(batch, tokens, 3, self.heads, self.head_dim).unbind(2)
        else:
            group = self.heads // self.kv_heads
            grouped = packed.view(batch, tokens, self.kv_heads, group + 2, self.head_dim)
            parts = grouped[:, :, :, :group].flatten(2, 3), grouped[:, :, :, group], grouped[:, :, :, group + 1]
        return [part.transpose(1, 2) for part in parts]  # (B, heads, T, D)

    def forward(self, x):
        batch, tokens, _ = x.shape
        query, key, value = self.split(x)
        frequencies = self.theta ** (-torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim)
        frequencies = scaled(frequencies, self.scaling)
        angles = (torch.arange(tokens, dtype=torch.float64)[:, None] * frequencies).to(x.dtype)
        query, key = rotated(query, angles), rotated(key, angles)
        key, value = (part.repeat_interleave(self.heads // self.kv_heads, 1) for part in (key, value))
        scores = query @ key.transpose(-2, -1) / math.sqrt(self.head_dim)
        future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        if self.documents is not None:
            future = future | (self.documents[:, None, :, None] != self.documents[:, None, None, :])
        mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, -1))


class Mlp(nn.Module):
    def __init__(self, dim, hidden, bias):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(dim, hidden, bias), nn.Linear(dim, hidden, bias), nn.Linear(hidden, dim, bias)

    def forward(self, x):
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    def __init__(self, dim, attention, hidden, bias, epsilon):
        super().__init__()
        self.attention_norm, self.attention = RmsNorm(dim, epsilon), attention
        self.mlp_norm, self.mlp = RmsNorm(dim, epsilon), Mlp(dim, hidden, bias)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Llama(Gpt):
    """tokens (B, T) -> logits (B, T, V)."""

    def __init__(self, shapes, theta, epsilon, scaling):
        nn.Module.__init__(self)
        self.shapes = shapes
        vocabulary, dim = shapes["embedding.weight"]
        qkv, bias = shapes["layers.0.attention.qkv.weight"], "layers.0.mlp.up.bias" in shapes
        alike = len(shapes["layers.0.attention.out.weight"]) == 3
        kv_heads, head_dim = (qkv[1] if alike else qkv[0]), qkv[2]
        heads = kv_heads if alike else kv_heads * (qkv[1] - 2)
        blocks = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("layers."))
        self.embedding = nn.Embedding(vocabulary, dim)
        self.layers = nn.ModuleList(
            Layer(dim, Attention(dim, heads, kv_heads, head_dim, theta, bias, scaling), shapes["layers.0.mlp.up.weight"][0], bias, epsilon)
            for _ in range(blocks))
        self.norm = RmsNorm(dim, epsilon)
        self.head = Weight(vocabulary, dim) if "head.weight" in shapes else None

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return functional.linear(self.norm(x), (self.head or self.embedding).weight)

    def checkpoint_shape(self, name, parameter):
        return self.shapes[name]


class LlamaOfDocuments(Llama):
    """A document ends with the token `end`. Positions go on: what turns queries and keys tells their distance alone."""

    end = 0

    def forward(self, tokens):
        ends = (tokens == self.end).long()
        for layer in self.layers:
            layer.attention.documents = ends.cumsum(1) - ends
        return super().forward(tokens)


def load(folder, theta=1e4, epsilon=1e-5, scaling=None, kind=Llama):
    arrays = {name: array for name, array in read_tensors(folder).items() if "/" not in name and not name.startswith("optimizer.")}
    arrays = {name: np.asarray(array) for name, array in arrays.items() if not name.startswith("metadata")}
    model = kind({name: array.shape for name, array in arrays.items()}, theta, epsilon, scaling)
    model.set_from(arrays)
    return model

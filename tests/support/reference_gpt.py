# SPDX-License-Identifier: Apache-2.0
"""The GPT of the parity tests in plain PyTorch: an independent model, optimizer and schedule to compare losses with.

    model = reference_gpt.load("RUN/checkpoints/step-00000000", gelu="tanh")     # options come from the tensors' shapes
    result = reference_gpt.train(model, batches, max_lr=1e-3, warmup=100, decay_iters=2000, min_lr=1e-4)
    result.losses, result.grad_norms, result.first_gradients["layers.0.attention.qkv.weight"]     # numpy

Tensors have the names and shapes of a checkpoint (V vocabulary, T block, C width, H heads, D = C/H, F width of the MLP):
    embedding.weight (V, C)   position.weight (T, C)   norm.scale (C)   head.weight (V, C), absent when tied
    layers.I.attention_norm.scale (C)      layers.I.attention.qkv.weight (3, H, D, C)   layers.I.attention.out.weight (C, H, D)
    layers.I.mlp_norm.scale (C)            layers.I.mlp.up.weight (F, C)                layers.I.mlp.down.weight (C, F)
with experts (E) in place of an MLP (MoeGpt):
    layers.I.moe.router.weight (E, C)      layers.I.moe.up.weight (E, F, C)             layers.I.moe.down.weight (E, C, F)
    layers.I.moe.gate.weight (E, F, C), of gated experts
and with biases a .bias beside each of the layers' weights and of the norms' scales, shaped as its output: (3, H, D), (C), (F).
Needs torch (1.13 or later); everything runs on the CPU, in float32 unless the model is made .double().
"""
import math
import typing

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from runs import read_tensors


class LayerNorm(nn.Module):
    def __init__(self, dim, bias):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x):
        return functional.layer_norm(x, self.scale.shape, self.scale, self.bias, eps=1e-5)


class Attention(nn.Module):
    """Causal self-attention; the rows of qkv are ordered (3, H, D), the columns of out (H, D). Where `documents` (B, T) is set,
    keys of other numbers are not seen."""

    documents = None

    def __init__(self, dim, n_heads, bias):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)

    def forward(self, x):
        batch, tokens, dim = x.shape
        split = self.qkv(x).view(batch, tokens, 3, self.n_heads, dim // self.n_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        scores = query @ key.transpose(-2, -1) / math.sqrt(dim // self.n_heads)
        future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        if self.documents is not None:
            future = (future | (self.documents[:, :, None] != self.documents[:, None, :]))[:, None]
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim, hidden, bias, gelu):
        super().__init__()
        self.approximate = {"exact": "none", "tanh": "tanh"}[gelu]
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x):
        return self.down(functional.gelu(self.up(x), approximate=self.approximate))


class Layer(nn.Module):
    def __init__(self, dim, n_heads, hidden, bias, gelu):
        super().__init__()
        self.attention_norm = LayerNorm(dim, bias)
        self.attention = Attention(dim, n_heads, bias)
        self.mlp_norm = LayerNorm(dim, bias)
        self.mlp = Mlp(dim, hidden, bias, gelu)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Weight(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


class Moe(nn.Module):
    """Each token goes to the experts of the largest logits, token after token, until they have their fill of its sample.
    `margin` is the least distance so far of a logit that was chosen from one that was not."""

    def __init__(self, dim, hidden, experts, choices, capacity_factor, balance, z, gated=False):
        super().__init__()
        self.choices, self.capacity_factor, self.balance, self.z = choices, capacity_factor, balance, z
        self.router, self.up, self.down = Weight(experts, dim), Weight(experts, hidden, dim), Weight(experts, dim, hidden)
        self.gate = Weight(experts, hidden, dim) if gated else None
        self.loss_beside, self.dropped = torch.zeros(()), 0  # of the last forward pass; the loss is the mean over tokens
        self.margin = math.inf

    def forward(self, x):
        tokens, experts = x.shape[1], self.router.weight.shape[0]
        logits = functional.linear(x, self.router.weight)
        probabilities = logits.softmax(-1)
        largest = logits.topk(self.choices + 1)
        self.margin = min(self.margin, (largest.values[..., -2] - largest.values[..., -1]).min().item())
        chosen = largest.indices[..., :-1]
        gates = probabilities.gather(-1, chosen)
        if self.choices > 1:
            gates = gates / gates.sum(-1, keepdim=True)
        load = functional.one_hot(chosen, experts).sum((1, 2)) / (tokens * self.choices)  # (B, E)
        even = experts * (load * probabilities.mean(1)).sum(-1).mean()  # Switch's loss, a group for each sample
        self.loss_beside = self.balance * even + self.z * logits.logsumexp(-1).square().mean()
        capacity = math.ceil(self.choices * tokens / experts * self.capacity_factor)
        wanted = functional.one_hot(chosen, experts)  # (B, T, K, E)
        before = wanted.flatten(1, 2).cumsum(1).unflatten(1, (tokens, self.choices))
        goes = wanted * (before <= capacity)
        self.dropped = int((wanted - goes).sum())
        share = (gates[..., None] * goes).sum(2)  # (B, T, E)
        hidden = torch.einsum("btc,efc->btef", x, self.up.weight)
        if self.gate is None:
            hidden = functional.gelu(hidden)
        else:
            hidden = functional.silu(torch.einsum("btc,efc->btef", x, self.gate.weight)) * hidden
        return torch.einsum("btef,ecf,bte->btc", hidden, self.down.weight, share)


class Gpt(nn.Module):
    """tokens (B, T) -> logits (B, T, V). Pre-norm, learned positions, no dropout."""

    def __init__(self, n_layers, n_heads, dim, block, vocab, bias=False, tied=True, gelu="exact", hidden=None):
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"dim {dim} is no multiple of n_heads {n_heads}")
        self.n_heads = n_heads
        self.embedding = nn.Embedding(vocab, dim)
        self.position = nn.Embedding(block, dim)
        self.layers = nn.ModuleList(Layer(dim, n_heads, hidden or 4 * dim, bias, gelu) for _ in range(n_layers))
        self.norm = LayerNorm(dim, bias)
        self.head = None if tied else nn.Linear(dim, vocab, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return functional.linear(self.norm(x), (self.head or self.embedding).weight)

    def loss(self, tokens, targets):
        """The mean cross-entropy over the targets that are not negative."""
        logits = self(tokens).flatten(0, 1)
        return functional.cross_entropy(logits, targets.flatten().clamp(min=-1), ignore_index=-1)

    def checkpoint_shape(self, name, parameter):
        """The shape that a parameter has in a checkpoint."""
        heads, rows = self.n_heads, parameter.shape[0]
        if ".attention.qkv." in name:
            return (3, heads, rows // 3 // heads) + tuple(parameter.shape[1:])
        if name.endswith(".attention.out.weight"):
            return (rows, heads, parameter.shape[1] // heads)
        return tuple(parameter.shape)

    def as_numpy(self, of=lambda parameter: parameter):
        """{name: array in the checkpoint's shape} of the parameters, or of what `of` makes of each (its gradient)."""
        return {
            name: of(parameter).detach().numpy().reshape(self.checkpoint_shape(name, parameter)).copy()
            for name, parameter in self.named_parameters()
        }

    def set_from(self, arrays):
        """Takes {name: array}; every parameter must be there in its shape, and nothing else."""
        parameters = dict(self.named_parameters())
        if set(arrays) != set(parameters):
            raise ValueError(f"missing: {sorted(set(parameters) - set(arrays))}, unknown: {sorted(set(arrays) - set(parameters))}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                shape = self.checkpoint_shape(name, parameter)
                if tuple(arrays[name].shape) != shape:
                    raise ValueError(f"{name} is {tuple(arrays[name].shape)}, expected {shape}")
                parameter.copy_(torch.from_numpy(np.asarray(arrays[name], np.float64)).reshape(parameter.shape))


class GptOfDocuments(Gpt):
    """A document ends with the token `end`."""

    end = 0

    def forward(self, tokens):
        ends = (tokens == self.end).long()
        for layer in self.layers:
            layer.attention.documents = ends.cumsum(1) - ends
        return super().forward(tokens)


class MoeLayer(Layer):
    def __init__(self, layer, moe):
        nn.Module.__init__(self)
        self.attention_norm, self.attention, self.mlp_norm, self.moe = layer.attention_norm, layer.attention, layer.mlp_norm, moe

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.moe(self.mlp_norm(x))


class MoeGpt(Gpt):
    """Every block has experts. `beside` has what each loss() added to the cross entropy."""

    def __init__(self, *, dim, hidden, moe, **options):
        super().__init__(dim=dim, hidden=hidden, **options)
        self.layers, self.beside = nn.ModuleList(MoeLayer(layer, Moe(dim, hidden, **moe)) for layer in self.layers), []

    def loss(self, tokens, targets):
        cross_entropy, beside = super().loss(tokens, targets), sum(layer.moe.loss_beside for layer in self.layers)
        self.beside.append(beside.item())
        return cross_entropy + beside


def load(folder, gelu="exact", kind=Gpt):
    """The model of a checkpoint folder, of the class `kind`. Tensors in groups ("optimizer.first_moment/…") are left alone."""
    arrays = {name: array for name, array in read_tensors(folder).items() if "/" not in name}
    _, n_heads, head_dim, dim = arrays["layers.0.attention.qkv.weight"].shape
    if n_heads * head_dim != dim:
        raise ValueError(f"{n_heads} heads of {head_dim} do not make {dim}")
    model = kind(
        n_layers=1 + max(int(name.split(".")[1]) for name in arrays if name.startswith("layers.")),
        n_heads=n_heads,
        dim=dim,
        block=arrays["position.weight"].shape[0],
        vocab=arrays["embedding.weight"].shape[0],
        bias="norm.bias" in arrays,
        tied="head.weight" not in arrays,
        gelu=gelu,
        hidden=next(array.shape[-2] for name, array in arrays.items() if name.endswith(".up.weight")),
    )
    model.set_from(arrays)
    return model


def learning_rate(step, max_lr, min_lr=0.0, warmup=0, decay_iters=None):
    """Of step 0, 1, …: a line to max_lr that begins above 0, then a cosine to min_lr at decay_iters (None: constant)."""
    if step < warmup:
        return max_lr * (step + 1) / (warmup + 1)
    if decay_iters is None:
        return max_lr
    if step > decay_iters:
        return min_lr
    done = (step - warmup) / (decay_iters - warmup) if decay_iters > warmup else 1.0
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * done)) * (max_lr - min_lr)


def is_decayed(name, parameter):
    """Weight decay acts on matrices only. A bias is a vector, also that of qkv, which a checkpoint keeps as (3, H, D)."""
    return parameter.dim() >= 2


class Result(typing.NamedTuple):
    losses: np.ndarray  # (steps), before each update
    grad_norms: np.ndarray  # (steps), before clipping
    learning_rates: np.ndarray  # (steps)
    first_gradients: dict  # of step 1, before clipping, by name
    parameters: dict  # after the last step, by name


def train(model, batches, *, max_lr, min_lr=0.0, warmup=0, decay_iters=None, betas=(0.9, 0.95), eps=1e-8,
          weight_decay=0.1, clip=1.0, first_step=0):
    """One AdamW step per batch. A batch is (tokens, targets), integer arrays (B, T), or a list of such micro-batches, whose
    losses are averaged. clip is the greatest norm of all gradients together (factor clip / (norm + 1e-6)); 0: none."""
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[is_decayed(name, parameter)].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}],
        lr=max_lr, betas=betas, eps=eps)
    losses, norms, rates, first_gradients = [], [], [], {}
    for step, batch in enumerate(batches, first_step):
        micro_batches = batch if isinstance(batch, list) else [batch]
        optimizer.zero_grad()
        total = 0.0
        for tokens, targets in micro_batches:
            tokens, targets = (torch.from_numpy(np.asarray(ids, np.int64)) for ids in (tokens, targets))
            loss = model.loss(tokens, targets) / len(micro_batches)
            loss.backward()
            total += loss.item()
        if not first_gradients:
            first_gradients = model.as_numpy(lambda parameter: parameter.grad)
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
        rates.append(learning_rate(step, max_lr, min_lr, warmup, decay_iters))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        optimizer.step()
        losses.append(total)
        norms.append(norm.item())
    return Result(np.array(losses), np.array(norms), np.array(rates), first_gradients, model.as_numpy())

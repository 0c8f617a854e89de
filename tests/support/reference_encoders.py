# SPDX-License-Identifier: Apache-2.0
"""BERT, ViT and T5 of the parity tests in plain PyTorch, as reference_gpt.py has the GPT: tensors have the names and shapes
of a checkpoint. `load(kind, folder, n_heads=…, …)` gives the model of a checkpoint's weights; reference_gpt.train trains it.

Masks are drawn as the program draws them (Philox4x32-10), which makes this a second implementation of that as well."""
import math

import numpy as np
import reference_gpt
import runs
import torch
from torch import nn
from torch.nn import functional


def philox(key, high, low):
    """Philox4x32-10 (Salmon et al. 2011) of counters low (uint64 array) and high: four uint32 arrays."""
    low = np.asarray(low, np.uint64)
    mask = np.uint64(0xffffffff)
    a, b = low & mask, low >> np.uint64(32)
    c, d = (np.full_like(a, high & 0xffffffff), np.full_like(a, high >> 32))
    first_key, second_key = key & 0xffffffff, key >> 32
    for _ in range(10):
        first, second = np.uint64(0xd2511f53) * a, np.uint64(0xcd9e8d57) * c
        a, b, c, d = ((second >> np.uint64(32)) ^ b ^ np.uint64(first_key), second & mask,
                      (first >> np.uint64(32)) ^ d ^ np.uint64(second_key), first & mask)
        first_key, second_key = (first_key + 0x9e3779b9) & 0xffffffff, (second_key + 0xbb67ae85) & 0xffffffff
    return a, b, c, d


def stream_of(name):
    """FNV-1a."""
    value = 0xcbf29ce484222325
    for letter in name.encode():
        value = (value ^ letter) * 0x100000001b3 % 2**64
    return value


def key_of(seed, name):
    mixed = seed
    for factor in (0xff51afd7ed558ccd, 0xc4ceb9fe1a85ec53):
        mixed = (mixed ^ (mixed >> 33)) * factor % 2**64
    return (mixed ^ (mixed >> 33)) ^ stream_of(name)


def mask_tokens(tokens, *, seed, first_sample, chosen, mask, below, kept=()):
    """(masked tokens, targets with -1 where nothing is to be found), for the samples from number `first_sample` of a run on."""
    samples, times = tokens.shape
    masked, targets = tokens.copy(), np.full_like(tokens, -1)
    for row in range(samples):
        words = philox(key_of(seed, "mask"), 0, (first_sample + row) * times + np.arange(times))
        keys = [(min(int(word), 2**32 - 2), t) for t, word in enumerate(words[0]) if tokens[row, t] not in kept]
        share = max(1, (2 * len(keys) * chosen + times) // (2 * times))
        for _, t in sorted(keys)[:min(share, chosen)]:
            targets[row, t] = tokens[row, t]
            tenth = int(words[1][t]) * 10 >> 32
            masked[row, t] = mask if tenth < 8 else int(words[2][t]) * below >> 32 if tenth == 8 else tokens[row, t]
    return masked, targets


class Norm(nn.Module):
    def __init__(self, dim, eps, bias=True):
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x):
        if self.bias is not None:
            return functional.layer_norm(x, self.scale.shape, self.scale, self.bias, eps=self.eps)
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.scale


def attend(query, key, value, scale, seen=None, bias=None):
    """Each (B, H, T or S, D); seen: (B or 1, 1, T, S); bias: (H, T, S)."""
    scores = query @ key.transpose(-2, -1) * scale
    scores = scores if bias is None else scores + bias
    return (scores if seen is None else scores.masked_fill(~seen, -math.inf)).softmax(-1) @ value


class Attention(nn.Module):
    def __init__(self, dim, n_heads, bias=True, scale=None, cross=False):
        super().__init__()
        self.n_heads, self.scale, self.cross = n_heads, scale or 1 / math.sqrt(dim // n_heads), cross
        if cross:
            self.q, self.kv = nn.Linear(dim, dim, bias=bias), nn.Linear(dim, 2 * dim, bias=bias)
        else:
            self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)

    def heads(self, product, parts):
        return product.unflatten(-1, (parts, self.n_heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x, memory=None, seen=None, bias=None):
        if self.cross:
            (query,), (key, value) = self.heads(self.q(x), 1), self.heads(self.kv(memory), 2)
        else:
            query, key, value = self.heads(self.qkv(x), 3)
        return self.out(attend(query, key, value, self.scale, seen, bias).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim, hidden, activation, bias=True):
        super().__init__()
        self.activation = activation
        self.up, self.down = nn.Linear(dim, hidden, bias=bias), nn.Linear(hidden, dim, bias=bias)

    def forward(self, x):
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    def __init__(self, dim, n_heads, hidden, eps, post_norm):
        super().__init__()
        self.post_norm = post_norm
        self.attention, self.mlp = Attention(dim, n_heads), Mlp(dim, hidden, functional.gelu)
        self.attention_norm, self.mlp_norm = Norm(dim, eps), Norm(dim, eps)

    def forward(self, x, seen=None):
        if self.post_norm:
            x = self.attention_norm(x + self.attention(x, seen=seen))
            return self.mlp_norm(x + self.mlp(x))
        x = x + self.attention(self.attention_norm(x), seen=seen)
        return x + self.mlp(self.mlp_norm(x))


class Model(nn.Module):
    """What reference_gpt.train wants, for parameters whose shapes in a checkpoint differ but in how dims are cut."""

    def as_numpy(self, of=lambda parameter: parameter):
        return {name: of(parameter).detach().numpy().reshape(self.shapes[name]).copy() for name, parameter in self.named_parameters()}


class Bert(Model):
    def __init__(self, arrays, *, n_heads, eps, masking=None, padding=-1, separator=-1):
        super().__init__()
        vocabulary, dim = arrays["embedding.weight"].shape
        self.padding, self.separator, self.masking, self.seen_samples = padding, separator, masking, 0
        self.embedding, self.position = nn.Embedding(vocabulary, dim), nn.Embedding(*arrays["position.weight"].shape)
        self.type_ = nn.Embedding(*arrays["type_.weight"].shape)
        self.embedding_norm = Norm(dim, eps)
        hidden = arrays["layers.0.mlp.up.weight"].shape[0]
        count = 1 + max(int(name.split(".")[1]) for name in arrays if name.startswith("layers."))
        self.layers = nn.ModuleList(Block(dim, n_heads, hidden, eps, True) for _ in range(count))
        self.transform, self.transform_norm = nn.Linear(dim, dim), Norm(dim, eps)
        self.head = nn.Module()
        self.head.bias = nn.Parameter(torch.zeros(vocabulary))

    def encode(self, tokens, ids):
        types = ((tokens == self.separator).cumsum(1) - (tokens == self.separator).long()).clamp(max=self.type_.num_embeddings - 1)
        x = self.embedding_norm(self.embedding(ids) + self.position.weight[: ids.shape[1]] + self.type_(types))
        segment = tokens == self.padding
        seen = (segment[:, :, None] == segment[:, None, :])[:, None]
        for layer in self.layers:
            x = layer(x, seen)
        return x

    def loss(self, tokens, _):
        """Of a step's batch. The mean over the chosen tokens."""
        masked, targets = mask_tokens(tokens.numpy(), first_sample=self.seen_samples, **self.masking)
        self.seen_samples += len(tokens)
        x = self.transform_norm(functional.gelu(self.transform(self.encode(tokens, torch.from_numpy(masked)))))
        logits = functional.linear(x, self.embedding.weight, self.head.bias)
        return functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten(), ignore_index=-1)


class BertClassifier(Bert):
    def __init__(self, arrays, **options):
        super().__init__(arrays, **options)
        del self.transform, self.transform_norm, self.head
        classes, dim = arrays["classifier.weight"].shape
        self.pooler, self.classifier = nn.Linear(dim, dim), nn.Linear(dim, classes)

    def forward(self, tokens):
        return self.classifier(torch.tanh(self.pooler(self.encode(tokens, tokens)[:, 0])))


class Vit(Model):
    def __init__(self, arrays, *, n_heads, eps):
        super().__init__()
        dim, self.patch, _, channels = arrays["patches.weight"].shape
        self.patches = nn.Conv2d(channels, dim, self.patch, self.patch)
        self.patches.weight = nn.Parameter(torch.zeros(dim, self.patch, self.patch, channels))
        self.position, self.class_ = nn.Embedding(*arrays["position.weight"].shape), nn.Embedding(1, dim)
        hidden = arrays["layers.0.mlp.up.weight"].shape[0]
        count = 1 + max(int(name.split(".")[1]) for name in arrays if name.startswith("layers."))
        self.layers = nn.ModuleList(Block(dim, n_heads, hidden, eps, False) for _ in range(count))
        self.norm, self.head = Norm(dim, eps), nn.Linear(dim, arrays["head.weight"].shape[0])

    def forward(self, images):
        x = functional.conv2d(images, self.patches.weight.permute(0, 3, 1, 2), self.patches.bias, self.patch)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.class_.weight.expand(len(x), 1, -1), x], 1) + self.position.weight
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


def relative_buckets(queries, keys, both_directions, buckets, far):
    """(T, S), as Hugging Face's T5Attention._relative_position_bucket has them."""
    distance = torch.arange(keys)[None] - torch.arange(queries)[:, None]
    first = torch.zeros_like(distance)
    if both_directions:
        buckets //= 2
        first, distance = (distance > 0).long() * buckets, distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = buckets // 2
    beyond = exact + (torch.log(distance.float() / exact) / math.log(far / exact) * (buckets - exact)).nan_to_num(0, 0, 0).long()
    return first + torch.where(distance < exact, distance, beyond.clamp(max=buckets - 1))


class T5Stack(nn.Module):
    def __init__(self, arrays, name, n_heads, eps, activation, cross):
        super().__init__()
        dim, hidden = arrays["embedding.weight"].shape[1], arrays[f"{name}.layers.0.mlp.up.weight"].shape[0]
        self.relative_bias = nn.Embedding(*arrays[f"{name}.relative_bias.weight"].shape)
        count = 1 + max(int(key.split(".")[2]) for key in arrays if key.startswith(f"{name}.layers."))
        self.layers = nn.ModuleList()
        for _ in range(count):
            layer = nn.Module()
            layer.attention, layer.attention_norm = Attention(dim, n_heads, False, 1.0), Norm(dim, eps, False)
            if cross:
                layer.cross, layer.cross_norm = Attention(dim, n_heads, False, 1.0, True), Norm(dim, eps, False)
            layer.mlp, layer.mlp_norm = Mlp(dim, hidden, activation, False), Norm(dim, eps, False)
            self.layers.append(layer)
        self.norm = Norm(dim, eps, False)

    def forward(self, x, far, seen, memory=None, memory_seen=None):
        times = x.shape[1]
        classes = relative_buckets(times, times, memory is None, self.relative_bias.num_embeddings, far)
        bias = self.relative_bias(classes).permute(2, 0, 1)
        for layer in self.layers:
            x = x + layer.attention(layer.attention_norm(x), seen=seen, bias=bias)
            if memory is not None:
                x = x + layer.cross(layer.cross_norm(x), memory, memory_seen)
            x = x + layer.mlp(layer.mlp_norm(x))
        return self.norm(x)


class T5(Model):
    def __init__(self, arrays, *, n_heads, eps, far, padding=-1):
        super().__init__()
        self.far, self.padding = far, padding
        self.embedding = nn.Embedding(*arrays["embedding.weight"].shape)
        self.encoder = T5Stack(arrays, "encoder", n_heads, eps, functional.relu, False)
        self.decoder = T5Stack(arrays, "decoder", n_heads, eps, functional.relu, True)

    def loss(self, source, target):
        """The mean over the targets that are not negative. A decoder begins with token 0."""
        segment = source == self.padding
        memory = self.encoder(self.embedding(source), self.far, (segment[:, :, None] == segment[:, None, :])[:, None])
        shifted = functional.pad(target, (1, -1)).clamp(min=0)
        past = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).tril()[None, None]
        x = self.decoder(self.embedding(shifted), self.far, past, memory, ~segment[:, None, None, :])
        logits = functional.linear(x * x.shape[-1] ** -0.5, self.embedding.weight)
        return functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)


def python_name(name):
    return name.replace(".", "_.", 1) if name.split(".")[0] in ("class", "type") else name


def load(kind, folder, **options):
    """Modules `class_` and `type_` stand for "class" and "type", which Python keeps for itself. They compute in f64."""
    arrays = {name: array for name, array in runs.read_tensors(folder).items() if "/" not in name and not name.startswith("optimizer.")}
    model = kind({python_name(name): array for name, array in arrays.items()}, **options)
    model.shapes = {python_name(name): array.shape for name, array in arrays.items()}
    parameters = dict(model.named_parameters())
    if set(parameters) != set(model.shapes):
        raise ValueError(f"parameters of one only: {sorted(set(parameters) ^ set(model.shapes))}")
    with torch.no_grad():
        for name, array in arrays.items():
            parameter = parameters[python_name(name)]
            parameter.copy_(torch.from_numpy(np.asarray(array)).reshape(parameter.shape))
    return model.double()

# SPDX-License-Identifier: Apache-2.0
"""The transformers of configs/ beside the GPT of pytorch_gpt.py, in PyTorch, written for speed on a CPU: LLaMA, a mixture of
experts, BERT, ViT and T5. `model(rows, of)` is the loss. Scores, their factor and what is added to them are one product."""
import math

import torch
from pytorch_gpt import Attention, LayerNorm, block
from torch import nn
from torch.nn import functional


def to_heads(packed, parts, n_heads):
    """(B, T, parts * H * D) -> parts, each (B * H, T, D)."""
    batch, tokens, width = packed.shape
    split = packed.view(batch, tokens, parts, n_heads, width // parts // n_heads).permute(2, 0, 3, 1, 4)
    return split.reshape(parts, batch * n_heads, tokens, -1).unbind(0)


def from_heads(y, n_heads):
    """(B * H, T, D) -> (B, T, H * D)"""
    rows, tokens, dim = y.shape
    return y.view(rows // n_heads, n_heads, tokens, dim).transpose(1, 2).reshape(rows // n_heads, tokens, n_heads * dim)


def attend(query, key, value, scale, added=None):
    """Each (B * H, T or S, D); added: (T, S) or (B * H, T, S)."""
    added, beta = (query.new_empty(1), 0) if added is None else (added, 1)
    return torch.bmm(torch.baddbmm(added, query, key.transpose(1, 2), beta=beta, alpha=scale).softmax(-1), value)


def future(tokens):
    return torch.full((tokens, tokens), -math.inf).triu(1)


class RmsNorm(nn.Module):
    def __init__(self, dim, epsilon):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(dim)), epsilon

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * self.weight


class Mlp(nn.Module):
    def __init__(self, dim, hidden, bias, activation):
        super().__init__()
        self.up, self.down, self.activation = nn.Linear(dim, hidden, bias), nn.Linear(hidden, dim, bias), activation

    def forward(self, x):
        return self.down(self.activation(self.up(x)))


def cross_entropy(logits, of):
    return functional.cross_entropy(logits.flatten(0, -2), of.flatten())


class LlamaBlock(nn.Module):
    """Gate and up are one product; the queries that share a key are rows of one."""

    def __init__(self, dim, n_heads, kv_heads, hidden):
        super().__init__()
        self.n_heads, self.kv_heads, head = n_heads, kv_heads, dim // n_heads
        self.qkv, self.out = nn.Linear(dim, (n_heads + 2 * kv_heads) * head, False), nn.Linear(dim, dim, False)
        self.attention_norm, self.mlp_norm = RmsNorm(dim, 1e-5), RmsNorm(dim, 1e-5)
        self.gate_up, self.down = nn.Linear(dim, 2 * hidden, False), nn.Linear(hidden, dim, False)
        angles = torch.arange(block)[:, None] * 1e4 ** (-torch.arange(0, head, 2) / head)
        self.register_buffer("cosine", torch.cat([angles.cos()] * 2, 1)[:, None], persistent=False)
        self.register_buffer("sine", torch.cat([-angles.sin(), angles.sin()], 1)[:, None], persistent=False)
        self.register_buffer("mask", future(block).repeat(n_heads // kv_heads, 1), persistent=False)

    def attention(self, x):
        batch, tokens, dim = x.shape
        packed = self.qkv(x).view(batch, tokens, self.n_heads + 2 * self.kv_heads, dim // self.n_heads)
        both = packed[:, :, :self.n_heads + self.kv_heads]
        both = both * self.cosine + both.roll(dim // self.n_heads // 2, -1) * self.sine
        query = both[:, :, :self.n_heads].unflatten(2, (self.kv_heads, -1)).permute(0, 2, 3, 1, 4)
        query = query.reshape(batch * self.kv_heads, -1, dim // self.n_heads)  # (B * G, R * T, D)
        key, value = (one.transpose(1, 2).flatten(0, 1) for one in (both[:, :, self.n_heads:], packed[:, :, -self.kv_heads:]))
        y = attend(query, key, value, (dim // self.n_heads) ** -0.5, self.mask)
        return self.out(from_heads(y.view(batch * self.n_heads, tokens, -1), self.n_heads))

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, vocabulary, n_layers=4, n_heads=4, kv_heads=2, dim=128, hidden=352):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(vocabulary, dim), RmsNorm(dim, 1e-5)
        self.blocks = nn.Sequential(*[LlamaBlock(dim, n_heads, kv_heads, hidden) for _ in range(n_layers)])
        self.head = nn.Linear(dim, vocabulary, False)

    def forward(self, rows, of):
        return cross_entropy(self.head(self.norm(self.blocks(self.embedding(rows)))), of)


class Experts(nn.Module):
    """Each expert has room for so many tokens of a sample, as many rows of one product of all experts; a choice beyond is
    dropped. Gathers in both directions: of each room its token, and of each choice its room."""

    def __init__(self, dim, hidden, experts, choices):
        super().__init__()
        self.experts, self.choices = experts, choices
        self.router = nn.Linear(dim, experts, False)
        self.up = nn.Parameter(torch.randn(experts, dim, hidden) * 0.02)
        self.down = nn.Parameter(torch.randn(experts, hidden, dim) * 0.02)

    def rooms(self, chosen, capacity):
        """chosen: (B, T, K). Of each choice its room, 0 where dropped, and whether it has one; of each room its token."""
        batch, tokens, choices = chosen.shape
        flat = chosen.flatten(1)
        before = functional.one_hot(flat, self.experts).cumsum(1).gather(2, flat[..., None])[..., 0] - 1  # (B, T * K)
        kept = before < capacity
        room = (flat * batch + torch.arange(batch)[:, None]) * capacity + before
        token = (torch.arange(batch * tokens).view(batch, tokens, 1)).expand(batch, tokens, choices).flatten(1)
        of_rooms = torch.zeros(self.experts * batch * capacity, dtype=torch.long)
        of_rooms[room[kept]] = token[kept]
        return (room * kept).flatten(), kept.view(batch, tokens, choices), of_rooms

    def forward(self, x):
        batch, tokens, dim = x.shape
        logits = self.router(x)
        probabilities = logits.softmax(-1)
        gates, chosen = probabilities.topk(self.choices, -1)
        gates = gates / gates.sum(-1, keepdim=True)
        capacity = math.ceil(1.25 * self.choices * tokens / self.experts)
        with torch.no_grad():
            rooms, kept, of_rooms = self.rooms(chosen, capacity)
            load = functional.one_hot(chosen, self.experts).sum((1, 2)) / (tokens * self.choices)
        there = x.flatten(0, 1).index_select(0, of_rooms).view(self.experts, batch * capacity, dim)
        done = torch.bmm(functional.gelu(torch.bmm(there, self.up)), self.down).flatten(0, 1)
        back = done.index_select(0, rooms).view(batch * tokens, self.choices, dim)
        y = torch.bmm((gates * kept).view(batch * tokens, 1, self.choices), back).view(batch, tokens, dim)
        even = self.experts * (load * probabilities.mean(1)).sum(-1).mean()
        return y, 0.01 * even + 0.001 * logits.logsumexp(-1).square().mean()


class MoeBlock(nn.Module):
    def __init__(self, dim, n_heads, hidden, experts, choices):
        super().__init__()
        self.attention_norm, self.attention = LayerNorm(dim), Attention(dim, n_heads)
        self.mlp_norm, self.moe = LayerNorm(dim), Experts(dim, hidden, experts, choices)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        y, beside = self.moe(self.mlp_norm(x))
        return x + y, beside


class MoeGpt(nn.Module):
    def __init__(self, vocabulary, n_layers=4, n_heads=4, dim=128, hidden=256, experts=8, choices=2):
        super().__init__()
        self.embedding, self.position = nn.Embedding(vocabulary, dim), nn.Embedding(block, dim)
        self.blocks = nn.ModuleList(MoeBlock(dim, n_heads, hidden, experts, choices) for _ in range(n_layers))
        self.norm = LayerNorm(dim)
        for one in (self.embedding, self.position):
            nn.init.normal_(one.weight, std=0.02)

    def forward(self, rows, of):
        x, beside = self.embedding(rows) + self.position.weight, 0
        for one in self.blocks:
            x, of_block = one(x)
            beside = beside + of_block
        return cross_entropy(functional.linear(self.norm(x), self.embedding.weight), of) + beside


class EncoderBlock(nn.Module):
    """BERT's (a norm behind each sum), or ViT's (before each branch)."""

    def __init__(self, dim, n_heads, hidden, post_norm, dropout=0.0):
        super().__init__()
        self.n_heads, self.post_norm, self.dropout = n_heads, post_norm, dropout
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden, True, functional.gelu)

    def drop(self, x):
        return functional.dropout(x, self.dropout) if self.dropout > 0 else x

    def attention(self, x):
        heads = to_heads(self.qkv(x), 3, self.n_heads)
        return self.out(from_heads(attend(*heads, heads[0].shape[-1] ** -0.5), self.n_heads))

    def forward(self, x):
        if self.post_norm:
            x = self.attention_norm(x + self.attention(x))
            return self.mlp_norm(x + self.mlp(x))
        x = x + self.drop(self.attention(self.attention_norm(x)))
        return x + self.drop(self.mlp(self.mlp_norm(x)))


class Bert(nn.Module):
    """Of each row 10 tokens are to be found, of which the head alone computes logits. The table has one more, which hides."""

    def __init__(self, vocabulary, n_layers=4, n_heads=4, dim=128, chosen=10):
        super().__init__()
        self.vocabulary, self.chosen = vocabulary, chosen
        self.embedding, self.position = nn.Embedding(vocabulary + 1, dim), nn.Embedding(block, dim)
        self.types = nn.Embedding(2, dim)
        self.norm, self.transform_norm, self.transform = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.Linear(dim, dim)
        self.blocks = nn.Sequential(*[EncoderBlock(dim, n_heads, 4 * dim, True) for _ in range(n_layers)])
        self.head_bias = nn.Parameter(torch.zeros(vocabulary + 1))

    def forward(self, rows, _):
        places = torch.rand(rows.shape).topk(self.chosen).indices
        targets, chance = rows.gather(1, places), torch.rand(places.shape)
        others = torch.where(chance < 0.9, torch.randint_like(targets, self.vocabulary), targets)
        masked = rows.scatter(1, places, torch.where(chance < 0.8, torch.full_like(targets, self.vocabulary), others))
        x = self.embedding(masked) + (self.position.weight + self.types.weight[0])
        x = self.blocks(self.norm(x))
        x = x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
        x = self.transform_norm(functional.gelu(self.transform(x)))
        return cross_entropy(functional.linear(x, self.embedding.weight, self.head_bias), targets)


class Vit(nn.Module):
    def __init__(self, patch=4, side=7, classes=10, n_layers=4, n_heads=4, dim=64, hidden=128, dropout=0.1):
        super().__init__()
        self.patch, self.side, self.dropout = patch, side, dropout
        self.patches, self.norm, self.head = nn.Linear(patch * patch, dim), nn.LayerNorm(dim), nn.Linear(dim, classes)
        self.first, self.position = nn.Parameter(torch.zeros(1, 1, dim)), nn.Parameter(torch.zeros(side * side + 1, dim))
        self.blocks = nn.Sequential(*[EncoderBlock(dim, n_heads, hidden, False, dropout) for _ in range(n_layers)])

    def forward(self, rows, of):
        cut = rows.view(-1, self.side, self.patch, self.side, self.patch).transpose(2, 3).reshape(len(rows), self.side**2, -1)
        x = torch.cat([self.first.expand(len(rows), 1, -1), self.patches(cut)], 1) + self.position
        x = self.blocks(functional.dropout(x, self.dropout))
        return cross_entropy(self.head(self.norm(x[:, 0])), of)


class T5Attention(nn.Module):
    def __init__(self, dim, n_heads, cross=False):
        super().__init__()
        self.n_heads, self.cross, self.norm = n_heads, cross, RmsNorm(dim, 1e-6)
        if cross:
            self.q, self.kv = nn.Linear(dim, dim, False), nn.Linear(dim, 2 * dim, False)
        else:
            self.qkv = nn.Linear(dim, 3 * dim, False)
        self.out = nn.Linear(dim, dim, False)

    def forward(self, x, added=None, memory=None):
        y = self.norm(x)
        if self.cross:
            heads = *to_heads(self.q(y), 1, self.n_heads), *to_heads(self.kv(memory), 2, self.n_heads)
        else:
            heads = to_heads(self.qkv(y), 3, self.n_heads)
        return x + self.out(from_heads(attend(*heads, 1.0, added), self.n_heads))


class T5Stack(nn.Module):
    """`classes` stand for those of T5's distances, whose table is made once: what a step does is the same."""

    def __init__(self, dim, n_heads, n_layers, decodes):
        super().__init__()
        self.n_heads, self.decodes, self.relative = n_heads, decodes, nn.Embedding(32, n_heads)
        self.attention = nn.ModuleList(T5Attention(dim, n_heads) for _ in range(n_layers))
        self.cross = nn.ModuleList(T5Attention(dim, n_heads, True) for _ in range(n_layers if decodes else 0))
        self.mlp_norm = nn.ModuleList(RmsNorm(dim, 1e-6) for _ in range(n_layers))
        self.mlp = nn.ModuleList(Mlp(dim, 4 * dim, False, functional.relu) for _ in range(n_layers))
        self.norm = RmsNorm(dim, 1e-6)
        distance = torch.arange(block)[None] - torch.arange(block)[:, None]
        self.register_buffer("classes", distance.clamp(-16, 15) + 16, persistent=False)
        self.register_buffer("mask", future(block), persistent=False)

    def forward(self, x, memory=None):
        added = self.relative(self.classes).permute(2, 0, 1)
        added = added + self.mask if self.decodes else added
        added = added.expand(len(x), *added.shape).flatten(0, 1)
        for layer, attention in enumerate(self.attention):
            x = attention(x, added)
            if self.decodes:
                x = self.cross[layer](x, memory=memory)
            x = x + self.mlp[layer](self.mlp_norm[layer](x))
        return self.norm(x)


class T5(nn.Module):
    def __init__(self, vocabulary, n_layers=2, n_heads=4, dim=128):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.encoder, self.decoder = (T5Stack(dim, n_heads, n_layers, decodes) for decodes in (False, True))

    def forward(self, rows, of):
        memory = self.encoder(self.embedding(rows))
        x = self.decoder(self.embedding(functional.pad(of[:, :-1], (1, 0))), memory)
        return cross_entropy(functional.linear(x * x.shape[-1] ** -0.5, self.embedding.weight), of)

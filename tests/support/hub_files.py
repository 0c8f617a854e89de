# SPDX-License-Identifier: Apache-2.0
"""Folders of transformers whose weights lie in several files, both ways. Wants peer_packages.use("transformers") before.

    hub_files.check("NAME", model)     # of more than a megabyte"""
import json
import pathlib

import runs
import torch


def several(folder):
    """The files that a folder's index names, each of which is there, and nothing beside them."""
    index = json.loads(pathlib.Path(folder, "model.safetensors.index.json").read_text(encoding="utf-8"))
    names = set(index["weight_map"].values())
    assert len(names) > 1 and names == {path.name for path in pathlib.Path(folder).glob("*.safetensors")}, f"{folder}: {sorted(names)}"
    return index["metadata"]["total_size"]


def check(name, model, *words):
    """Written by them in several files, read and written here in several, read by them: the same weights. `words` are what an
    import wants beside."""
    model.save_pretrained(name, max_shard_size="200KB")
    several(name)
    runs.tessera("checkpoint", "import", name, "--to", f"run-{name}", *words)
    out = runs.tessera("checkpoint", "export", "--hugging-face", f"out-{name}", "--file-mb", 1, f"run-{name}").out
    assert "files of weights" in out, out
    numbers = sum(weight.numel() for weight in model.parameters())
    assert several(f"out-{name}") == 4 * numbers, f"{name}: not all weights, or some twice"
    again = dict(type(model).from_pretrained(f"out-{name}").named_parameters())
    for key, weight in model.named_parameters():
        assert torch.equal(weight, again[key]), f"{name}: {key} came back otherwise"
    print(f"{name}: {numbers} weights, in several files both ways")

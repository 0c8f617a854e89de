# SPDX-License-Identifier: Apache-2.0
"""HDF5 files as h5py writes them, chunked and compressed: what `tessera data` says of them; a classifier and a regression on them
have the same bits on 1, 2 and 4 ranks and learn; a run resumed goes on with the same bits; a plan needs no data; files and samples
that are not right are left out, and counted, or refused with exit code 3. A model of an image and a row of numbers that finds a
class and a price is PyTorch's, and has the same bits on 1, 2 and 4 ranks."""
import json
import os
import pathlib
import shutil
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import h5py
import numpy as np
import runs
import torch

HEAD = """
[data]
reader = "hdf5"
files = ["part*.h5"]
input_field = "/train/images"
target_field = "{target}"
{more}
[model]
type = "layers"
[[model.layers]]
type = "flatten"
[[model.layers]]
type = "linear"
outputs = {outputs}
[[model.layers]]
type = "{loss}"
[optimizer]
lr = 0.0001
[lr_scheduler]
warmup_steps = 0
[training]
steps = 24
global_batch_size = 16
local_batch_size = 4
[metrics]
evaluate_every = 12
[checkpoint]
interval = 12
"""


def write_files():
    """Three files of 100, 83 and 50 samples of 96 x 96 bytes, in chunks of 16: blocks cross the files' ends. Bright rows tell the class."""
    draw = np.random.default_rng(1)
    for number, count in enumerate((100, 83, 50)):
        labels = draw.integers(0, 4, count)
        images = draw.integers(0, 60, (count, 96, 96)).astype("u1")
        for image, label in zip(images, labels):
            image[24 * label:24 * label + 24] += 120
        with h5py.File(f"part{number}.h5", "w") as file:
            file.create_dataset("train/images", data=images, chunks=(16, 48, 96), compression="gzip", shuffle=True)
            file.create_dataset("train/labels", data=labels.astype("i8"), chunks=(32,), compression="gzip")
            file.create_dataset("train/numbers", data=np.stack([labels, 3 - labels], axis=1).astype("f8"))
            file.create_dataset("train/names", data=[b"a"] * count)


def same_bits(config, *words):
    losses = {}
    for ranks in (1, 2, 4):
        runs.train(config, *words, f"run.folder={config}-{ranks}", ranks=ranks)
        losses[ranks] = [float(record["loss"]) for record in runs.metrics(f"{config}-{ranks}", "step")]
        assert losses[ranks] == losses[1], f"{config}: other bits on {ranks} ranks"
        runs.expect_same(runs.read(f"{config}-1"), runs.read(f"{config}-{ranks}"), f"{ranks} ranks and 1")
    assert len(losses[1]) == 24 and losses[1][-1] < 0.5 * losses[1][0], losses[1]
    return losses[1]


def check_training():
    write("classes.toml", "/train/labels", 'cache_mib = 1\nclasses = 4\nimage_shape = [96, 96, 1]\n', 4, "cross_entropy")
    write("numbers.toml", "/train/numbers", 'cache_mib = 1\nimage_shape = [96, 96, 1]\n', 2, "mean_squared_error")
    whole = same_bits("classes.toml")
    same_bits("numbers.toml")
    shutil.copytree("classes.toml-4", "half")
    shutil.rmtree(runs.checkpoints("half")[-1])
    runs.train("classes.toml", "run.folder=half", ranks=2)
    runs.expect_same(runs.read("classes.toml-1"), runs.read("half"), "a resumed run and a whole one")
    runs.train("classes.toml", "run.folder=more", "data.cache_mib=64")
    assert float(runs.metrics("more", "step")[0]["loss"]) != whole[0], "a larger cache mixes more, and the order was the same"


def check_look():
    out = runs.tessera("data", "check", "classes.toml").out
    for line in ("field image (96, 96, 1) f32", "field label () i32", "classes: 4", "training: 209 samples, of which 209 were read",
                 "validation: 24 samples, of which 24 were read", "every sample is readable"):
        assert line in out, (line, out)
    out = runs.tessera("data", "inspect", "numbers.toml").out
    assert "field targets (2) f32" in out and "the first begins: " in out, out
    out = runs.tessera("plan", "-n", "2", "classes.toml", 'data.files=["elsewhere.h5"]').out
    assert "36,868" in out or "36868" in out, out  # weights: 96 * 96 * 4 + 4


def check_statistics():
    """Mean and deviation of all samples to train on, and of wide numbers that f32 would not hold, beside numpy's."""
    images = np.concatenate([h5py.File(f"part{number}.h5")["train/images"][:] for number in range(3)])[:209]
    for ranks in (1, 3):
        runs.tessera("data", "prepare", "classes.toml", f"data.statistics=images{ranks}.json", ranks=ranks)
    text = pathlib.Path("images1.json").read_text(encoding="utf-8")
    assert text == pathlib.Path("images3.json").read_text(encoding="utf-8"), "statistics depend on the number of ranks"
    found = json.loads(text)
    assert abs(found["mean"][0] - images.mean()) < 1e-6 and abs(found["deviation"][0] - images.std()) < 1e-6, found
    wide = np.random.default_rng(2).normal(1e9, [1, 2, 3], (50, 3))
    with h5py.File("wide.h5", "w") as file:
        file.create_dataset("x", data=wide, chunks=(7, 3))
        file.create_dataset("y", data=np.arange(50) % 4)
    words = ["classes.toml", 'data.files=["wide.h5"]', "data.input_field=/x", "data.target_field=/y", "data.image_shape=[]",
             "data.validation_fraction=0", "data.statistics=wide.json"]
    runs.tessera("data", "prepare", *words, ranks=2)
    found = json.loads(pathlib.Path("wide.json").read_text(encoding="utf-8"))
    assert np.allclose(found["mean"], wide.mean(axis=0), rtol=0, atol=1e-6), found
    assert np.allclose(found["deviation"], wide.std(axis=0), rtol=1e-6), (found, wide.std(axis=0))
    runs.train(*words, "run.folder=wide", "training.steps=2", "training.global_batch_size=4")
    with h5py.File("wide.h5", "a") as file:
        file["x"][3, 1] = np.nan
    run = runs.tessera("data", "prepare", *words, ranks=2, code=3)
    assert "wide.h5: dataset '/x', sample 3: holds a number that is not finite" in run.err and "broken samples: 1\n" in run.out, run


def check_left_out():
    content = pathlib.Path("part0.h5").read_bytes()
    pathlib.Path("part3.h5").write_bytes(content[:-1000])
    run = runs.train("classes.toml", "run.folder=stops", code=3)
    assert "part3.h5: cannot be opened as HDF5: truncated file" in run.err and run.err.count("\n") == 1, run.err
    run = runs.train("classes.toml", "run.folder=skips", "data.on_error=skip", ranks=2)
    assert "data: left out 1 file" in run.out and "part3.h5: cannot be opened" in run.out, run.out
    records = runs.metrics("skips", "skipped")
    assert [(record["records"], record["count"]) for record in records] == [("file", 1)], records
    pathlib.Path("part3.h5").unlink()
    words = ["classes.toml", 'data.files=["wide.h5"]', "data.input_field=/x", "data.target_field=/y", "data.image_shape=[]",
             "data.validation_fraction=0.1", "training.steps=2"]
    run = runs.train(*words, "run.folder=stops", code=3)
    assert "wide.h5: dataset '/x', sample 3: holds a number that is not finite" in run.err and run.err.count("\n") == 1, run.err
    run = runs.train(*words, "run.folder=rows", "data.on_error=skip", ranks=2)
    assert "data: left out 1 sample" in run.out and "wide.h5: dataset '/x', sample 3: " in run.out, run.out
    out = runs.tessera("data", "check", *words, "data.on_error=skip").out
    assert "training: 44 samples, of which 44 were read" in out and "validation: 5 samples" in out, out


HEADS = """
[data]
reader = "hdf5"
files = ["houses.h5"]
input_fields = ["/pixels", "/row"]
target_fields = ["/kind", "/price"]
order = "sequential"
validation_fraction = 0.2
[model]
type = "layers"
[[model.layers]]
name = "conv"
type = "convolution"
inputs = ["pixels"]
filters = 4
kernel = 3
[[model.layers]]
type = "relu"
[[model.layers]]
name = "flat"
type = "flatten"
[[model.layers]]
name = "fc"
type = "linear"
inputs = ["row"]
outputs = 6
[[model.layers]]
name = "numbers"
type = "silu"
[[model.layers]]
name = "both"
type = "concat"
inputs = ["flat", "numbers"]
[[model.layers]]
name = "of_kind"
type = "linear"
outputs = 3
[[model.layers]]
name = "of_price"
type = "linear"
inputs = ["both"]
outputs = 1
[[model.layers]]
name = "kind_loss"
type = "cross_entropy"
inputs = ["of_kind", "kind"]
[[model.layers]]
name = "price_loss"
type = "mean_squared_error"
inputs = ["of_price", "price"]
weight = 0.5
[optimizer]
name = "adamw"
lr = 3e-3
weight_decay = 0.0
[lr_scheduler]
type = "constant"
warmup_steps = 0
[training]
steps = 12
global_batch_size = 16
local_batch_size = 4
max_norm = 0.0
[metrics]
evaluate_every = 0
evaluate = ["auc", "r2"]
[checkpoint]
interval = 0
"""


class Heads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.fc = torch.nn.Linear(3, 6)
        self.of_kind = torch.nn.Linear(4 * 4 * 4 + 6, 3)
        self.of_price = torch.nn.Linear(4 * 4 * 4 + 6, 1)

    def forward(self, pixels, row):
        of_image = torch.relu(self.conv(pixels[:, None])).permute(0, 2, 3, 1).flatten(1)  # (H, W, C), as ours
        both = torch.cat([of_image, torch.nn.functional.silu(self.fc(row))], 1)
        return self.of_kind(both), self.of_price(both)[:, 0]


def read_heads(folder):
    model, tensors = Heads().double(), runs.read_tensors(runs.checkpoints(folder)[-1])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.tensor(np.asarray(tensors[name], np.float64))
            parameter.copy_(value.permute(0, 3, 1, 2) if value.dim() == 4 else value.reshape(parameter.shape))
    return model


def check_heads():
    draw = np.random.default_rng(4)
    pixels, kind = draw.integers(0, 255, (80, 6, 6, 1)).astype("u1"), draw.integers(0, 3, 80)
    row = draw.normal([5, -2, 100], [1, 3, 10], (80, 3))
    price = row[:, 0] + 0.01 * pixels[:, 2, 2, 0] + kind
    with h5py.File("houses.h5", "w") as file:
        file.create_dataset("pixels", data=pixels, chunks=(7, 6, 6, 1))
        file.create_dataset("row", data=row, chunks=(16, 3))
        file.create_dataset("kind", data=kind)
        file.create_dataset("price", data=price.astype("f4"))
    pathlib.Path("heads.toml").write_text(HEADS, encoding="utf-8")
    runs.train("heads.toml", "run.folder=heads-start", "training.steps=1", "optimizer.lr=0")
    model = read_heads("heads-start")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    x = torch.tensor((pixels[..., 0] - pixels[:64].mean()) / pixels[:64].std())
    rows = torch.tensor((row - row[:64].mean(0)) / row[:64].std(0))
    kinds, prices = torch.tensor(kind), torch.tensor(price.astype("f4").astype("f8"))

    def losses_of(at):
        of_kind, of_price = model(x[at], rows[at])
        return torch.nn.functional.cross_entropy(of_kind, kinds[at]), torch.nn.functional.mse_loss(of_price, prices[at])

    wanted = []
    for step in range(12):
        optimizer.zero_grad()
        parts = losses_of([(16 * step + i) % 64 for i in range(16)])
        wanted.append([part.item() for part in parts])
        (parts[0] + 0.5 * parts[1]).backward()
        optimizer.step()
    for ranks in (1, 2, 4):
        runs.train("heads.toml", f"run.folder=heads-{ranks}", ranks=ranks)
        runs.expect_same(runs.read("heads-1"), runs.read(f"heads-{ranks}"), f"two inputs and two losses on {ranks} ranks")
    found = np.array([[float(record["kind_loss.loss"]), float(record["price_loss.loss"])] for record in runs.metrics("heads-1", "step")])
    assert np.allclose(found, wanted, rtol=2e-5), (found, wanted)
    out = runs.tessera("data", "check", "heads.toml").out
    assert "field pixels (6, 6, 1) f32\nfield row (3) f32\nfield kind () i32, 3 classes\nfield price (1) f32\n" in out, out
    model = read_heads("heads-1")
    record, parts = runs.metrics("heads-1", "evaluation")[-1], losses_of(list(range(64, 80)))
    assert abs(float(record["loss"]) / (parts[0] + 0.5 * parts[1]).item() - 1) < 2e-5, (record, parts)
    r2 = 1 - parts[1].item() / prices[64:].var(unbiased=False).item()
    assert abs(float(record["price_loss.r2"]) - r2) < 1e-4 and 0 <= float(record["kind_loss.auc"]) <= 1, (record, r2)


def write(path, target, more, outputs, loss):
    pathlib.Path(path).write_text(HEAD.format(target=target, more=more, outputs=outputs, loss=loss), encoding="utf-8")


with runs.folder():
    write_files()
    check_training()
    check_look()
    check_statistics()
    check_left_out()
    check_heads()

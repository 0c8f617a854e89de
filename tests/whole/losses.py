# SPDX-License-Identifier: Apache-2.0
"""Losses against PyTorch: 20 losses and the first gradients of an MLP on a table; targets that do not count leave a mean
over the others, of the whole step, with the same bits on 1, 2 and 4 ranks."""
import math
import os
import pathlib
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import reference_gpt
import runs
import torch
from reference_encoders import key_of, philox

STEPS, BATCH, CLASSES, ROWS = 20, 16, 5, 80
LOSS, GRADIENT, EVALUATION = 1e-5, 1e-5, 1e-5  # relative
F = torch.nn.functional

MODEL = f"""
[data]
reader = "csv"
order = "sequential"
validation_fraction = 0.2
TARGETS
[training]
steps = {STEPS}
global_batch_size = {BATCH}
local_batch_size = 4
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
[model]
type = "layers"
[[model.layers]]
name = "fc1"
type = "linear"
outputs = 24
[[model.layers]]
type = "silu"
[[model.layers]]
name = "fc2"
type = "linear"
outputs = OUTPUTS
[[model.layers]]
name = "loss"
LOSS
"""
LABELS = ('files = ["labels.csv"]\nlabel_column = "label"', CLASSES)
BITS = ('files = ["bits.csv"]\ntarget_columns = ["a", "b"]', 2)
TWO = ('files = ["two.csv"]\nlabel_column = "label"', 2)
NUMBERS = ('files = ["numbers.csv"]\ntarget_columns = ["a", "b"]', 2)


class Mlp(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.fc1 = torch.nn.Linear(3, 24)
        self.fc2 = torch.nn.Linear(24, outputs)

    def forward(self, x):
        return self.fc2(F.silu(self.fc1(x)))


def load(model, tensors):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(np.asarray(tensors[name], np.float64)).reshape(parameter.shape))
    return model


def write_config(what, form, loss):
    targets, outputs = form
    text = MODEL.replace("TARGETS", targets).replace("OUTPUTS", str(outputs)).replace("LOSS", loss)
    pathlib.Path(f"{what}.toml").write_text(text)


def check(what, form, loss, inputs, targets, loss_of, batch_of=None):
    """Returns the evaluation's record. batch_of: of the numbers of a step's samples in the run."""
    batch_of = batch_of or (lambda indices: (inputs[[i % trained for i in indices]], targets[[i % trained for i in indices]]))
    write_config(what, form, loss)
    runs.train(f"{what}.toml", "run.folder=start", "training.steps=1", "optimizer.lr=0", "checkpoint.resume=never")
    tensors = runs.read_tensors(runs.checkpoints("start")[-1])
    model = load(Mlp(form[1]).double(), tensors)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    trained = ROWS * 4 // 5
    losses = []
    for step in range(STEPS):
        batch, wanted = batch_of([step * BATCH + i for i in range(BATCH)])
        optimizer.zero_grad()
        mean = loss_of(model(batch), wanted)
        mean.backward()
        losses.append(mean.item())
        for name, parameter in model.named_parameters() if step == 0 else ():
            found = torch.tensor(np.asarray(tensors["optimizer.first_moment/" + name], np.float64)) / 0.1
            error = (found.reshape(parameter.shape) - parameter.grad).norm() / parameter.grad.norm()
            assert error < GRADIENT, f"{what}: gradient of {name}: relative error {error:.2e}"
        optimizer.step()
    runs.train(f"{what}.toml", f"run.folder={what}")
    found = np.array([float(record["loss"]) for record in runs.metrics(what, "step")])
    error = np.abs(found / np.array(losses) - 1)
    assert len(found) == STEPS and found[-4:].mean() < 0.98 * found[:4].mean(), f"{what}: it does not learn: {found}"
    assert error.max() < LOSS, f"{what}: losses differ by {error.max():.2e} of themselves: {found} {losses}"
    load(model, runs.read_tensors(runs.checkpoints(what)[-1]))
    logits = model(inputs[trained:]).detach()
    wanted, record = loss_of(logits, targets[trained:]).item(), runs.metrics(what, "evaluation")[-1]
    assert abs(float(record["loss"]) / wanted - 1) < EVALUATION, f"{what}: {record}, expected {wanted}"
    print(f"{what}: {STEPS} losses within {error.max():.1e} of themselves")
    return record, logits


def check_ranks(what):
    """A step's targets are unevenly spread over its micro-batches, and some ranks may have none at all."""
    for ranks, words in ((2, ["parallelism.zero_stage=1"]), (4, ["parallelism.zero_stage=3"]),
                         (2, ["parallelism.pipeline_parallel_degree=2"])):
        runs.train(f"{what}.toml", "run.folder=many", "checkpoint.resume=never", *words, ranks=ranks)
        runs.expect_same(runs.read(what), runs.read("many"), f"{what} on 1 rank and on {ranks} with {words}")


def check_ignored(inputs, labels):
    record, logits = check("ignored", LABELS, 'type = "cross_entropy"\nignore_index = 2', inputs, labels,
                           lambda y, t: F.cross_entropy(y, t, ignore_index=2))
    counts = labels[ROWS * 4 // 5:] != 2
    accuracy = (logits.argmax(1) == labels[ROWS * 4 // 5:])[counts].double().mean().item()
    assert abs(float(record["accuracy"]) - accuracy) < 1e-6, (record, accuracy)
    check_ranks("ignored")
    runs.train("ignored.toml", "run.folder=f16", "training.dtype=f16", "optimizer.lr=1e-3")
    found = [float(record["loss"]) for record in runs.metrics("f16", "step")]
    assert abs(found[0] / float(runs.metrics("ignored", "step")[0]["loss"]) - 1) < 2e-3, found
    out = runs.tessera("verify", "-n", 2, "--steps", 2, "ignored.toml", "parallelism.tensor_parallel_degree=2").out
    assert "2 steps: all agree" in out, out


def evaluated(what, form, loss, names, inputs):
    """The record of an evaluation, which is the same on 3 ranks, which have unequal shares, and others; and what the model
    says."""
    write_config(what, form, loss)
    words = [f"{what}.toml", f"metrics.evaluate={names}"]
    runs.train(*words, f"run.folder={what}-1")
    one = runs.metrics(f"{what}-1", "evaluation")[-1]
    for ranks, key in ((2, "pipeline_parallel_degree=2"), (3, "zero_stage=1"), (4, "zero_stage=3")):
        runs.train(*words, f"run.folder={what}-{ranks}", f"parallelism.{key}", ranks=ranks)
        other = runs.metrics(f"{what}-{ranks}", "evaluation")[-1]
        assert one == other, f"{what}: {one} on 1 rank, {other} on {ranks}"
    model = load(Mlp(form[1]).double(), runs.read_tensors(runs.checkpoints(f"{what}-1")[-1]))
    return one, model(inputs[ROWS * 4 // 5:]).detach().numpy()


def expect(record, name, wanted):
    assert abs(float(record[name]) - wanted) < 1e-5, f"{name}: {record[name]}, expected {wanted}: {record}"


def area(scores, positive):
    """Of all pairs of a positive and a negative, the share in the right order."""
    pairs = scores[positive][:, None] - scores[~positive][None, :]
    return ((pairs > 0) + 0.5 * (pairs == 0)).mean()


def check_area():
    """2,000 samples, of which some are nearer to each other than 1/256 and every tenth is there twice, with another label."""
    draw = np.random.default_rng(8)
    x, label = draw.normal(size=(2000, 3)).astype(np.float32), draw.integers(0, 2, 2000)
    x[::10], label[::10] = x[1::10], 1 - label[1::10]
    lines = ["x,y,z,label"] + [",".join(map(repr, row + [int(of_row)])) for row, of_row in zip(x.tolist(), label)]
    pathlib.Path("many.csv").write_text("\n".join(lines) + "\n")
    train = np.genfromtxt("two.csv", delimiter=",", skip_header=1)[:, :3]
    model = load(Mlp(2).double(), runs.read_tensors(runs.checkpoints("two-1")[-1]))
    logits = model(torch.tensor((x.astype(np.float64) - train.mean(0)) / train.std(0))).detach().numpy()
    wanted = area(logits[:, 1] - logits[:, 0], label == 1)
    out = runs.tessera("evaluate", "two-1", "data.validation_files=['many.csv']", "data.validation_fraction=0", ranks=3).out
    found = float(out.split("auc: ")[1].split()[0])
    assert "samples: 2,000" in out or "samples: 2000" in out, out
    assert abs(found - wanted) < 3e-6, f"{found}, exactly {wanted}"  # f32 logits: a pair or two may change places


def check_outcomes(inputs, numbers):
    record, logits = evaluated("outcomes", BITS, 'type = "binary_cross_entropy"', ["auc", "precision", "recall", "f1"], inputs)
    there, taken = numbers[ROWS * 4 // 5:].numpy() > 0.5, logits > 0
    hits, of_outcome, taken_for = (there & taken).sum(0), there.sum(0), taken.sum(0)
    share = lambda part, whole: np.divide(part, whole, out=np.zeros(2), where=whole > 0).mean()
    assert 0 < (there == taken).mean() < 1 and of_outcome.min() > 0, (there, taken)
    expect(record, "accuracy", (there == taken).mean())
    expect(record, "precision", share(hits, taken_for))
    expect(record, "recall", share(hits, of_outcome))
    expect(record, "f1", share(2 * hits, of_outcome + taken_for))
    expect(record, "auc", np.mean([area(logits[:, k], there[:, k]) for k in range(2)]))


def check_metrics(inputs, labels, numbers):
    record, logits = evaluated("classes", LABELS, 'type = "cross_entropy"\nignore_index = 2',
                               ["top_2", "confusion_matrix", "precision", "recall", "f1", "auc"], inputs)
    wanted = labels[ROWS * 4 // 5:].numpy()
    logits, wanted = logits[wanted != 2], wanted[wanted != 2]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expect(record, "auc", np.mean([area(shares[:, c], wanted == c) for c in range(CLASSES) if (wanted == c).any()]))
    predicted, table = logits.argmax(1), np.zeros((CLASSES, CLASSES), int)
    np.add.at(table, (wanted, predicted), 1)
    assert record["confusion_matrix"] == table.tolist(), (record, table)
    said = runs.tessera("evaluate", "classes-1", ranks=2).out.split("confusion_matrix:\n")[1]
    assert [line.split() for line in said.splitlines()] == [list(map(str, row)) for row in table.tolist()], said
    expect(record, "top_2_accuracy", np.mean([t in np.argsort(-row)[:2] for row, t in zip(logits, wanted)]))
    right, of_class, taken = np.diag(table), table.sum(1), table.sum(0)
    there = of_class + taken > 0  # one class is left out: it is in no mean
    assert there.sum() == CLASSES - 1, table
    share = lambda part, whole: np.divide(part, whole, out=np.zeros(CLASSES), where=whole > 0)[there].mean()
    expect(record, "precision", share(right, taken))
    expect(record, "recall", share(right, of_class))
    expect(record, "f1", share(2 * right, of_class + taken))

    record, logits = evaluated("two", TWO, 'type = "cross_entropy"', ["auc"], inputs)
    expect(record, "auc", area(logits[:, 1] - logits[:, 0], labels[ROWS * 4 // 5:].numpy() > 1))
    check_area()
    check_outcomes(inputs, numbers)

    record, y = evaluated("fit", NUMBERS, 'type = "mean_squared_error"', ["r2", "mean_absolute_error"], inputs)
    t = numbers[ROWS * 4 // 5:].numpy()
    expect(record, "mean_absolute_error", np.abs(y - t).mean())
    expect(record, "r2", (1 - ((y - t) ** 2).sum(0) / ((t - t.mean(0)) ** 2).sum(0)).mean())


def refuse(loss, sentence, *words, form=LABELS):
    write_config("wrong", form, loss)
    err = runs.tessera("train", "wrong.toml", *words, code=2).err
    assert sentence in err and err.count("\n") == 1, f"{loss} {words}: expected {sentence!r}, got:\n{err}"


def refuse_metrics():
    for form, loss, names, sentence in (
            (LABELS, "cross_entropy", '["top_6"]', "top_6: there are 5 classes"),
            (BITS, "binary_cross_entropy", '["top_2"]', "'top_2' judges classes, which no loss of the model compares"),
            (LABELS, "cross_entropy", '["f2"]', "no metric named 'f2'; did you mean 'f1'"),
            (LABELS, "cross_entropy", '["f1", "f1"]', "'f1' stands there twice"),
            (LABELS, "cross_entropy", '["r2"]', "'r2' judges numbers, which no loss of the model compares"),
            (BITS, "binary_cross_entropy", '["r2"]', "'r2' judges numbers, which no loss of the model compares"),
            (NUMBERS, "huber", '["f1"]', "'f1' judges classes, which no loss of the model compares")):
        refuse(f'type = "{loss}"', sentence, f"metrics.evaluate={names}", form=form)
    refuse('type = "cross_entropy"', "metrics.evaluate", 'metrics.evaluate=["f1"]', "data.validation_fraction=0.0")


def write_tables():
    draw = np.random.default_rng(3)
    x = draw.normal(size=(ROWS, 3)).astype(np.float32)
    labels = np.digitize(x[:, 0] + 0.5 * x[:, 1] * x[:, 2], [-1, -0.3, 0.3, 1])
    labels[4:8] = 2  # a micro-batch of which nothing counts where 2 is left out
    numbers = np.stack([np.sin(x[:, 0]) + 3 * (x[:, 1] > 1.5), x[:, 0] * x[:, 2]], 1).astype(np.float32)
    for name, header, columns in (("labels", "label", labels[:, None]), ("two", "label", (labels[:, None] > 1).astype(int)),
                                  ("numbers", "a,b", numbers),
                                  ("bits", "a,b", (numbers > 0.5).astype(np.float32))):
        lines = [f"x,y,z,{header}"] + [",".join(map(repr, a + b)) for a, b in zip(x.tolist(), columns.tolist())]
        pathlib.Path(f"{name}.csv").write_text("\n".join(lines) + "\n")
    return x, labels, numbers


def normal(columns):
    """As the reader makes features of them: by the training rows' mean and deviation."""
    columns = columns.astype(np.float64)
    train = columns[:ROWS * 4 // 5]
    return torch.tensor((columns - train.mean(0)) / train.std(0))


def check_classes(inputs, labels):
    weights = [0.5, 2.0, 1.0, 0.0, 3.0]
    of_classes = torch.tensor(weights).double()
    check("smoothed", LABELS, 'type = "cross_entropy"\nlabel_smoothing = 0.1', inputs, labels,
          lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1 if y.requires_grad else 0))
    check("weighted", LABELS, f'type = "cross_entropy"\nlabel_smoothing = 0.2\nignore_index = 2\nclass_weights = {weights}',
          inputs, labels, lambda y, t: F.cross_entropy(y, t, of_classes, ignore_index=2,
                                                       label_smoothing=0.2 if y.requires_grad else 0))
    check_ranks("weighted")
    out = runs.tessera("verify", "-n", 2, "--steps", 2, "weighted.toml", "parallelism.tensor_parallel_degree=2").out
    assert "2 steps: all agree" in out, out


def mixed(inputs, labels, alpha, index):
    """Sample `index` of a run and the next one, in the order of the rows: another implementation of the program's shares."""
    trained = ROWS * 4 // 5
    words = [int(word[0]) for word in philox(key_of(1, "augmentation.mixup"), index // trained, [index % trained])]
    first, second = ((((high << 32 | low) >> 12) + 0.5) / 2**52 for high, low in (words[:2], words[2:]))
    cosine = math.cos(2 * math.pi * second)
    squared = (first ** (-1 / alpha) - 1) * cosine**2
    share = 0.5 + math.copysign(0.5 / math.sqrt(1 + 1 / squared), cosine)
    both = [index % trained, (index + 1) % trained]
    of_both = torch.tensor([share, 1 - share]).double()[:, None]
    return (of_both * inputs[both]).sum(0), (of_both * F.one_hot(labels[both], CLASSES)).sum(0)


def check_mixup(inputs, labels):
    def batch_of(indices):
        pairs = [mixed(inputs, labels, 0.6, index) for index in indices]
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    check("mixup", (LABELS[0] + "\nmixup = 0.6", CLASSES), 'type = "cross_entropy"\nlabel_smoothing = 0.1', inputs, labels,
          lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1 if y.requires_grad else 0), batch_of)
    check_ranks("mixup")


def check_tokens():
    """A language model with smoothed targets, over a vocabulary of which tensor ranks hold parts."""
    tokens = np.random.default_rng(2).integers(0, 61, 400)
    runs.write_tokens("tokens.bin", tokens)
    runs.write_config("gpt.toml", {
        "data.reader": "tokens", "data.files": ["tokens.bin"], "data.vocab_size": 61, "data.order": "sequential",
        "data.validation_fraction": 0.3, "model.n_layers": 1, "model.n_heads": 2, "model.dim": 16, "training.seq_len": 16,
        "training.steps": 1, "training.global_batch_size": 8, "training.local_batch_size": 2, "training.max_norm": 0.0,
        "optimizer.lr": 0.0, "loss.label_smoothing": 0.2})
    runs.train("gpt.toml", "run.folder=smooth")
    runs.train("gpt.toml", "run.folder=sharp", "loss.label_smoothing=0.0")
    smooth, sharp = runs.metrics("smooth", "evaluation")[-1], runs.metrics("sharp", "evaluation")[-1]
    assert smooth == sharp, f"an evaluation is smoothed: {smooth} {sharp}"
    model = reference_gpt.load(runs.checkpoints("smooth")[-1])
    windows = torch.tensor(np.stack([tokens[16 * i:16 * i + 17] for i in range(8)]).astype(np.int64))
    loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten(), label_smoothing=0.2)
    loss.backward()
    found = float(runs.metrics("smooth", "step")[0]["loss"])
    assert abs(found / loss.item() - 1) < LOSS, (found, loss)
    moments = runs.read_tensors(runs.checkpoints("smooth")[-1])
    for name, wanted in model.as_numpy(lambda parameter: parameter.grad).items():
        gradient = np.asarray(moments["optimizer.first_moment/" + name], np.float64) / 0.1
        error = np.linalg.norm(gradient - wanted) / np.linalg.norm(wanted)
        assert error < GRADIENT, f"smoothed tokens: gradient of {name}: relative error {error:.2e}"
    token = int(windows[0, 1])
    runs.train("gpt.toml", "run.folder=ignored-token", "loss.label_smoothing=0.0", f"loss.ignore_index={token}")
    left_out = windows[:, 1:].masked_fill(windows[:, 1:] == token, -1)
    loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), left_out.flatten(), ignore_index=-1).item()
    found = float(runs.metrics("ignored-token", "step")[0]["loss"])
    assert abs(found / loss - 1) < LOSS, (found, loss)
    record = runs.metrics("ignored-token", "evaluation")[-1]
    assert abs(float(record["perplexity"]) / math.exp(float(record["loss"])) - 1) < 1e-5, record
    out = runs.tessera("verify", "-n", 2, "--steps", 1, "gpt.toml", "parallelism.tensor_parallel_degree=2").out
    assert "1 step: all agree" in out or "1 steps: all agree" in out, out


def check_numbers(inputs, numbers):
    check("absolute", NUMBERS, 'type = "mean_absolute_error"', inputs, numbers, F.l1_loss)
    check("huber", NUMBERS, 'type = "huber"\ndelta = 0.4', inputs, numbers, lambda y, t: F.huber_loss(y, t, delta=0.4))
    positive = torch.tensor([2.5, 2.5]).double()
    check("binary", BITS, 'type = "binary_cross_entropy"\npositive_weight = 2.5', inputs, (numbers > 0.5).double(),
          lambda y, t: F.binary_cross_entropy_with_logits(y, t, pos_weight=positive))
    check("sum", NUMBERS, 'type = "mean_squared_error"\n[[model.layers]]\ntype = "mean_absolute_error"\ninputs = ["fc2"]\n'
          "weight = 0.3", inputs, numbers, lambda y, t: F.mse_loss(y, t) + 0.3 * F.l1_loss(y, t))


with runs.folder():
    features, wanted_labels, wanted_numbers = write_tables()
    check_ignored(normal(features), torch.tensor(wanted_labels.astype(np.int64)))
    check_classes(normal(features), torch.tensor(wanted_labels.astype(np.int64)))
    check_mixup(normal(features), torch.tensor(wanted_labels.astype(np.int64)))
    check_tokens()
    check_numbers(normal(features), torch.tensor(wanted_numbers.astype(np.float64)))
    check_metrics(normal(features), torch.tensor(wanted_labels.astype(np.int64)),
                  torch.tensor(wanted_numbers.astype(np.float64)))
    refuse('type = "cross_entropy"\nignore_index = -2', "must be a class, or -1 for none")
    refuse('type = "cross_entropy"\nclass_weights = [1.0, 2.0]', "class weights is (2), expected (5)")
    refuse('type = "cross_entropy"\nclass_weights = [0, 0, 0, 0, 0]', "no class weighs anything")
    refuse('type = "cross_entropy"\nlabel_smoothing = 1', "must be at least 0 and below 1")
    refuse('type = "cross_entropy"\n[[model.layers]]\ntype = "cross_entropy"\ninputs = ["fc2"]\nignore_index = 1',
           "leaves out or weighs other targets than the loss before")
    refuse_metrics()

# SPDX-License-Identifier: Apache-2.0
"""Every optimizer, and groups of parameters, against PyTorch: 20 losses of an MLP; of those whose steps follow the norms of
tensors the same bits on 1 to 4 ranks, which hold parts of a matrix of more than a block, and resumed; frozen weights stay as
they are, and cost neither states nor traffic."""
import os
import pathlib
import re
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import runs
import torch

STEPS, BATCH, ROWS, LOSS = 20, 16, 64, 1e-5

MODEL = f"""
[data]
reader = "csv"
files = ["table.csv"]
target_columns = ["a", "b"]
order = "sequential"
validation_fraction = 0.0
[training]
steps = {STEPS}
global_batch_size = {BATCH}
local_batch_size = 4
max_norm = 0.5
[lr_scheduler]
type = "constant"
warmup_steps = 0
[checkpoint]
interval = 0
[model]
type = "layers"
[[model.layers]]
name = "fc1"
type = "linear"
outputs = 64
[[model.layers]]
type = "silu"
[[model.layers]]
name = "fc2"
type = "linear"
outputs = 80
[[model.layers]]
type = "silu"
[[model.layers]]
name = "fc3"
type = "linear"
outputs = 2
[[model.layers]]
type = "mean_squared_error"
[optimizer]
lr = 0.01
weight_decay = 0.1
"""


class Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = torch.nn.Linear(3, 64), torch.nn.Linear(64, 80), torch.nn.Linear(80, 2)

    def forward(self, x):
        silu = torch.nn.functional.silu
        return self.fc3(silu(self.fc2(silu(self.fc1(x)))))


def load(model, tensors):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(np.asarray(tensors[name], np.float64)).reshape(parameter.shape))
    return model


class Adapted(torch.optim.Optimizer):
    """LAMB or LARS, by their papers; vectors are not adapted."""

    def __init__(self, parameters, **settings):
        super().__init__(parameters, dict(lr=0.01, decay=0.1, momentum=0.9, trust=0.01, betas=(0.9, 0.95), eps=1e-8, **settings))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group["params"]:
                self.state[w].setdefault("step", 0)
                self.state[w]["step"] += 1
                matrix = w.dim() > 1
                decay = group["decay"] if matrix else 0
                (self.lamb if group["kind"] == "lamb" else self.lars)(w, group, self.state[w], matrix, decay)

    @staticmethod
    def lamb(w, group, state, matrix, decay):
        (one, two), t = group["betas"], state["step"]
        m = state["m"] = one * state.get("m", 0) + (1 - one) * w.grad
        v = state["v"] = two * state.get("v", 0) + (1 - two) * w.grad ** 2
        way = m / (1 - one ** t) / ((v / (1 - two ** t)).sqrt() + group["eps"]) + decay * w
        w -= group["lr"] * (w.norm() / way.norm() if matrix else 1) * way

    @staticmethod
    def lars(w, group, state, matrix, decay):
        local = group["trust"] * w.norm() / (w.grad.norm() + decay * w.norm()) if matrix else 1
        state["velocity"] = group["momentum"] * state.get("velocity", 0) + local * (w.grad + decay * w)
        w -= group["lr"] * state["velocity"]


class Muon(torch.optim.Optimizer):
    """By Jordan's code, scaled as Liu et al. 2025 say; vectors by AdamW."""

    def __init__(self, model):
        matrices, vectors = ([w for w in model.parameters() if (w.dim() > 1) == is_matrix] for is_matrix in (True, False))
        super().__init__(matrices, {"lr": 0.01})
        self.others = torch.optim.AdamW(vectors, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0)

    @torch.no_grad()
    def step(self):
        self.others.step()
        for w in self.param_groups[0]["params"]:
            velocity = self.state[w]["velocity"] = 0.9 * self.state[w].get("velocity", 0) + w.grad
            x = w.grad + 0.9 * velocity
            x = x / (x.norm() + 1e-7)
            for _ in range(5):
                x = 3.4445 * x - 4.775 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
            w -= 0.01 * (0.2 * max(w.shape) ** 0.5 * x + 0.1 * w)


LAYOUTS = ((3, ["parallelism.zero_stage=1"]), (4, ["parallelism.zero_stage=3"]), (2, ["parallelism.zero_stage=2"]),
           (2, ["parallelism.pipeline_parallel_degree=2"]))


class Adafactor(torch.optim.Optimizer):
    """By its paper, without a first moment."""

    def __init__(self, model):
        super().__init__(model.parameters(), {"lr": 0.02})
        self.steps = 0

    @torch.no_grad()
    def step(self):
        self.steps += 1
        share = self.steps ** -0.8
        for w in self.param_groups[0]["params"]:
            square, state = w.grad ** 2 + 1e-30, self.state[w]
            kept = {"all": square} if w.dim() == 1 else {"rows": square.mean(1), "columns": square.mean(0)}
            for name, now in kept.items():
                state[name] = (1 - share) * state.get(name, 0) + share * now
            mean = state["all"] if w.dim() == 1 else torch.outer(state["rows"], state["columns"]) / state["rows"].mean()
            way = w.grad / mean.sqrt()
            size = max(1e-3, (w ** 2).mean().sqrt().item()) / max(1, (way ** 2).mean().sqrt().item())
            w -= 0.02 * (size * way + (0.1 * w if w.dim() > 1 else 0))


class Lion(torch.optim.Optimizer):
    """By its paper."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group["params"]:
                moment = self.state[w].get("moment", torch.zeros_like(w))
                w -= group["lr"] * ((0.9 * moment + 0.1 * w.grad).sign() + group["weight_decay"] * w)
                self.state[w]["moment"] = 0.99 * moment + 0.01 * w.grad


def check_losses(what, words, inputs, targets, optimizer_of, frozen=(), allowed=LOSS):
    runs.train("mlp.toml", f"run.folder={what}", *words)
    runs.train("mlp.toml", *words, "run.folder=start", "training.steps=1", "optimizer.lr=0", "checkpoint.resume=never")
    model = load(Mlp().double(), runs.read_tensors(runs.checkpoints("start")[-1]))
    trained = [parameter for name, parameter in model.named_parameters() if name not in frozen]
    optimizer = optimizer_of(model)
    losses = []
    for step in range(STEPS):
        rows = [(step * BATCH + i) % ROWS for i in range(BATCH)]
        model.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs[rows]), targets[rows])
        loss.backward()
        losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
    found = np.array([float(record["loss"]) for record in runs.metrics(what, "step")])
    error = np.abs(found / np.array(losses) - 1)
    assert len(found) == STEPS and found[-4:].mean() < 0.98 * found[:4].mean(), f"{what}: it does not learn: {found}"
    assert error.max() < allowed, f"{what}: losses differ by {error.max():.2e} of themselves: {found} {losses}"
    print(f"{what}: {STEPS} losses within {error.max():.1e} of themselves")


def check(what, words, inputs, targets, optimizer_of, frozen=(), allowed=LOSS, layouts=LAYOUTS):
    check_losses(what, words, inputs, targets, optimizer_of, frozen, allowed)
    for ranks, parallel in layouts:
        runs.train("mlp.toml", "run.folder=many", "checkpoint.resume=never", *words, *parallel, ranks=ranks)
        runs.expect_same(runs.read(what), runs.read("many"), f"{what} on 1 rank and on {ranks} with {parallel}")
    runs.train("mlp.toml", "run.folder=cut", "checkpoint.resume=never", "training.steps=7", *words)
    runs.train("mlp.toml", "run.folder=cut", *words, "parallelism.zero_stage=1", ranks=2)
    runs.expect_same(runs.read(what), runs.read("cut"), f"{what}, and stopped and resumed on other ranks", since=7)


def groups(*tables):
    text = pathlib.Path("base.toml").read_text() + "".join(f"[[optimizer.groups]]\n{table}\n" for table in tables)
    pathlib.Path("mlp.toml").write_text(text)


def check_adapted(inputs, targets):
    groups()
    of = lambda kind: lambda model: Adapted(model.parameters(), kind=kind)
    check("lamb", ["optimizer.name=lamb"], inputs, targets, of("lamb"))
    check("lars", ["optimizer.name=lars", "optimizer.trust_coefficient=0.01"], inputs, targets, of("lars"))
    # The polynomial makes 485 times as much of what is next to nothing.
    check("muon", ["optimizer.name=muon"], inputs, targets, Muon, allowed=1e-4)
    check("adafactor", ["optimizer.name=adafactor", "optimizer.lr=0.02"], inputs, targets, Adafactor)
    for name in ("adafactor", "lamb", "lars", "muon"):
        out = runs.tessera("verify", "-n", 4, "--steps", 2, "mlp.toml", f"optimizer.name={name}", "parallelism.zero_stage=2",
                           "parallelism.tensor_parallel_degree=2").out
        assert "2 steps: all agree" in out, out


def check_torchs(inputs, targets):
    """Those that PyTorch has, and Lion; tests/core/optimizers.cpp has their layouts. Vectors do not decay."""
    groups()

    def of(kind, **settings):
        return lambda model: kind([{"params": [w for w in model.parameters() if (w.dim() > 1) == is_matrix],
                                    "weight_decay": 0.1 if is_matrix else 0.0} for is_matrix in (True, False)], **settings)

    adam = {"betas": (0.9, 0.95), "eps": 1e-8}
    for what, words, optimizer_of in (
            ("sgd", ["name=sgd", "momentum=0", "lr=0.05"], of(torch.optim.SGD, lr=0.05)),
            ("momentum", ["name=sgd", "lr=0.02"], of(torch.optim.SGD, lr=0.02, momentum=0.9)),
            ("nesterov", ["name=sgd", "nesterov=true", "lr=0.02"], of(torch.optim.SGD, lr=0.02, momentum=0.9, nesterov=True)),
            ("adam", ["name=adam"], of(torch.optim.Adam, lr=0.01, **adam)),
            ("adamw", ["name=adamw"], of(torch.optim.AdamW, lr=0.01, **adam)),
            ("adagrad", ["name=adagrad"], of(torch.optim.Adagrad, lr=0.01, eps=1e-8)),
            ("rmsprop", ["name=rmsprop", "momentum=0", "lr=0.001"], of(torch.optim.RMSprop, lr=0.001, alpha=0.99, eps=1e-8)),
            ("rmsprop-momentum", ["name=rmsprop", "lr=0.0003"], of(torch.optim.RMSprop, lr=0.0003, alpha=0.99, eps=1e-8, momentum=0.9)),
            ("lion", ["name=lion", "beta2=0.99", "lr=0.001"], of(Lion, defaults={"lr": 0.001}))):
        check_losses(what, [f"optimizer.{word}" for word in words], inputs, targets, optimizer_of)


def check_groups(inputs, targets):
    groups('parameters = ["fc3.*"]\nlr_factor = 0.25', 'parameters = ["*.bias"]\nweight_decay = 0.5')
    adamw = lambda model: torch.optim.AdamW([
        {"params": [model.fc3.weight], "lr": 0.0025, "weight_decay": 0.1},
        {"params": [model.fc3.bias], "lr": 0.0025, "weight_decay": 0.0},
        {"params": [model.fc1.bias, model.fc2.bias], "weight_decay": 0.5},
        {"params": [model.fc1.weight, model.fc2.weight], "weight_decay": 0.1}], lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    check("groups", [], inputs, targets, adamw, layouts=LAYOUTS[1:2])


def check_frozen(inputs, targets):
    groups('parameters = ["fc1.*", "fc2.bias"]\nfreeze = true')
    adamw = lambda model: torch.optim.AdamW([
        {"params": [model.fc2.weight, model.fc3.weight], "weight_decay": 0.1},
        {"params": [model.fc3.bias], "weight_decay": 0.0}], lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    frozen = ("fc1.weight", "fc1.bias", "fc2.bias")
    check("frozen", [], inputs, targets, adamw, frozen, layouts=LAYOUTS[1::2])
    start, end = (runs.read_tensors(runs.checkpoints(folder)[-1]) for folder in ("start", "frozen"))
    for name in frozen:
        assert start[name].tobytes() == end[name].tobytes(), f"{name} has changed"
        assert not any(other.endswith("/" + name) for other in end), f"{name} has states"
    planned = runs.tessera("plan", "-n", 2, "mlp.toml").out
    assert re.search(r"fc1.weight +\(64, 3\) +\S+ frozen", planned) and len(re.findall(" frozen", planned)) == 3, planned
    assert "Parameters 5,618, of which 5,282 are trained" in planned, planned
    groups()
    whole, without = runs.tessera("plan", "-n", 2, "mlp.toml").out, 4 * (64 * 3 + 64 + 80)
    for line, bytes_less in ((r"gradients +all_reduce +\d+ sums", without), (r"gradients", without), (r"optimizer", 2 * without)):
        of_all, found = (int(re.search(line + r" +([\d,]+)", out)[1].replace(",", "")) for out in (whole, planned))
        assert found <= of_all - bytes_less, f"{line}: {found} bytes with frozen weights, {of_all} without"


RATE, LOWEST, WARMUP, LONG = 0.01, 0.1, 4, 40  # lowest: the default of min_lr_factor


def schedules():
    """{name: (words, what PyTorch makes of an optimizer)}: of all but plateau, which validation_watch.py has."""
    torchs = torch.optim.lr_scheduler

    def behind_warmup(kind, *further, **settings):
        def of(optimizer):
            warmup = torchs.LinearLR(optimizer, start_factor=1 / (WARMUP + 1), total_iters=WARMUP)
            return torchs.SequentialLR(optimizer, [warmup, kind(optimizer, **settings), *(make(optimizer) for make in further)],
                                       [WARMUP, 30][:1 + len(further)])
        return of

    falls = {"start_factor": 1.0, "end_factor": LOWEST}
    return {
        "constant": ([], behind_warmup(torchs.ConstantLR, factor=1.0)),
        "linear": ([], behind_warmup(torchs.LinearLR, total_iters=LONG - WARMUP, **falls)),
        "cosine": ([], behind_warmup(torchs.CosineAnnealingLR, T_max=LONG - WARMUP, eta_min=LOWEST * RATE)),
        "cosine_restarts": (["restart_interval=5", "restart_factor=2"],
                            behind_warmup(torchs.CosineAnnealingWarmRestarts, T_0=5, T_mult=2, eta_min=LOWEST * RATE)),
        "polynomial": (["power=2.5", "min_lr_factor=0"], behind_warmup(torchs.PolynomialLR, total_iters=LONG - WARMUP, power=2.5)),
        "inverse_sqrt": (["timescale=6"], behind_warmup(torchs.LambdaLR, lr_lambda=lambda step: (1 + step / 6) ** -0.5)),
        "step": (["step_size=7", "gamma=0.5"], behind_warmup(torchs.StepLR, step_size=7, gamma=0.5)),
        "exponential": (["step_size=7", "gamma=0.5"], behind_warmup(torchs.ExponentialLR, gamma=0.5 ** (1 / 7))),
        # Its warm-up is a part of the cycle, whose last rate is that of the step behind the last, as of the others.
        "one_cycle": (["start_factor=0.04"], lambda optimizer: torchs.OneCycleLR(
            optimizer, RATE, total_steps=LONG + 1, pct_start=(WARMUP + 1) / (LONG + 1), div_factor=25, final_div_factor=1 / 25 / LOWEST,
            cycle_momentum=False)),
        "wsd": (["decay_ratio=0.25"], behind_warmup(
            torchs.ConstantLR, lambda optimizer: torchs.LinearLR(optimizer, total_iters=10, **falls), factor=1.0))}


def check_schedules():
    """The rate of each step of each schedule in the catalog is PyTorch's."""
    found = schedules()
    named = re.search(r"type\n +(.*) or plateau\n", runs.tessera("config", "explain", "lr_scheduler.type").out)[1]
    assert sorted(named.split(", ")) == sorted(found), f"without a check: {named}"
    groups()
    for name, (words, torchs_of) in found.items():
        runs.train("mlp.toml", f"run.folder={name}", f"training.steps={LONG}", "checkpoint.interval=-1",
                   *(f"lr_scheduler.{word}" for word in (f"type={name}", f"warmup_steps={WARMUP}", *words)))
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
        torchs, expected = torchs_of(optimizer), []
        for _ in range(LONG):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            torchs.step()
        rates = np.array([float(record["learning_rate"]) for record in runs.metrics(name, "step")])
        error = np.abs(rates / expected - 1).max()
        assert len(rates) == LONG and error < 1e-12, f"{name}: rates differ by {error:.1e} of themselves: {rates} {expected}"


def check_refusals():
    groups()
    for key, sentence in (("optimizer.clip_threshold=0", "must be above 0"), ("optimizer.decay_power=1", "out of range")):
        err = runs.tessera("train", "mlp.toml", "optimizer.name=adafactor", key, code=2).err
        assert sentence in err and err.count("\n") == 1, err
    for table, sentence in (('parameters = ["fc9.*"]', "fits none of the 6 parameters that are trained, of which the first is 'fc1.weight'"),
                            ("freeze = true", "says no parameters"),
                            ('parameters = ["*"]\nfreeze = true', "freeze every parameter"),
                            ('parameters = ["*"]\nlr_factor = -1', "must be from 0 to 1e6"),
                            ('parameters = ["*"]\nweight_decay = -1', "must be from 0 to 1e3"),
                            ('parameters = ["*"]\nlr = 1', "no key of [[optimizer.groups]] named 'lr'")):
        groups(table)
        err = runs.tessera("train", "mlp.toml", code=2).err
        assert "mlp.toml:" in err and sentence in err and err.count("\n") == 1, f"{table}: expected {sentence!r}, got:\n{err}"


with runs.folder():
    draw = np.random.default_rng(3)
    x = draw.normal(size=(ROWS, 3)).astype(np.float32)
    y = np.stack([np.sin(x[:, 0]) + x[:, 1], x[:, 0] * x[:, 2]], 1).astype(np.float32)
    rows = [",".join(map(repr, a + b)) for a, b in zip(x.tolist(), y.tolist())]
    pathlib.Path("table.csv").write_text("x,y,z,a,b\n" + "\n".join(rows) + "\n")
    pathlib.Path("base.toml").write_text(MODEL)
    features = x.astype(np.float64)
    data = torch.tensor((features - features.mean(0)) / features.std(0)), torch.tensor(y.astype(np.float64))
    check_torchs(*data)
    check_adapted(*data)
    check_groups(*data)
    check_frozen(*data)
    check_schedules()
    check_refusals()

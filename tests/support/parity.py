# SPDX-License-Identifier: Apache-2.0
"""How long, and how near, the program and PyTorch go side by side: what every script that compares them asks for.

    parity.expect_gradients("bert", found, expected)              # {name: array}, of the first step
    parity.expect_losses("bert", "RUN", expected, falls=0.02)     # of STEPS steps from equal weights

The references compute in f64, the program in f32, so that what is told is the program's rounding. It grows from step to step:
Adam divides by the root of a square, which makes a rounding of a gradient that is next to nothing into a step."""
import numpy as np
import runs

STEPS = 50
GRADIENT = 1e-5  # of each tensor, relative to its norm
LOSS = 2e-6  # of each step, relative; most are within 2e-7, a classifier of texts within 8e-7
LARGER_LOSS = {"lenet": 1e-5, "transposed": 5e-6, "mlp": 4e-6}  # seen: 5.2e-6, 3.3e-6, 8.3e-7; small networks that learn fast


def distance(found, expected):
    return np.linalg.norm(np.subtract(found, expected)) / np.linalg.norm(expected)


def expect_gradients(what, found, expected):
    assert sorted(found) == sorted(expected), f"{what}: gradients of one only: {sorted(set(found) ^ set(expected))}"
    for name, gradient in expected.items():
        error = distance(found[name], gradient)
        assert error < GRADIENT, f"{what}: gradient of {name}: relative error {error:.2e}"


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def expect_losses(what, run_folder, expected, *, falls):
    """Those of a run are as expected, and its last fifth is below its first by the share `falls`."""
    found = np.array([float(record["loss"]) for record in runs.metrics(run_folder, "step")])
    assert len(found) == len(expected), f"{what}: {len(found)} losses, expected {len(expected)}"
    allowed, fifth = LARGER_LOSS.get(what, LOSS), len(found) // 5
    assert found[-fifth:].mean() < (1 - falls) * found[:fifth].mean(), f"{what}: it does not learn: {found}"
    error = np.abs(found / np.array(expected) - 1)
    assert error.max() < allowed, f"{what}: losses differ by {error.max():.2e} of themselves at step {error.argmax() + 1}: {found} {expected}"
    print(f"{what}: {len(found)} losses within {error.max():.1e} of themselves")

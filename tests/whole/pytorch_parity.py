# SPDX-License-Identifier: Apache-2.0
"""The program against an independent GPT and LLaMA in PyTorch: from the same weights and over the same batches, the gradients of
the first step and the losses and gradient norms of 50 steps agree."""
import functools
import itertools
import os
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import reference_gpt
import reference_llama
import runs

STEPS, BLOCK, BATCH, MICRO_BATCH, VOCABULARY = 50, 32, 12, 4, 61
BETAS = (0.9, 0.99)
LOSS, NORM, GRADIENT, BF16_LOSS = 1e-4, 1e-4, 1e-5, 0.02  # absolute, relative, relative to the tensor's norm, absolute

KEYS = {
    "data.reader": "tokens", "data.files": ["tokens.bin"], "data.vocab_size": VOCABULARY, "data.order": "sequential",
    "data.validation_fraction": 0.0,
    "model.n_layers": 3, "model.n_heads": 4, "model.dim": 48,
    "training.steps": STEPS, "training.seq_len": BLOCK,
    "training.global_batch_size": BATCH, "training.local_batch_size": MICRO_BATCH,
    "optimizer.lr": 3e-3, "optimizer.weight_decay": 0.1, "optimizer.beta1": BETAS[0], "optimizer.beta2": BETAS[1],
    "lr_scheduler.warmup_steps": 8, "lr_scheduler.min_lr_factor": 0.1,
}


def draw_tokens():
    """A chain in which the last token half decides the next: there is something to learn, and clipping comes and goes."""
    draw = np.random.default_rng(5)
    tokens = [7]
    for fresh, noise in zip(draw.random(7000) < 0.5, draw.integers(0, VOCABULARY, 7000)):
        tokens.append(int(noise) if fresh else (3 * tokens[-1] + 11) % VOCABULARY)
    return np.array(tokens, np.int64)


def batches(tokens):
    """What data.order = "sequential" reads: window after window, from the start again at the end of the data."""
    windows = (len(tokens) - BLOCK - 1) // BLOCK + 1
    for step in range(STEPS):
        rows = np.stack([tokens[start:start + BLOCK + 1]
                         for start in (index % windows * BLOCK for index in range(step * BATCH, (step + 1) * BATCH))])
        yield [(part[:, :-1], part[:, 1:]) for part in np.split(rows, BATCH // MICRO_BATCH)]


def numbers(run_folder, field):
    return np.array([float(record[field]) for record in runs.metrics(run_folder, "step")])


def start_of(words):
    """The weights before the first step, and its gradients: after one step that moves nothing, Adam's first moment is
    (1 - beta1) times the gradient."""
    runs.train("gpt.toml", "run.folder=start", "training.steps=1", "optimizer.lr=0", "training.max_norm=0",
               "checkpoint.resume=never", *words)
    checkpoint = runs.checkpoints("start")[-1]
    moment = "optimizer.first_moment/"
    gradients = {name.removeprefix(moment): np.asarray(tensor, np.float64) / (1 - BETAS[0])
                 for name, tensor in runs.read_tensors(checkpoint).items() if name.startswith(moment)}
    return checkpoint, gradients


def check_gradients(what, found, expected):
    assert sorted(found) == sorted(expected), f"{what}: gradients of {sorted(set(found) ^ set(expected))}"
    for name, reference in expected.items():
        error = np.linalg.norm(found[name] - reference) / np.linalg.norm(reference)
        assert error < GRADIENT, f"{what}: gradient of {name}: relative error {error:.2e}, allowed {GRADIENT}"


def check_variant(what, words, tokens, load, clip):
    """Returns the losses of the run."""
    checkpoint, gradients = start_of(words)
    reference = reference_gpt.train(load(checkpoint), batches(tokens), max_lr=3e-3, min_lr=3e-4, warmup=8, decay_iters=STEPS,
                                    betas=BETAS, weight_decay=0.1, clip=clip)
    check_gradients(what, gradients, reference.first_gradients)
    runs.train("gpt.toml", f"run.folder={what}", f"training.max_norm={clip}", *words)
    losses, norms = numbers(what, "loss"), numbers(what, "grad_norm")
    assert len(losses) == STEPS and losses[-1] < losses[0] - 0.5, f"{what}: it does not learn: {losses}"
    assert norms.max() > clip > norms.min(), f"{what}: clipping is always or never at work: {norms}"
    rate_error = np.abs(numbers(what, "learning_rate") / reference.learning_rates - 1).max()
    assert rate_error < 1e-12, f"{what}: learning rates differ by {rate_error:.2e} of themselves"
    loss_error = np.abs(losses - reference.losses)
    assert loss_error.max() < LOSS, f"{what}: losses differ by {loss_error.max():.2e} at step {loss_error.argmax() + 1}"
    norm_error = np.abs(norms / reference.grad_norms - 1)
    assert norm_error.max() < NORM, f"{what}: norms differ by {norm_error.max():.2e} at step {norm_error.argmax() + 1}"
    print(f"{what}: losses within {loss_error.max():.1e}, gradient norms within {norm_error.max():.1e} of themselves")
    return losses


def check_padding(tokens):
    """4099 tokens have 4224 rows in memory, of which neither checkpoint nor gradients know. Losses of 50 steps would not do:
    where a token never comes, Adam divides a rounding by a rounding."""
    checkpoint, gradients = start_of(["data.vocab_size=4099"])
    assert gradients["embedding.weight"].shape == (4099, 48), f"padding is saved: {gradients['embedding.weight'].shape}"
    reference = reference_gpt.train(reference_gpt.load(checkpoint), itertools.islice(batches(tokens), 1), max_lr=0, min_lr=0,
                                    warmup=8, decay_iters=STEPS, betas=BETAS, weight_decay=0.1, clip=0.8)
    check_gradients("a vocabulary with padding", gradients, reference.first_gradients)


def check_experts(tokens):
    """The gradients of a model with experts, of which some are full, and of the losses beside the loss."""
    for choices in (1, 2):
        moe = {"experts": 5, "choices": choices, "capacity_factor": 1.1, "balance": 0.3, "z": 0.2}
        checkpoint, gradients = start_of([
            "model.n_layers=2", "model.moe_experts=5", f"model.moe_top_k={choices}", "model.moe_capacity_factor=1.1",
            "model.moe_balance_coefficient=0.3", "model.moe_z_coefficient=0.2"])
        model = reference_gpt.load(checkpoint, kind=functools.partial(reference_gpt.MoeGpt, moe=moe))
        reference = reference_gpt.train(model, itertools.islice(batches(tokens), 1), max_lr=0, min_lr=0, warmup=8,
                                        decay_iters=STEPS, betas=BETAS, weight_decay=0.1, clip=0)
        assert model.layers[0].moe.dropped > 0, "no expert is full"
        check_gradients(f"experts, {choices} to a token", gradients, reference.first_gradients)


with runs.folder():
    data = draw_tokens()
    runs.write_tokens("tokens.bin", data)
    runs.write_config("gpt.toml", KEYS)
    f32 = check_variant("default", [], data, reference_gpt.load, 0.8)
    full = ["model.bias=true", "model.tied_head=false", "model.activation=gelu_tanh", "model.hidden_dim=80"]
    other = check_variant("bias-untied-tanh", full, data, functools.partial(reference_gpt.load, gelu="tanh"), 1.2)
    assert np.abs(f32 - other).max() > 10 * LOSS, "the two models are one"

    llama = ["model.norm=rms_norm", "model.position_embedding=rope", "model.gated_mlp=true", "model.activation=silu",
             "model.tied_head=false"]
    check_variant("llama", [*llama, "model.n_kv_heads=2", "model.norm_eps=1e-6"], data,
                  functools.partial(reference_llama.load, epsilon=1e-6), 0.8)
    check_variant("llama-bias-theta", [*llama, "model.bias=true", "model.rope_theta=500", "model.head_dim=8", "model.n_layers=2"],
                  data, functools.partial(reference_llama.load, theta=500), 0.8)

    documents = check_variant("documents-apart", ["model.document_end_token=0"], data,
                              functools.partial(reference_gpt.load, kind=reference_gpt.GptOfDocuments), 0.8)
    assert np.abs(f32 - documents).max() > 10 * LOSS, "no document ends"
    check_padding(data)
    check_experts(data)

    runs.train("gpt.toml", "run.folder=bf16", "training.dtype=bf16", "training.max_norm=0.8")
    distance = np.abs(numbers("bf16", "loss") - f32)
    assert 1e-6 < distance.max() < BF16_LOSS, f"bf16 is {distance.max():.2e} from f32 at step {distance.argmax() + 1}"
    print(f"bf16: losses within {distance.max():.1e} of f32")

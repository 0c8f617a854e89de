# SPDX-License-Identifier: Apache-2.0
"""The program against an independent GPT (with experts, too) and LLaMA in PyTorch: from the same weights and over the same batches, the gradients of
the first step and the losses and gradient norms of 50 steps agree."""
import functools
import itertools
import os
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import parity
import reference_gpt
import reference_llama
import runs

STEPS, BLOCK, BATCH, MICRO_BATCH, VOCABULARY = parity.STEPS, 32, 12, 4, 61
BETAS = (0.9, 0.99)
NORM, MARGIN, BF16_LOSS = 4e-6, 4e-6, 0.02  # relative, of logits, absolute

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


def batches(tokens, batch=BATCH):
    """What data.order = "sequential" reads: window after window, from the start again at the end of the data."""
    windows = (len(tokens) - BLOCK - 1) // BLOCK + 1
    for step in range(STEPS):
        rows = np.stack([tokens[start:start + BLOCK + 1]
                         for start in (index % windows * BLOCK for index in range(step * batch, (step + 1) * batch))])
        yield [(part[:, :-1], part[:, 1:]) for part in np.split(rows, batch // MICRO_BATCH)]


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


def reference_run(model, tokens, steps, **options):
    """In f64; a step's micro-batches are the same sums as those of the program."""
    return reference_gpt.train(model.double(), itertools.islice(batches(tokens, **options.pop("data", {})), steps), **{
        "max_lr": 3e-3, "min_lr": 3e-4, "warmup": 8, "decay_iters": STEPS, "betas": BETAS, "weight_decay": 0.1, **options})


def check_first_gradients(what, words, tokens, load):
    checkpoint, gradients = start_of(words)
    parity.expect_gradients(what, gradients, reference_run(load(checkpoint), tokens, 1, max_lr=0, min_lr=0).first_gradients)
    return gradients


def check_variant(what, words, tokens, load, clip, batch=BATCH):
    """Returns the losses of the run, and the model that PyTorch came to."""
    checkpoint, gradients = start_of(words)
    model = load(checkpoint)
    reference = reference_run(model, tokens, STEPS, clip=clip, data={"batch": batch})
    parity.expect_gradients(what, gradients, reference.first_gradients)
    runs.train("gpt.toml", f"run.folder={what}", f"training.max_norm={clip}", *words)
    norms = numbers(what, "grad_norm")
    beside = np.reshape(getattr(model, "beside", np.zeros((STEPS, 1))), (STEPS, -1)).mean(1)  # of a step's micro-batches
    parity.expect_losses(what, what, reference.losses - beside, falls=0.1)
    assert norms.max() > clip > norms.min(), f"{what}: clipping is always or never at work: {norms}"
    rate_error = np.abs(numbers(what, "learning_rate") / reference.learning_rates - 1).max()
    assert rate_error < 1e-12, f"{what}: learning rates differ by {rate_error:.2e} of themselves"
    norm_error = np.abs(norms / reference.grad_norms - 1)
    assert norm_error.max() < NORM, f"{what}: norms differ by {norm_error.max():.2e} at step {norm_error.argmax() + 1}"
    print(f"{what}: gradient norms within {norm_error.max():.1e} of themselves")
    return numbers(what, "loss"), model


def check_padding(tokens):
    """4099 tokens have 4224 rows in memory, of which neither checkpoint nor gradients know. Losses of 50 steps would not do:
    where a token never comes, Adam divides a rounding by a rounding."""
    gradients = check_first_gradients("a vocabulary with padding", ["data.vocab_size=4099"], tokens, reference_gpt.load)
    assert gradients["embedding.weight"].shape == (4099, 48), f"padding is saved: {gradients['embedding.weight'].shape}"


def check_angles(tokens, llama):
    """Rotary angles that are scaled for longer texts, so that some turn as they did and some are slower."""
    common, found = [*llama, "model.n_layers=2", "model.rope_theta=100", "model.rope_factor=4"], []
    for words, scaling in ((["model.rope_scaling=linear"], 4.0),
                           (["model.rope_scaling=llama3", "model.rope_low_freq_factor=1", "model.rope_high_freq_factor=4",
                             "model.rope_original_seq_len=16"], (4.0, 1.0, 4.0, 16))):
        load = functools.partial(reference_llama.load, theta=100, scaling=scaling)
        found.append(check_first_gradients(words[0], [*common, *words], tokens, load)["layers.0.attention.qkv.weight"])
    assert parity.distance(*found) > 100 * parity.GRADIENT, "the two ways to scale are one"


EXPERTS = ["model.n_layers=2", "model.moe_experts=5", "model.moe_capacity_factor=1.1", "model.moe_balance_coefficient=0.3",
           "model.moe_z_coefficient=0.2", "training.global_batch_size=4", "data.files=['few.bin']"]


def check_experts(tokens):
    """Of which some are full; with the losses beside the loss. One choice, two, and two of gated experts. Few tokens and seeds
    such that no choice is so close that a rounding, of 1e-7, could turn it."""
    few = tokens[:BLOCK * 12 + 1]
    runs.write_tokens("few.bin", few)
    for what, seed, choices, gated in (("one-expert", 6, 1, False), ("two-experts", 11, 2, False), ("gated-experts", 11, 2, True)):
        words = [*EXPERTS, f"model.moe_top_k={choices}", f"training.seed={seed}", *(["model.gated_mlp=true", "model.activation=silu"] if gated else [])]
        moe = {"experts": 5, "choices": choices, "capacity_factor": 1.1, "balance": 0.3, "z": 0.2, "gated": gated}
        kind = functools.partial(reference_gpt.MoeGpt, moe=moe)
        _, model = check_variant(what, words, few, functools.partial(reference_gpt.load, kind=kind), 1.5, batch=4)
        assert all(layer.moe.dropped > 0 for layer in model.layers), f"{what}: no expert is full"
        margin = min(layer.moe.margin for layer in model.layers)
        assert margin > MARGIN, f"{what}: a choice is as close as {margin:.1e}: take another seed"


with runs.folder():
    data = draw_tokens()
    runs.write_tokens("tokens.bin", data)
    runs.write_config("gpt.toml", KEYS)
    f32, _ = check_variant("default", [], data, reference_gpt.load, 0.8)
    full = ["model.bias=true", "model.tied_head=false", "model.activation=gelu_tanh", "model.hidden_dim=80"]
    other, _ = check_variant("bias-untied-tanh", full, data, functools.partial(reference_gpt.load, gelu="tanh"), 1.2)
    assert np.abs(f32 - other).max() > 10 * parity.LOSS, "the two models are one"

    llama = ["model.norm=rms_norm", "model.position_embedding=rope", "model.gated_mlp=true", "model.activation=silu",
             "model.tied_head=false"]
    shared = [*llama, "model.n_kv_heads=2", "model.norm_eps=1e-6"]
    grouped, _ = check_variant("llama", shared, data, functools.partial(reference_llama.load, epsilon=1e-6), 0.8)
    check_variant("llama-bias-theta", [*llama, "model.bias=true", "model.rope_theta=500", "model.head_dim=8", "model.n_layers=2"],
                  data, functools.partial(reference_llama.load, theta=500), 0.8)

    documents, _ = check_variant("documents-apart", ["model.document_end_token=0"], data,
                              functools.partial(reference_gpt.load, kind=reference_gpt.GptOfDocuments), 0.8)
    assert np.abs(f32 - documents).max() > 10 * parity.LOSS, "no document ends"
    documents, _ = check_variant("documents-of-llama", [*shared, "model.document_end_token=0"], data,
                                 functools.partial(reference_llama.load, epsilon=1e-6, kind=reference_llama.LlamaOfDocuments), 0.8)
    assert np.abs(grouped - documents).max() > 10 * parity.LOSS, "no document ends"
    check_padding(data)
    check_angles(data, llama)
    check_experts(data)

    runs.train("gpt.toml", "run.folder=bf16", "training.dtype=bf16", "training.max_norm=0.8")
    distance = np.abs(numbers("bf16", "loss") - f32)
    assert 1e-6 < distance.max() < BF16_LOSS, f"bf16 is {distance.max():.2e} from f32 at step {distance.argmax() + 1}"
    print(f"bf16: losses within {distance.max():.1e} of f32")

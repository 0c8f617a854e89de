# SPDX-License-Identifier: Apache-2.0
"""Models of every family, exported as ONNX: libonnx checks each file and infers the shapes that it says, and ONNX Runtime
computes the same logits as we do, or the loss and accuracy that an evaluation tells; in batches of any size, from one file or two.
Where ONNX Runtime cannot be had, the files are checked and the test then counts as skipped."""
import os
import pathlib
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import peer_packages
import runs
import onnx
import onnx.checker
import onnx.shape_inference

MISSING = peer_packages.provide("onnxruntime")
if not MISSING:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)

TIME, VOCABULARY = 12, 50
NEAR = 1e-4  # of logits a few units large; of losses a tenth of it
COMMON = {
    "training.steps": 2, "training.global_batch_size": 2, "training.local_batch_size": 2,
    "optimizer.lr": 1e-3, "lr_scheduler.type": "constant", "lr_scheduler.warmup_steps": 0, "metrics.evaluate_every": 2,
    "metrics.evaluate_batches": 0,
}
TEXT = {
    **COMMON, "training.seq_len": TIME, "data.reader": "tokens", "data.files": ["tokens.bin"], "data.vocab_size": VOCABULARY, "model.init_std": 0.3, "model.bias": True,
    "model.n_layers": 2, "model.n_heads": 4, "model.dim": 32,
}
IDS = [3, 1, 41, 5, 9, 26, 5, 35, 8, 9, 7, 2]
IMAGES = {
    **COMMON, "data.reader": "idx", "data.files": ["images"], "data.label_files": ["labels"], "data.validation_files": ["more-images"],
    "data.validation_label_files": ["more-labels"],
}


def export(name, keys, tables="", *more):
    """Trains a model and exports it; returns a function that computes its outputs of a batch."""
    runs.write_config(f"{name}.toml", {**keys, "run.folder": name})
    with open(f"{name}.toml", "a", encoding="utf-8") as file:
        file.write(tables)
    runs.train(f"{name}.toml")
    out = runs.tessera("checkpoint", "export", "--onnx", f"{name}.onnx", *more, name).out
    assert f"{name}.onnx: weights of step 2" in out and "-> " in out, out
    return load(f"{name}.onnx")


def shapes_of(values):
    return {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def check_file(path):
    """By libonnx: that it is a model, and that its outputs have the shapes that it says, inferred from what it computes."""
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    assert model.opset_import[0].version == 17 and model.ir_version == 8, model.opset_import
    assert any(entry.key == "config" for entry in model.metadata_props)
    said = shapes_of(model.graph.output)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    found = shapes_of(onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph.output)
    assert found == said and all(shape[0] == "batch" for shape in said.values()), f"{path}: {said}, libonnx finds {found}"


def load(path):
    check_file(path)
    if MISSING:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert all(one.shape[0] == "batch" for one in session.get_inputs() + session.get_outputs()), path

    def run(*inputs):
        return session.run(None, {one.name: array for one, array in zip(session.get_inputs(), inputs)})

    return run


def near(what, found, expected, allowed=NEAR):
    error = np.abs(found - expected).max()
    assert found.shape == expected.shape and error < allowed, f"{what}: {found.shape} differs from {expected.shape} by {error:.1e}"
    assert np.ptp(expected) > 1 or expected.size == 1, f"{what}: the logits say nothing"
    print(f"{what}: within {error:.1e}")


def our_logits(run, ids, *more):
    path = pathlib.Path(f"{run}.npy")
    path.unlink(missing_ok=True)
    runs.tessera("generate", run, "--ids", ",".join(map(str, ids)), "--logits", path, *more)
    return np.load(path)


def check_logits(name, keys, tables="", vocabulary=VOCABULARY):
    """Logits behind each token of three prompts, in one batch and alone."""
    run = export(name, keys, tables)
    if run is None:
        return
    prompts = np.array([IDS, IDS[::-1], [4] * 3 + IDS[3:]], np.int64)
    together = run(prompts)[0]
    assert together.shape == (3, TIME, vocabulary), together.shape
    near(f"{name}, a batch of 1", run(prompts[1:2])[0], together[1:2])
    for prompt, logits in zip(prompts, together):
        near(name, logits, our_logits(name, prompt))


def check_texts():
    runs.write_tokens("tokens.bin", np.random.default_rng(1).integers(0, VOCABULARY, 400))
    check_logits("gpt", {**TEXT, "model.activation": "gelu_tanh"})
    check_logits("documents", {**TEXT, "model.document_end_token": 5})
    llama = {**TEXT, "model.bias": False, "model.norm": "rms_norm", "model.position_embedding": "rope", "model.gated_mlp": True,
             "model.activation": "silu", "model.n_kv_heads": 2, "model.tied_head": False, "model.rope_scaling": "llama3",
             "model.rope_original_seq_len": 8, "data.vocab_size": 4500}  # which is padded in memory
    check_logits("llama", llama, vocabulary=4500)
    check_logits("llama_documents", {**llama, "model.document_end_token": 5}, vocabulary=4500)
    del llama["model.rope_original_seq_len"]
    check_logits("llama_alike", {**llama, "model.n_kv_heads": 0, "model.rope_scaling": "linear", "model.bias": True}, vocabulary=4500)
    experts = {**TEXT, "model.moe_experts": 4, "model.moe_capacity_factor": 0.7}
    check_logits("experts", experts)
    check_logits("expert", {**experts, "model.moe_top_k": 1, "model.gated_mlp": True, "model.bias": False})
    check_logits("bert", {**TEXT, "model.type": "bert", "model.padding_token": 9, "model.separator_token": 5, "model.class_token": 3,
                          "model.mask_token": 4})
    plain = "".join(f"\n[[model.layers]]\n{keys}\n" for keys in (
        'type = "embedding"\noutputs = 20\ninit_std = 1.0', 'type = "lstm"\nhidden = 24\nlayers = 2\ninit_std = 0.4', 'type = "gru"\nhidden = 28\ninit_std = 0.4',
        'type = "gru"\nhidden = 20\nbias = false\ninit_std = 0.4', f'type = "linear"\noutputs = {VOCABULARY}\ninit_std = 0.5', 'type = "cross_entropy"'))
    check_logits("recurrent", {**{key: value for key, value in TEXT.items() if not key.startswith("model.")}, "model.type": "layers"}, plain)


def check_t5():
    lines = [" ".join(f"w{(i * j) % 9}" for j in range(i % 7 + 1)) + "\t" + " ".join(f"w{(i + j) % 9}" for j in range(i % 4 + 1)) for i in range(40)]
    pathlib.Path("pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    keys = {**TEXT, "model.type": "t5", "data.reader": "pairs", "data.files": ["pairs.tsv"], "data.target_length": 7, "data.tokenizer": "word",
            "model.bias": False, "model.norm": "rms_norm", "model.start_token": 0, "model.relative_buckets": 8, "model.relative_max_distance": 20}
    del keys["data.vocab_size"]
    for name, more in (("t5", {}), ("t5_gated", {"model.gated_mlp": True, "model.tied_head": False})):
        run = export(name, {**keys, **more})
        if run is None:
            continue
        source, target = [3, 4, 5, 6, 3, 7, 2, 2, 4, 9, 3, 10], [4, 4, 8, 3, 6, 2, 11]
        logits = run(np.array([source[::-1], source]), np.array([target[::-1], target]))[0]
        near(name, logits[1], our_logits(name, source, "--target-ids", ",".join(map(str, target))))
        short, padding = source[:8], 11  # behind the words' last: what is filled up is not seen
        padded = run(np.array([short + [padding] * 4]), np.array([target]))[0][0]
        near(f"{name}, a short source", padded, our_logits(name, short, "--target-ids", ",".join(map(str, target))))


def cross_entropy(logits, labels):
    logits = logits.astype(np.float64)
    shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(shares, labels[..., None], -1).mean(), (logits.argmax(-1) == labels).mean()


def check_evaluation(name, run, inputs, labels):
    """Against what the run told of all its validation data."""
    if run is None:
        return
    logits = run(inputs)[0]
    told = runs.metrics(name, "evaluation")[-1]
    loss, accuracy = cross_entropy(logits, labels)
    near(f"{name}, loss {loss:.3f}", np.array([loss]), np.array([float(told["loss"])]), NEAR / 10)
    if "accuracy" in told:
        assert abs(accuracy - float(told["accuracy"])) < 1e-6, f"{name}: accuracy {accuracy}, ours {told['accuracy']}"


def layers(text):
    """Lines "type key=value …" as [[model.layers]]."""
    tables = ""
    for line in text.strip().splitlines():
        kind, *keys = line.split()
        tables += f'\n[[model.layers]]\ntype = "{kind}"\n' + "".join(key.replace("=", " = ", 1) + "\n" for key in keys)
    return tables


NETWORK = """
convolution filters=6 kernel=3 padding=1 bias=false
batch_norm init_scale=1.5
relu name="whole"
tanh name="half"
concat inputs=["whole","half"]
residual_blocks filters=6 blocks=1 init_scale=0.7
convolution filters=12 kernel=[3,2] stride=[2,1] padding=[0,1] groups=3
silu
max_pool kernel=3 stride=2 padding=1
average_pool kernel=2 stride=1 padding=1 count_padding=false
transposed_convolution filters=8 kernel=3 stride=2 padding=1 output_padding=1 groups=2
gelu
convolution filters=8 kernel=2 dilation=2
average_pool global=true
flatten
linear outputs=9 init_std=0.9
layer_norm name="rows"
tanh name="squeezed"
concat inputs=["rows","squeezed","rows"]
linear outputs=5 init_std=1.5
cross_entropy
"""


def check_images():
    draw = np.random.default_rng(3)
    pixels, labels = draw.integers(0, 256, (40, 16, 12)), draw.integers(0, 5, 40)
    for path, array in (("images", pixels[:20]), ("labels", labels[:20]), ("more-images", pixels[20:]), ("more-labels", labels[20:])):
        runs.write_idx(path, array)
    train = pixels[:20].astype(np.float64)
    images = ((pixels[20:] - train.mean()) / train.std()).astype(np.float32)[..., None]
    vit = export("vit", {**IMAGES, "model.type": "vit", "model.patch_size": 4, "model.n_layers": 2, "model.n_heads": 2, "model.dim": 24,
                         "model.bias": True, "model.init_std": 0.3})
    check_evaluation("vit", vit, images, labels[20:])
    network = export("network", {**IMAGES, "model.type": "layers"}, layers(NETWORK))
    check_evaluation("network", network, images, labels[20:])


def check_table():
    """Two losses, a branch, and numbers: each is an output."""
    draw = np.random.default_rng(5)
    features = draw.normal(size=(60, 6))
    targets = features[:, :2] * 3 + 1
    rows = [",".join(f"{number:.9f}" for number in (*x, *y)) for x, y in zip(features, targets)]
    pathlib.Path("table.csv").write_text("\n".join(["a,b,c,d,e,f,y,z", *rows]) + "\n", encoding="utf-8")
    tables = "".join(f"\n[[model.layers]]\n{keys}\n" for keys in (
        'name = "first"\ntype = "linear"\noutputs = 16', 'name = "act"\ntype = "gelu_tanh"', 'name = "side"\ntype = "linear"\noutputs = 16\ninputs = ["first"]',
        'name = "sum"\ntype = "add"\ninputs = ["act", "side"]', 'name = "norm"\ntype = "rms_norm"', 'type = "dropout"\nprobability = 0.5',
        'name = "out"\ntype = "linear"\noutputs = 2', 'name = "one"\ntype = "mean_squared_error"', 'name = "two"\ntype = "huber"\ninputs = ["out", "targets"]'))
    run = export("table", {**COMMON, "data.reader": "csv", "data.files": ["table.csv"], "data.target_columns": ["y", "z"], "model.type": "layers"}, tables)
    if run is None:
        return
    kept = 54  # the last tenth is for evaluation
    x = ((features - features[:kept].mean(0)) / features[:kept].std(0)).astype(np.float32)
    one, two = run(x[kept:])
    assert np.array_equal(one, two)
    told = runs.metrics("table", "evaluation")[-1]
    near("table", np.array([((one - targets[kept:]) ** 2).mean()]), np.array([float(told["one.loss"])]), 1e-4)


def check_classifier():
    """Of pairs of texts, filled up with padding, by a bidirectional LSTM in its own run, and by BERT."""
    draw = np.random.default_rng(9)
    rows = [("".join(chr(97 + i) for i in draw.integers(0, 6, draw.integers(1, 7))), f"k{i % 3}") for i in range(40)]
    pathlib.Path("texts.csv").write_text("text,kind\n" + "".join(f"{text},{kind}\n" for text, kind in rows), encoding="utf-8")
    keys = {**TEXT, "model.type": "bert", "data.reader": "labelled", "data.files": ["texts.csv"], "data.text_columns": ["text"],
            "data.label_column": "kind", "data.tokenizer": "byte", "data.validation_fraction": 0.5}
    del keys["data.vocab_size"]
    run = export("classifier", keys)
    padding, begin, end = 256, 257, 258
    ids = [[begin, *text.encode(), end] for text, _ in rows[20:]]
    tokens = np.array([one + [padding] * (TIME - len(one)) for one in ids])
    check_evaluation("classifier", run, tokens, np.array([int(kind[1]) for _, kind in rows[20:]]))

    bidirectional = layers("embedding outputs=16 init_std=1.0\nlstm hidden=12 bidirectional=true init_std=0.4\ngru hidden=10 bidirectional=true init_std=0.4\n"
                           f"linear outputs={VOCABULARY} init_std=0.5\ncross_entropy")
    run = export("bidirectional", {**{key: value for key, value in TEXT.items() if not key.startswith("model.")}, "model.type": "layers",
                                   "data.validation_files": ["tokens.bin"]}, bidirectional)
    tokens = np.fromfile("tokens.bin", "<u2", offset=1024).astype(np.int64)
    starts = np.arange(0, len(tokens) - TIME, TIME)
    check_evaluation("bidirectional", run, np.stack([tokens[at:at + TIME] for at in starts]),
                     np.stack([tokens[at + 1:at + 1 + TIME] for at in starts]))


def check_two_files():
    """Weights of more than a megabyte beside the model; what is there already stays."""
    runs.write_config("wide.toml", {**TEXT, "model.dim": 128, "run.folder": "wide"})
    runs.train("wide.toml")
    for name, more in (("one.onnx", []), ("two.onnx", ["--file-mb", "1"])):
        runs.tessera("checkpoint", "export", "--onnx", name, *more, "wide")
    assert not pathlib.Path("one.onnx.data").exists() and pathlib.Path("two.onnx").stat().st_size < 100_000
    prompt = np.array([IDS])
    expected = our_logits("wide", IDS)
    for name in ("one.onnx", "two.onnx"):
        run = load(name)
        if run is not None:
            near(name, run(prompt)[0][0], expected)
    err = runs.tessera("checkpoint", "export", "--onnx", "one.onnx", "wide", code=2).err
    assert "one.onnx is there already: nothing is overwritten" in err and err.count("\n") == 1, err


def check_refusals():
    for words, sentence in ((["--dtype", "bf16"], "--states and --dtype are not for --onnx"), (["--states"], "--states and --dtype are not for --onnx"),
                            (["--file-mb", "3000"], "--file-mb"), (["--llmc", "x"], "one at a time")):
        err = runs.tessera("checkpoint", "export", "--onnx", "no.onnx", *words, "wide", code=2).err
        assert sentence in err and err.count("\n") == 1, err
    err = runs.tessera("checkpoint", "export", "--onnx", "no.onnx", "t5", "data.files=['nowhere']", code=3).err
    assert "nowhere" in err and not list(pathlib.Path(".").glob("no.onnx*")), err


with runs.folder():
    check_texts()
    check_t5()
    check_images()
    check_table()
    check_classifier()
    check_two_files()
    check_refusals()
if MISSING:
    peer_packages.skip(f"the files are right as libonnx sees them; onnxruntime cannot be had: {MISSING}")

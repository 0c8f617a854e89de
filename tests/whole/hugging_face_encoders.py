# SPDX-License-Identifier: Apache-2.0
"""Folders of BERT, ViT and T5 that transformers has written are imported, give its logits, and exported are loaded by it and give
them again: a masked language model, the bare encoder, a classifier of texts, old names of norms, images with one and three
channels, T5's first version and 1.1, which answers as theirs does."""
import json
import os
import pathlib
import shutil
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import peer_packages
import runs

peer_packages.use("transformers")
import hub_files
import safetensors.torch
import torch
import transformers

transformers.utils.logging.disable_progress_bar()

LOGITS = 1e-4  # absolute; they are a few units large
IDS = [3, 1, 41, 5, 9, 26, 5, 35, 8, 9, 7, 2]


def random_model(kind, config):
    """With weights so large that a wrong order of any tensor shows in the logits, biases and scales among them."""
    torch.manual_seed(3)
    model = kind(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn_like(weight) * 0.2 + (1.0 if name.lower().endswith("norm.weight") or "layernorm_" in name and name.endswith("weight") else 0.0))
    return model.eval()


def our_logits(run):
    runs.tessera("generate", run, "--ids", ",".join(map(str, IDS)), "--logits", "logits.npy")
    logits = np.load("logits.npy")
    pathlib.Path("logits.npy").unlink()
    return logits


def near(what, found, expected):
    error = np.abs(found - expected).max()
    assert found.shape == expected.shape and error < LOGITS, f"{what}: logits differ by {error:.1e}"
    assert np.ptp(expected) > 1, f"{what}: the logits say nothing"
    print(f"{what}: logits within {error:.1e}")


def bert_config(**changes):
    return transformers.BertConfig(**{
        "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 40, "vocab_size": 50,
        "max_position_embeddings": 24, "layer_norm_eps": 1e-5, **changes})


def export(run, folder, kind):
    runs.tessera("checkpoint", "export", "--hugging-face", folder, run)
    return kind.from_pretrained(folder).eval()


def near_in_probability(what, run, logits, words_of):
    """Of one sample: an evaluation that says it is of class c tells -log of c's probability."""
    found = [-float(runs.tessera("evaluate", run, *words_of(label)).out.split("loss: ")[1].split()[0]) for label in range(len(logits))]
    near(f"{what}, log of probabilities", np.array(found), torch.log_softmax(logits, 0).numpy())


@torch.no_grad()
def check_bert():
    model = random_model(transformers.BertForMaskedLM, bert_config())
    expected = model(torch.tensor([IDS])).logits[0].numpy()
    model.save_pretrained("bert")
    runs.tessera("checkpoint", "import", "bert", "--to", "run-bert")
    near("bert", our_logits("run-bert"), expected)
    again = export("run-bert", "out-bert", transformers.BertForMaskedLM)
    assert np.array_equal(again(torch.tensor([IDS])).logits[0].numpy(), expected), "exported, other logits"

    tensors = safetensors.torch.load_file("bert/model.safetensors")
    shutil.copytree("bert", "bert-old")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
           for name, tensor in tensors.items()}
    assert set(old) != set(tensors)
    safetensors.torch.save_file(old, "bert-old/model.safetensors", {"format": "pt"})
    runs.tessera("checkpoint", "import", "bert-old", "--to", "run-bert-old")
    near("bert with old names", our_logits("run-bert-old"), expected)


@torch.no_grad()
def check_bare_bert():
    """As MiniLM's are stored: no prefix, a pooler, no head. What we tell are the products with the table."""
    model = random_model(transformers.BertModel, bert_config(hidden_act="gelu_new", num_attention_heads=4, layer_norm_eps=1e-12))
    hidden = model(torch.tensor([IDS])).last_hidden_state[0]
    model.save_pretrained("bare")
    runs.tessera("checkpoint", "import", "bare", "--to", "run-bare")
    near("bare bert", our_logits("run-bare"), (hidden @ model.embeddings.word_embeddings.weight.T).numpy())
    again = export("run-bare", "out-bare", transformers.BertModel)
    assert torch.equal(again(torch.tensor([IDS])).last_hidden_state[0], hidden), "exported, another encoder"


@torch.no_grad()
def check_classifier():
    """A classifier of pairs of texts, its tokens by a vocab.txt: the loss on a table, and fine-tuned from a masked language model."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(45))]
    pathlib.Path("vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    model = random_model(transformers.BertForSequenceClassification, bert_config(num_labels=3))
    model.save_pretrained("classifier")
    draw, rows, lines = np.random.default_rng(2), [], []
    for _ in range(40):
        first, second = (draw.integers(5, 50, length).tolist() for length in draw.integers(1, 10, 2))
        rows.append((first, second, int(draw.integers(0, 3))))
        lines.append(",".join((*(" ".join(words[i] for i in text) for text in (first, second)), f"label {rows[-1][2]}")))
    pathlib.Path("texts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    loss, right = 0.0, 0
    for first, second, label in rows[20:]:
        ids, types = [2, *first, 3, *second, 3], [0] * (len(first) + 2) + [1] * (len(second) + 1)
        logits = model(torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits
        loss += torch.nn.functional.cross_entropy(logits, torch.tensor([label])).item() / 20
        right += logits.argmax().item() == label
    data = ["data.files=['texts.csv']", "data.header=false", "data.text_columns=['1','2']", "data.label_column=3", "data.tokenizer_file=vocab.txt",
            "data.validation_fraction=0.5", "model.class_token=2", "model.separator_token=3"]
    runs.tessera("checkpoint", "import", "classifier", "--to", "run-classifier", *data)
    out = runs.tessera("evaluate", "run-classifier", *data).out
    found, accuracy = float(out.split("loss: ")[1].split()[0]), float(out.split("accuracy: ")[1].split()[0])
    assert abs(found - loss) < LOGITS and loss > 1 and abs(accuracy - right / 20) < 1e-6, f"loss {found}, theirs {loss}; {out}"
    print(f"classifier: loss within {abs(found - loss):.1e}")
    line = lines[rows.index((first, second, label))].rsplit(",", 1)[0]

    def words_of(wanted):
        pathlib.Path("one.csv").write_text(f"{line},label {wanted}\n", encoding="utf-8")
        return [*data, "data.validation_fraction=0", "data.validation_files=['one.csv']"]

    near_in_probability("classifier", "run-classifier", logits[0], words_of)
    runs.tessera("checkpoint", "import", "classifier", "--to", "run-no-data")
    out = runs.tessera("checkpoint", "export", "--onnx", "classifier.onnx", "run-no-data").out
    assert "tokens (batch, 24) -> logits (batch, 3)" in out, out
    again = export("run-classifier", "out-classifier", transformers.BertForSequenceClassification)
    ids = torch.tensor([IDS])
    assert torch.equal(again(ids).logits, model(ids).logits), "exported, other logits"

    runs.train("run-bert/model.toml", "run.folder=tuned", "model.init_from=bert", "data.reader=labelled", *data, "training.steps=1", "optimizer.lr=0",
               "training.global_batch_size=8", "training.local_batch_size=4", "model.mask_token=4")
    tuned = export("tuned", "out-tuned", transformers.BertForSequenceClassification).bert
    source = transformers.BertModel.from_pretrained("bert", add_pooling_layer=False).eval()
    assert torch.equal(tuned(ids).last_hidden_state, source(ids).last_hidden_state), "fine-tuned from other weights"


@torch.no_grad()
def check_vit(channels):
    config = transformers.ViTConfig(num_hidden_layers=2, num_attention_heads=2, hidden_size=16, intermediate_size=40, image_size=8,
                                    patch_size=4, num_channels=channels, num_labels=5, layer_norm_eps=1e-5)
    model, name = random_model(transformers.ViTForImageClassification, config), f"vit-{channels}"
    model.save_pretrained(name)
    draw = np.random.default_rng(channels)
    pixels, labels = draw.integers(0, 256, (40, 8, 8, channels)), draw.integers(0, 5, 40)
    runs.write_idx("images", pixels)
    runs.write_idx("labels", labels)
    train = pixels[:20].astype(np.float64)  # whose mean and deviation inputs are normalised by
    images = torch.tensor((pixels[20:] - train.mean()) / train.std()).float().permute(0, 3, 1, 2)
    logits = model(images).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[20:])).item()
    data = ["data.files=['images']", "data.label_files=['labels']", "data.validation_fraction=0.5"]
    runs.tessera("checkpoint", "import", name, "--to", f"run-{name}", *data)
    out = runs.tessera("evaluate", f"run-{name}", *data).out
    found = float(out.split("loss: ")[1].split()[0])
    assert abs(found - loss) < LOGITS and loss > 1, f"{name}: loss {found}, theirs {loss}"
    print(f"{name}: loss within {abs(found - loss):.1e}")
    runs.write_idx("one", pixels[20:21])
    runs.write_idx("train", pixels[:20])
    runs.write_idx("train-labels", labels[:20])

    def words_of(wanted):
        runs.write_idx("label", np.array([wanted]))
        return ["data.files=['train']", "data.label_files=['train-labels']", "data.validation_fraction=0", "data.validation_files=['one']",
                "data.validation_label_files=['label']"]

    near_in_probability(name, f"run-{name}", logits[0], words_of)
    again = export(f"run-{name}", f"out-{name}", transformers.ViTForImageClassification)
    assert torch.equal(again(images).logits, logits), f"{name}: exported, other logits"


def t5_logits(run, source, target):
    runs.tessera("generate", run, "--ids", ",".join(map(str, source)), "--target-ids", ",".join(map(str, target)), "--logits", "logits.npy")
    logits = np.load("logits.npy")
    pathlib.Path("logits.npy").unlink()
    return logits


@torch.no_grad()
def check_t5(name, **changes):
    """Longer than the distances that have classes of their own; greedy answers up to their end."""
    config = transformers.T5Config(**{
        "num_layers": 2, "num_decoder_layers": 3, "num_heads": 3, "d_kv": 6, "d_model": 16, "d_ff": 40, "vocab_size": 50,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": 0, **changes})
    model = random_model(transformers.T5ForConditionalGeneration, config)
    for key, weight in model.named_parameters():  # large enough to have opinions
        weight.mul_(10 if key == "shared.weight" else 5 if key.endswith("o.weight") else 1)
    source, target = (IDS * 3)[:30] + [1], [4, 7, 49, 3, 8, 6, 6, 2, 12, 17, 33, 9, 41, 5, 22, 1]
    theirs = lambda one: one(torch.tensor([source]), labels=torch.tensor([target])).logits[0].numpy()
    expected = theirs(model)
    model.save_pretrained(name)
    runs.tessera("checkpoint", "import", name, "--to", f"run-{name}")
    near(name, t5_logits(f"run-{name}", source, target), expected)
    again = export(f"run-{name}", f"out-{name}", transformers.T5ForConditionalGeneration)
    assert np.array_equal(theirs(again), expected), f"{name}: exported, other logits"
    answers = []
    for first in range(2, 8):
        question = [first, *source]
        answer = [config.decoder_start_token_id]  # their generate() does not come past this PyTorch
        while len(answer) < 13 and answer[-1] != config.eos_token_id:
            answer.append(model(torch.tensor([question]), decoder_input_ids=torch.tensor([answer])).logits[0, -1].argmax().item())
        answer = answer[1:]
        answers.append(answer)
        out = runs.tessera("generate", f"run-{name}", "--ids", ",".join(map(str, question)), "--temperature", "0", "--tokens", "12").out
        found = [int(word) for word in out.split(",") if word.strip()]
        assert found == [token for token in answer if token != config.eos_token_id], f"{name}: {found}, theirs {answer}"
    return answers


def check_files():
    hub_files.check("bert-wide", random_model(transformers.BertForMaskedLM, bert_config(hidden_size=128, vocab_size=2000)))
    hub_files.check("t5-wide", random_model(transformers.T5ForConditionalGeneration, transformers.T5Config(
        num_layers=1, num_heads=2, d_kv=64, d_model=128, d_ff=256, vocab_size=2000)))
    runs.write_idx("images", np.zeros((40, 8, 8, 3)))
    hub_files.check("vit-wide", random_model(transformers.ViTForImageClassification, transformers.ViTConfig(
        num_hidden_layers=3, num_attention_heads=2, hidden_size=128, intermediate_size=512, image_size=8, patch_size=4, num_labels=5)),
        "data.files=['images']", "data.label_files=['labels']")


def check_refusals():
    shutil.copytree("t5", "t5-wrong")
    path = pathlib.Path("t5-wrong", "config.json")
    said = json.loads(path.read_text(encoding="utf-8"))
    for field, value, sentence in (("feed_forward_proj", "gated-elu", 'feed_forward_proj = "gated-elu": expected relu'), ("num_heads", 0, "model.n_heads = 0"),
                                   ("d_kv", 7, "tensor 'encoder.block.0.layer.0.SelfAttention.q.weight' is (18, 16)")):
        path.write_text(json.dumps({**said, field: value}), encoding="utf-8")
        err = runs.tessera("checkpoint", "import", "t5-wrong", "--to", "run-wrong", code=2).err
        assert sentence in err and err.count("\n") == 1, err


with runs.folder():
    check_bert()
    check_bare_bert()
    check_classifier()
    check_vit(1)
    check_vit(3)
    check_t5("t5")
    answers_found = check_t5("t5-v11", feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    assert len(set(map(tuple, answers_found))) > 3 and any(1 in answer for answer in answers_found), answers_found
    check_files()
    check_refusals()

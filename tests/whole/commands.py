# SPDX-License-Identifier: Apache-2.0
"""The commands around a run, and what a run leaves: metrics, logs, config; readers, tokenizers, schedules, optimizers; and
an output that holds no code of a terminal where there is none, also under mpirun, which gives each rank one."""
import math
import os
import pathlib
import pty
import re
import select
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

KEYS = {
    "data.files": ["text.txt"],
    "model.n_layers": 1, "model.n_heads": 2, "model.dim": 32,
    "training.steps": 40, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2,
    "optimizer.lr": 1e-2, "lr_scheduler.warmup_steps": 4,
    "metrics.log_every": 15, "metrics.evaluate_every": 20,
    "checkpoint.interval": 0,
}


def lines_of(path):
    return pathlib.Path(path).read_text(encoding="utf-8").splitlines()


def check_launch():
    """`launch -n 2` trains on 2 ranks; what it prints and leaves is complete, and free of codes."""
    out = runs.tessera("launch", "-n", "2", "-t", "1", "gpt.toml", "run.folder=two").out
    for expected in ("two on ", ": 2 ranks (2 on this host), 1 thread each", "memory per rank: planned ", "step: 1/40  loss: ",
                     "step: 15/40", "step: 30/40", "step: 40/40", "evaluation: step: 20", "evaluation: step: 40",
                     "saved two/checkpoints/step-00000040", "done: two"):
        assert expected in out, f"expected '{expected}', found: {out}"
    assert len(re.findall("^step: ", out, re.MULTILINE)) == 4, out
    assert "\x1b" not in out and "\r" not in out, repr(out)
    names = {str(path.relative_to("two")) for path in pathlib.Path("two").rglob("*")
             if path.is_file() and "checkpoints" not in path.parts}
    assert names == {"config.toml", "config_origins.txt", "metrics.jsonl", "lock", "job/ranks.json", "logs/launch.log",
                     "logs/rank-0000.log", "logs/rank-0001.log"}, names
    for rank in (0, 1):
        log = "\n".join(lines_of(f"two/logs/rank-{rank:04d}.log"))
        assert "[info] two on " in log and "[info] done: two" in log and "\x1b" not in log, log
    bad = runs.tessera("launch", "-n", "2", "-t", "1", "gpt.toml", "run.folder=bad", "model.n_heads=3", code=2)
    assert bad.err.count("model.n_heads = 3") == 2, bad.err  # the rank itself, and what ended the job
    assert not pathlib.Path("bad/metrics.jsonl").exists() and not pathlib.Path("bad/config.toml").exists(), "a refused run began"


def check_metrics():
    """Each field of each record, and the figures that follow from others."""
    steps, evaluations = runs.metrics("two", "step"), runs.metrics("two", "evaluation")
    saves = runs.metrics("two", "checkpoint")
    assert len(runs.metrics("two")) == len(steps) + len(evaluations) + len(saves) == 43
    assert list(saves[0]) == ["kind", "step", "stall", "seconds", "bytes"] and saves[0]["step"] == 40, saves
    for index, record in enumerate(steps):
        times = record.pop("times", None)  # of logged steps: tests/whole/trace.py
        assert (times is not None) == (record["step"] in (1, 15, 30, 40)), record
        assert list(record) == ["kind", "step", "steps", "loss", "grad_norm", "learning_rate", "tokens_per_second", "tflops", "mfu",
                                "seconds", "input_wait", "tokens"], list(record)
        assert (record["step"], record["steps"], record["tokens"]) == (index + 1, 40, (index + 1) * 8 * 16), record
        value = {name: float(number) for name, number in record.items() if name != "kind"}
        assert math.isclose(value["tokens_per_second"] * value["seconds"], 8 * 16, rel_tol=1e-9), record
        assert value["seconds"] >= value["input_wait"] >= 0 and value["tflops"] > 0 and value["mfu"] > 0, record
    assert [record["step"] for record in evaluations] == [20, 40]
    assert float(steps[-1]["loss"]) < float(steps[0]["loss"]) - 0.5, "it does not learn"
    assert 0 < float(evaluations[-1]["loss"]) < float(steps[0]["loss"])
    return evaluations[-1]


def check_evaluate(last):
    """The loss that the run itself found, on 1 and on 2 ranks; other data, another loss."""
    for ranks in (0, 2):
        out = runs.tessera("evaluate", "two", ranks=ranks).out
        found = re.fullmatch(r"step: 40  validation loss: ([\d.]+)  perplexity: ([\d.]+)  tokens: (\d+)\s*", out)
        assert found, repr(out)
        assert found[1] == f"{float(last['loss']):.6f}" and int(found[3]) == last["tokens"], f"{out}{last}"
        assert math.isclose(float(found[2]), math.exp(float(found[1])), rel_tol=1e-4), out
    other = runs.tessera("evaluate", runs.checkpoints("two")[-1], 'data.validation_files=["text.txt"]').out
    assert "step: 40" in other and f"{float(last['loss']):.6f}" not in other, other


def check_generate():
    def generate(*words):
        return runs.tessera("generate", "two", "--tokens", 30, *words).out

    text = generate("--prompt", "the ")
    letters = set(pathlib.Path("text.txt").read_text(encoding="utf-8"))
    assert text.startswith("the ") and text.endswith("\n") and len(text) == 4 + 30 + 1 and set(text[:-1]) <= letters, repr(text)
    assert generate("--prompt", "the ") == text, "the same seed, another text"
    assert generate("--prompt", "the ", "--seed", 2) != text, "another seed, the same text"
    cold = generate("--prompt", "the ", "--temperature", 0)
    assert generate("--prompt", "the ", "--temperature", 0, "--seed", 5) == cold, "temperature 0 depends on the seed"
    assert generate("--prompt", "the ", "--top-k", 1) == cold, "the likeliest of one is not the likeliest"
    hot = generate("--prompt", "the ", "--temperature", 100, "--seed", 3)
    assert generate("--prompt", "the ", "--temperature", 100, "--seed", 3, "--top-k", 2) != hot, "top-k leaves the text as it is"
    assert "Q" in runs.tessera("generate", "two", "--prompt", "Q", code=2).err, "a letter that is not in the vocabulary"


def check_inspect():
    out = runs.tessera("checkpoint", "inspect", "two").out
    for expected in (r"^checkpoint two/checkpoints/step-00000040$", r"^step 40, written by 2 ranks, 27 tensors, ",
                     r"^embedding.weight +\(18, 32\)  f32 ", r"^optimizer.second_moment/norm.scale +\(32\)  f32 ", r"^seed +1$",
                     r"^data.next_sample +320$", r"^steps = 40$"):
        assert re.search(expected, out, re.MULTILINE), f"expected '{expected}', found: {out}"


def check_config():
    """The config that a run keeps is the one it ran with, and gives the same run again."""
    differing = runs.tessera("config", "diff", "gpt.toml", "two/config.toml").out
    assert re.fullmatch(r'run.folder: "" -> "two"   # default -> two/config.toml:\d+:1\n'
                        r'run.name: "" -> "gpt"   # default -> two/config.toml:\d+:1\n', differing), differing
    origins = lines_of("two/config_origins.txt")
    assert any(re.fullmatch(r"model.dim = 32 +# gpt.toml:\d+:1", line) for line in origins), origins
    assert any(re.fullmatch(r'run.folder = "two" +# command line', line) for line in origins), origins
    assert "optimizer.lr" in runs.tessera("config", "explain", "optimizer").out
    assert "training.steps = 40" in runs.tessera("config", "show", "two/config.toml").out
    runs.train("two/config.toml", "run.folder=again")
    runs.expect_same(runs.read("two"), runs.read("again"), "a run and one from the config that it kept")


def on_terminal(words):
    """What a program writes to a terminal, read from its other end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, env=runs.environment({"TERM": "xterm"}), stdin=subprocess.DEVNULL, stdout=theirs,
                               stderr=theirs)
    os.close(theirs)
    text, until = b"", time.monotonic() + runs.TIMEOUT
    while time.monotonic() < until:
        if not select.select([ours], [], [], 1)[0]:
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the last process that had it is gone
            break
        if not piece:
            break
        text += piece
    os.close(ours)
    assert process.wait(runs.TIMEOUT) == 0, text
    return text.decode()


def check_terminal():
    """Redrawn lines and colours where a person looks, nothing of it in a file or pipe, whoever starts the ranks."""
    long = ["gpt.toml", "training.steps=150", "checkpoint.interval=-1", "metrics.log_every=1000"]
    starts = {
        "alone": runs.command(["train", *long, "run.folder=terminal-alone"], 0),
        "mpirun": runs.command(["train", *long, "run.folder=terminal-mpirun"], 2),
        "a script below mpirun": [runs.MPIRUN, "1", "sh", "-c", '"$0" "$@"; exit $?',
                                  *runs.command(["train", *long, "run.folder=terminal-script"], 0)],
        "launch": runs.command(["launch", "-n", "1", "-t", "1", *long, "run.folder=terminal-launch"], 0),
    }
    for name, words in starts.items():
        assert "\r\x1b[Kstep: " in on_terminal(words), f"{name}: no line is redrawn on a terminal"
        piped = subprocess.run(words, env=runs.environment({"TERM": "xterm"}), stdin=subprocess.DEVNULL, capture_output=True,
                               timeout=runs.TIMEOUT, check=True).stdout
        assert b"\x1b" not in piped and b"\r" not in piped and b"done: " in piped, f"{name}: {piped}"
    # A thread more than there are cores is warned of: in yellow, unless NO_COLOR is set
    threads = ["train", "gpt.toml", f"run.threads={len(os.sched_getaffinity(0)) + 1}", "training.steps=1",
               "checkpoint.interval=-1", "run.folder=colour"]
    assert "\x1b[33mwarning:" not in on_terminal(["env", "NO_COLOR=1", *runs.command(threads, 0)])
    assert "\x1b[33mwarning:" in on_terminal(runs.command(threads, 0))


def losses(name, *words):
    runs.train("gpt.toml", f"run.folder={name}", *words)
    return [float(record["loss"]) for record in runs.metrics(name, "step")]


def check_data():
    """The other readers and tokenizers learn too."""
    tokens = [index * index % 41 for index in range(4000)]
    runs.write_tokens("a.bin", tokens[:2000])
    runs.write_tokens("b.bin", tokens[2000:])
    for name, words in (("byte", ["data.tokenizer=byte"]), ("bpe", ["data.tokenizer=bpe", "data.vocab_size=290"]),
                        ("tokens", ["data.reader=tokens", "data.vocab_size=41", 'data.files=["?.bin"]']),
                        ("synthetic", ["data.reader=synthetic", "data.files=[]", "data.vocab_size=32", "data.synthetic_tokens=20000"])):
        if name == "synthetic":
            runs.write_config("gpt.toml", {key: value for key, value in KEYS.items() if key != "data.files"})
            words.remove("data.files=[]")
        found = losses(name, *words)
        vocabulary = {"byte": 256, "bpe": 290, "tokens": 41, "synthetic": 32}[name]
        assert abs(found[0] - math.log(vocabulary)) < 0.2, f"{name}: begins at {found[0]}, chance is {math.log(vocabulary)}"
        assert found[-1] < found[0] - 0.1, f"{name}: {found}"
    runs.write_config("gpt.toml", KEYS)
    assert "the" in runs.tessera("generate", "bpe", "--prompt", "the", "--tokens", 5).out


def check_sgd():
    """One plain step is weight - rate * gradient, to the last bit or two; momentum learns."""
    plain = ["optimizer.name=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0", "training.max_norm=0", "lr_scheduler.warmup_steps=0",
             "training.steps=1"]
    still = ["training.steps=1", "optimizer.lr=0", "training.max_norm=0"]
    runs.train("gpt.toml", "run.folder=sgd", *plain, "optimizer.lr=0.5")
    runs.train("gpt.toml", "run.folder=still", *still)
    after, before = (runs.read_tensors(runs.checkpoints(name)[-1]) for name in ("sgd", "still"))
    for name in (name for name in after if "/" not in name):
        gradient = before["optimizer.first_moment/" + name].astype("f8") / (1 - 0.9)
        error = abs(after[name] - (before[name].astype("f8") - 0.5 * gradient)).max()
        assert error < 1e-6 * (1 + abs(before[name]).max()) and abs(after[name] - before[name]).max() > 100 * error, f"{name}: {error}"
    assert not any("/" in name for name in after), "sgd without momentum has states"
    found = losses("momentum", "optimizer.name=sgd", "optimizer.lr=0.3", "optimizer.nesterov=true")
    assert found[-1] < found[0] - 0.2, found


def check_bench_and_search():
    """What `bench` saves tells `plan` a time, and the search the way to the layouts that it lists."""
    out = runs.tessera("bench", "-n", "2", "--milliseconds", "1", "--save", "here.toml", "run.device=cpu", "run.threads=1").out
    rates = {line[:36].strip(): float(line[36:].split()[0]) for line in out.splitlines() if "/s" in line}
    for name in ("products, f32", "products, bf16", "attention, f32", "memory", "shared memory, all-reduce", "MPI on a host, message"):
        assert rates[name] > 0, out
    text = pathlib.Path("here.toml").read_text(encoding="utf-8")
    assert "\nranks = 2 " in text and "[network]" not in text, text
    words = ("run.device=cpu", "data.tokenizer=byte", "training.dtype=bf16")
    search = runs.tessera("plan", "--search", "-n", "2", "--machine", "here.toml", "gpt.toml", *words).out
    tried, too_large = re.match(r"(\d+) layouts of 2 ranks on here.toml: (\d+) do not fit in", search).groups()
    assert int(tried) > 10 and int(too_large) == 0, search
    step, keys = re.search(r"\n 1\. .*: step ([0-9.]+) ms.*\n   (.*)\n", search).groups()
    keys = [] if keys == " as it is" else keys.split()
    plan = runs.tessera("plan", "-n", "2", "--machine", "here.toml", "gpt.toml", *words, *keys).out
    assert math.isclose(float(re.search(r"\n  step +([0-9.]+) ", plan)[1]), float(step), rel_tol=2e-3), f"{search}{plan}"
    runs.write_config("steady.toml", {  # what is measured in a millisecond beside other tests may have its parts in any proportion
        "rank.device": "cpu", "rank.f32_flops": 2e11, "rank.bf16_flops": 4e11, "rank.product_efficiency": 0.9, "rank.attention_efficiency": 0.4,
        "rank.memory_bandwidth": 2e10, "rank.call_seconds": 4e-8, "rank.memory_gib": 8.0,
        "node.ranks": 2, "node.alpha": 2e-7, "node.beta": 2e10})
    staged = runs.tessera("plan", "-n", "2", "--machine", "steady.toml", "gpt.toml", *words, "model.n_layers=2",
                          "parallelism.pipeline_parallel_degree=2").out
    shares = dict(re.findall(r"^  ([a-z ]+?) +[0-9.]+ +([0-9.]+) %$", staged, re.MULTILINE))
    counted = float(re.search(r"\n  bubble: ([0-9.]+) % of the stages' time, by counted operations", staged)[1])
    assert 0.3 * counted < float(shares["bubble"]) < 3 * counted and float(shares["step"]) == 100, staged
    measured = runs.tessera("plan", "--search", "-n", "2", "--memory", "1GiB", "gpt.toml", *words, "run.threads=1").out
    assert re.match(r"\d+ layouts of 2 ranks on this host, measured: 0 do not fit in 1.00 GiB", measured), measured
    assert re.search(r"\n 1\. .*: step [0-9.]+ ms", measured), measured
    beyond = runs.tessera("plan", "-n", "4", "--machine", "here.toml", "gpt.toml", *words, code=2).err
    assert "here.toml says nothing of the links between nodes" in beyond, beyond


with runs.folder():
    runs.write_text("text.txt", 8_000)
    runs.write_config("gpt.toml", KEYS)
    check_launch()
    check_evaluate(check_metrics())
    check_generate()
    check_inspect()
    check_config()
    check_terminal()
    check_data()
    check_sgd()
    check_bench_and_search()
print("the commands do what their help says")

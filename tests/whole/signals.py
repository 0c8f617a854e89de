# SPDX-License-Identifier: Apache-2.0
"""What signals ask of a run, while it starts, trains, evaluates and saves: SIGUSR1, SIGTERM and SIGINT to save and stop with
code 75, SIGUSR2 to save and go on, a second SIGINT to end at once. All ranks answer together, to whichever rank was asked,
and each run that goes on ends with the bits of one that was left alone."""
import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

FAULT_IO = os.environ["TESSERA_FAULT_IO"]
KEYS = {
    "data.files": ["text.txt"], "data.validation_fraction": 0.9,
    "model.n_layers": 2, "model.n_heads": 2, "model.dim": 64, "model.dropout": 0.1,
    "training.steps": 1_000_000,  # no run ends by itself while a test waits to interrupt it
    "training.seq_len": 64, "training.global_batch_size": 32, "training.local_batch_size": 1,
    "lr_scheduler.warmup_steps": 10, "lr_scheduler.decay_steps": 60,
    "metrics.evaluate_every": 0,
    "checkpoint.interval": 0, "checkpoint.keep_latest_k": 2,
}
SLOW_EVALUATION = ["metrics.evaluate_every=10", "metrics.evaluate_batches=6000"]


def wait_until(found, what, process):
    until = time.monotonic() + runs.TIMEOUT
    while not found():
        assert process.poll() is None, f"it ended before {what}: {pathlib.Path('started.log').read_text(encoding='utf-8')}"
        assert time.monotonic() < until, f"no {what}"
        time.sleep(0.01)


def catches(pid, which):
    status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
    return mask >> (which - 1) & 1 == 1


def ended(process, folder, expected=75):
    """The step of its newest checkpoint, which is the last it made, once the run has ended with that code."""
    code = process.wait(runs.TIMEOUT)
    said = pathlib.Path("started.log").read_text(encoding="utf-8")
    assert code == expected, f"{folder}: exit code {code}, expected {expected}: {said}"
    if code != 75:
        return None
    assert f"stopped on request, run again to go on: {folder}" in said, said
    last = list(runs.read(folder).losses)[-1]
    assert runs.newest(folder) == last, f"{folder}: saved step {runs.newest(folder)} of {last}"
    return last


def saves(folder):
    return pathlib.Path(folder, "metrics.jsonl").read_bytes().count(b'"kind":"checkpoint"')


def while_it_starts():
    """As soon as the ranks have handlers, long before the first step."""
    process = runs.start("train", "gpt.toml", "run.folder=starts", ranks=2)
    wait_until(lambda: len(runs.rank_processes(process.pid)) == 2, "two ranks", process)
    ranks = runs.rank_processes(process.pid).values()
    wait_until(lambda: all(catches(pid, signal.SIGUSR1) for pid in ranks), "handlers", process)
    process.send_signal(signal.SIGUSR1)
    return ended(process, "starts")


def save_and_go_on():
    """One more checkpoint for each SIGUSR2, of which the newest two are kept; then one rank alone is told to stop."""
    process = runs.start("launch", "-n", "2", "-t", "1", "gpt.toml", "run.folder=goes-on")
    runs.wait_for_steps(process, "goes-on", 15)
    saved = []
    for count in (1, 2, 3):
        process.send_signal(signal.SIGUSR2)
        wait_until(lambda: saves("goes-on") >= count, f"checkpoint {count}", process)
        saved.append(runs.newest("goes-on"))
        steps = saved[-1] + 20
        runs.wait_for_steps(process, "goes-on", steps)
        assert saves("goes-on") == count, f"{saves('goes-on')} saves of {count} requests"
    # What one rank is told seconds after another is the same request, once.
    for rank, saves_then in ((0, 4), (1, 4), (1, 5)):
        os.kill(runs.rank_processes(process.pid)[rank], signal.SIGUSR2)
        wait_until(lambda: saves("goes-on") >= saves_then, f"checkpoint {saves_then}", process)
        saved.append(runs.newest("goes-on"))
        time.sleep(1.1)
        runs.wait_for_steps(process, "goes-on", saved[-1] + 20)
        assert saves("goes-on") == saves_then, f"{saves('goes-on')} saves, expected {saves_then}"
    assert [int(path.name[5:]) for path in runs.checkpoints("goes-on")] == saved[-2:], runs.checkpoints("goes-on")
    os.kill(runs.rank_processes(process.pid)[1], signal.SIGTERM)
    return ended(process, "goes-on")


def while_it_evaluates():
    """It saves the step that it evaluates, before another."""
    process = runs.start("train", "gpt.toml", "run.folder=evaluates", *SLOW_EVALUATION, ranks=2)
    runs.wait_for_steps(process, "evaluates", 10)
    process.send_signal(signal.SIGUSR1)
    step = ended(process, "evaluates")
    assert step == 10 and list(runs.read("evaluates").evaluations) == [10], step
    return step


def slow_save(folder, fault, *words, command=("train",), **options):
    """A run of which a rank takes its time for its first save, once it has begun that."""
    process = runs.start(*command, "gpt.toml", f"run.folder={folder}", "checkpoint.interval=10", *words, **options,
                         extra={"LD_PRELOAD": FAULT_IO, "FAULT_FOLDER": f"{folder}/checkpoints", "FAULT_AT": "3",
                                "FAULT_KIND": "slow", "FAULT_SECONDS": "2", "FAULT_MARK": f"{folder}.saves", **fault})
    wait_until(lambda: os.path.exists(f"{folder}.saves"), "save", process)
    return process


def while_it_saves(asynchronous):
    """The save under way ends, and one of the step after the signal follows."""
    folder = f"saves-{asynchronous}"
    process = slow_save(folder, {"FAULT_RANK": "1"}, f"checkpoint.asynchronous={asynchronous}", ranks=2)
    process.send_signal(signal.SIGUSR1)
    step = ended(process, folder)
    assert runs.checkpoints(folder)[0].name == "step-00000010" and step > 10, runs.checkpoints(folder)
    return step


def interrupted():
    """Ctrl-C twice does not wait for the save, nor do the ranks of `launch`; the run then begins anew."""
    for folder, fault, command in (("alone", {}, ["train"]), ("launched", {"FAULT_RANK": "1"}, ["launch", "-n", "2", "-t", "1"])):
        process = slow_save(folder, {"FAULT_SECONDS": "100", **fault}, "checkpoint.asynchronous=false", command=command)
        ranks = runs.rank_processes(process.pid)
        assert len(ranks) == 2 * (folder == "launched"), ranks
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)  # two at once would be one
        ended(process, folder, 130)
        assert not runs.checkpoints(folder), "it waited"
        wait_until_gone(ranks.values())
    return 0


def wait_until_gone(pids):
    until = time.monotonic() + runs.TIMEOUT
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < until, "ranks are left"
        time.sleep(0.05)


with runs.folder():
    runs.write_text("text.txt", 500_000)
    runs.write_config("gpt.toml", KEYS)
    reached = {"starts": while_it_starts(), "goes-on": save_and_go_on(), "evaluates": while_it_evaluates(),
               "saves-true": while_it_saves("true"), "saves-false": while_it_saves("false"), "alone": interrupted()}
    for name, step in reached.items():
        runs.train("gpt.toml", f"run.folder={name}", f"training.steps={step + 5}", ranks=2)
    longest = max(reached, key=reached.get)
    assert reached[longest] < 8000, f"a signal was answered late: {reached}"
    runs.train("gpt.toml", "run.folder=whole", f"training.steps={reached[longest] + 5}")
    whole = runs.read("whole")._replace(evaluations={})
    runs.expect_same(whole, runs.read(longest)._replace(evaluations={}), longest)
    for name, step in reached.items():
        losses = runs.read(name).losses
        assert list(losses) == list(range(1, step + 6)), f"{name}: {list(losses)}"
        assert all(losses[at] == whole.losses[at] for at in losses), f"{name}: other losses after step {step}"
print(f"runs that were signalled at steps {reached} end with the bits of one that was left alone")

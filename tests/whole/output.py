# SPDX-License-Identifier: Apache-2.0
"""Runs whose output or log is full, closed, or read by nobody any more, whose terminal is gone, or whose clock jumps: they
end with the bits and the code of one that was left alone, and no file of theirs gets what was meant for the console. And no
library is loaded whose name stands in a file, or lies beside one."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

FAULT_IO = os.environ["TESSERA_FAULT_IO"]
KEYS = {
    "data.files": ["text.txt"], "run.threads": 1,
    "model.n_layers": 1, "model.n_heads": 2, "model.dim": 16,
    "training.steps": 12, "training.seq_len": 16, "training.global_batch_size": 4, "training.local_batch_size": 2,
    "metrics.log_every": 1, "checkpoint.interval": 4,
}


def shell(folder, script, *words, code=0, command="train"):
    """Runs the script, in which "$@" is `tessera COMMAND WORD… gpt.toml run.folder=FOLDER`."""
    words = [runs.PROGRAM, command, *words, "gpt.toml", f"run.folder={folder}"]
    done = subprocess.run(["bash", "-c", script, "bash", *words], env=runs.environment(), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=runs.TIMEOUT, check=False)
    assert done.returncode == code, f"{script}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def log(folder):
    return pathlib.Path(folder, "logs", "rank-0000.log").read_text(encoding="utf-8")


def check_output(whole):
    for folder, script in {
            "full": '"$@" >/dev/full', "full-both": '"$@" >/dev/full 2>&1', "closed": '"$@" >&-', "closed-all": '"$@" <&- >&- 2>&-',
            "unread": 'set -o pipefail; "$@" | true', "hung-up": 'trap "" HUP; "$@" & sleep 0.3; kill -HUP $!; wait $!'}.items():
        shell(folder, script)
        runs.expect_same(whole, runs.read(folder), folder)
        assert f"done: {folder}" in log(folder), log(folder)
        if folder != "hung-up":
            assert "the console cannot be written to: " in log(folder), f"{folder}: {log(folder)}"
    for folder, script in {"launched": '"$@" >/dev/full 2>&1', "launched-closed": '"$@" >&- 2>&-', "launched-unread": '"$@" 2>&1 | true'}.items():
        shell(folder, script, "-n", "2", command="launch")
        runs.expect_same(whole, runs.read(folder), folder)


def check_full_disk(whole):
    """Under what a run says of itself: it is missing there, and nothing else is."""
    os.makedirs("full-log/logs")
    os.symlink("/dev/full", "full-log/logs/rank-0000.log")
    out = shell("full-log", '"$@"')
    assert "warning: the log cannot be written to, the run goes on: " in out and "done: full-log" in out, out
    runs.expect_same(whole, runs.read("full-log"), "a full disk under the log")
    out = runs.train("gpt.toml", "run.folder=full-metrics", extra={
        "LD_PRELOAD": FAULT_IO, "FAULT_FOLDER": "full-metrics/metrics.jsonl", "FAULT_AT": "9", "FAULT_TIMES": "3", "FAULT_KIND": "ENOSPC"}).out
    assert "metrics.jsonl: No space left on device; training goes on" in out and "lines that are missing: 3" in out, out
    some, all_ = runs.metrics("full-metrics", "step"), runs.metrics("whole", "step")
    assert 0 < len(all_) - len(some) <= 3 and {record["loss"] for record in some} < {record["loss"] for record in all_}, some
    runs.tessera("checkpoint", "diff", *runs.checkpoints("full-metrics")[-1:], *runs.checkpoints("whole")[-1:])


def check_clock(whole):
    """That goes an hour forward and back again and again, under the ranks and their launcher."""
    for folder, words in {"jumps": ["train"], "jumps-launched": ["launch", "-n", "2"]}.items():
        runs.tessera(*words, "gpt.toml", f"run.folder={folder}", extra={"LD_PRELOAD": FAULT_IO, "FAULT_FOLDER": "/nowhere", "FAULT_CLOCK": "3600"})
        runs.expect_same(whole, runs.read(folder), f"the clock of {folder}")
    hours = {line[1:14] for line in log("jumps").splitlines() if line.startswith("[")}
    assert len(hours) > 1, f"the clock does not jump: {hours}"


def check_hang_up():
    """A closed terminal asks to save and stop, as it does of a launcher."""
    process = runs.start("train", "gpt.toml", "run.folder=hang", "training.steps=1000000")
    runs.wait_for_steps(process, "hang", 3)
    process.send_signal(signal.SIGHUP)
    assert process.wait(runs.TIMEOUT) == 75, pathlib.Path("started.log").read_text(encoding="utf-8")


def loaded(*words, code, extra):
    """The libraries of this folder that `tessera WORD…` has loaded."""
    for path in pathlib.Path(".").glob("loaded.*"):
        path.unlink()
    done = subprocess.run(runs.command(words, 0), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=runs.TIMEOUT, check=False,
                          env=runs.environment({"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": os.path.abspath("loaded"), **extra}))
    assert code in (None, done.returncode), f"{words}: exit code {done.returncode}: {done.stderr}"
    text = "".join(path.read_text(errors="replace") for path in pathlib.Path(".").glob("loaded.*"))
    names = set(re.findall(r"calling init: (\S+)", text))
    return {name for name in names if os.path.abspath(name).startswith(os.getcwd())}


def check_no_code_from_files():
    """Libraries in the place of data, weights and checkpoints; and in a folder where HDF5 looks for filters by their number."""
    os.makedirs("plugins")
    for name in ("plugins/libh5filter.so", "step.so"):
        shutil.copy(os.environ["TESSERA_FAULT_IO"], name)
    for words, code in ((("train", "gpt.toml", "run.folder=a", 'data.files=["step.so"]', "training.steps=1"), None),
                        (("checkpoint", "import", "step.so", "--to", "b", "--config", "gpt.toml"), None),
                        (("checkpoint", "verify", "step.so"), None), (("checkpoint", "export", "whole", "--hdf5-single", "one.h5"), 0),
                        (("train", "gpt.toml", "run.folder=c", "checkpoint.resume=step.so"), 2)):
        here = loaded(*words, code=code, extra={"HDF5_PLUGIN_PATH": os.path.abspath("plugins")})
        assert not here, f"{words}: {here}"
    preloaded = loaded("checkpoint", "verify", "whole", code=0, extra={"LD_PRELOAD": os.path.abspath("step.so")})
    assert preloaded == {os.path.abspath("step.so")}, f"the loader does not say what it loads: {preloaded}"


with runs.folder():
    runs.write_text("text.txt", 9_000)
    runs.write_config("gpt.toml", KEYS)
    runs.train("gpt.toml", "run.folder=whole")
    check_output(runs.read("whole"))
    check_full_disk(runs.read("whole"))
    check_clock(runs.read("whole"))
    check_hang_up()
    check_no_code_from_files()
print("runs that nobody hears end as others do, and no file names what is run")

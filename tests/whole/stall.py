# SPDX-License-Identifier: Apache-2.0
"""Ranks that stop, sleep, spin, die or leave a collective out: the job ends by itself, with code 4 and a verdict that
names the rank, what it does instead and what the others wait in; no process is left. Slow saves and evaluations, and
strangers at a watchdog's door, end nothing."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

RANKS = 3
ENDS_WITHIN = 120  # seconds: a deadline of 2, some seconds to ask everybody, and a machine that is busy with else
KEYS = {
    "data.files": ["text.txt"],
    "model.n_layers": 2, "model.n_heads": 2, "model.dim": 32,
    "training.steps": 1_000_000, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 1,
    "metrics.evaluate_every": 0, "checkpoint.interval": 0, "run.step_timeout": 2.0,
}


def say(name):
    path = pathlib.Path("run", "job", name)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def places():
    """[(rank, pid)] as the job itself says, once it does."""
    begin = time.monotonic()
    while not say("ranks.json"):
        assert time.monotonic() < begin + ENDS_WITHIN, "no ranks.json"
        time.sleep(0.05)
    return [(rank["rank"], rank["pid"]) for rank in json.loads(say("ranks.json"))["ranks"]]


def wait_for_steps(steps):
    begin = time.monotonic()
    metrics = pathlib.Path("run", "metrics.jsonl")
    while not metrics.exists() or len(runs.metrics("run", "step")) < steps:
        assert time.monotonic() < begin + ENDS_WITHIN, "no steps"
        time.sleep(0.05)


def check(what, rank, said, words, codes=(4,), kind="stalled", kill=None):
    """Starts a run, in which `kill` may do something to the ranks' pids, and looks at how it ends."""
    subprocess.run(["rm", "-rf", "run"], check=True)
    process = runs.start("train", "gpt.toml", "run.folder=run", *words, ranks=RANKS)
    pids = dict(places())
    if kill:
        wait_for_steps(3)
        kill(pids[rank])
    try:
        code = process.wait(ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"{what}: the job hangs\n{pathlib.Path('started.log').read_text()}") from None
    text = pathlib.Path("started.log").read_text(encoding="utf-8", errors="replace")
    assert code in codes, f"{what}: exit code {code}\n{text}"
    begin = time.monotonic()
    while any(map(is_alive, pids.values())):  # the kernel may be at their memory still
        assert time.monotonic() < begin + 10, f"{what}: processes are left: {pids}"
        time.sleep(0.05)
    assert say("failure.json"), f"{what}: no failure is noted\n{text}"
    failure = json.loads(say("failure.json"))
    assert (failure["kind"], failure["rank"], failure["pid"]) == (kind, rank, pids[rank]), f"{what}: {failure}\n{text}"
    assert failure["step"] >= 3, failure
    assert abs(failure["time"] - time.time()) < 600, failure
    for expected in said:
        assert re.search(expected, failure["message"]), f"{what}: no '{expected}' in: {failure['message']}"
    return failure, text


def check_stalls():
    waits = r"have waited for \d+\.\d s in all_reduce of '.+ more' \([\d,]+ bytes of f32, call \d+ of all ranks\)"
    sleeps = r"rank 1 on \S+ \(pid \d+\) is reading data, step 5, .*since [2-9]"
    failure, text = check("sleeps over its data", 1, [sleeps, r"ranks 0, 2 " + waits], ["--plant", "1 5 reading sleep:600"])
    assert failure["code"] == 4 and failure["step"] == 5, failure
    page = say("verdict.txt")
    assert page.startswith("The run has stalled: " + failure["message"]) and page in text, page
    assert "Step 5 has been under way" in page and "its deadline is 2.0 s" in page and "The last calls of rank 1" in page, page
    check("spins in a node", 0, [r"rank 0 .* is computing '\S+', step 4", r"ranks 1, 2 " + waits], ["--plant", "0 4 computing spin"])
    waits = r"ranks? \d.* waited for \d+\.\d s in \w+ .*call \d+ of all ranks\)"  # whichever it was just then
    stopped = r"its process is stopped \(by a signal or a debugger\), unheard of for"
    check("is stopped", 2, [stopped, waits], [], kill=lambda pid: os.kill(pid, signal.SIGSTOP))
    check("rank 0 is stopped", 0, [stopped, waits], [], kill=lambda pid: os.kill(pid, signal.SIGSTOP))


def check_losses():
    """mpirun sees a death, too, and says so with the code of the first."""
    gone = [r"its process is gone", r"last .*, step \d+"]
    for rank in (0, 2):
        check(f"rank {rank} is killed", rank, gone, [], (137, 4), "lost", lambda pid: os.kill(pid, signal.SIGKILL))
    check("exits in silence", 1, gone, ["--plant", "1 5 computing exit"], (1, 4), "lost")
    check("aborts", 2, gone, ["--plant", "2 5 computing abort"], (134, 4), "lost")


def check_left_out_collective():
    """One that a rank leaves out is an error of all that names both, on MPI, too, where it would be a hang."""
    subprocess.run(["rm", "-rf", "run"], check=True)
    run = runs.train("gpt.toml", "run.folder=run", "run.check_collectives=true", "parallelism.shared_memory=false",
                     "--plant", "1 5 computing skip", ranks=RANKS, code=1)
    said = r"ranks of all ranks are in different collectives: number 0 of them calls all_reduce '.*' of \d+ bytes, \([\d, ]+\) of f32 " \
           r"\(call \d+\), number 1 calls \S+ .*\(call \d+\)"
    assert re.search(said, run.err), run.err
    assert json.loads(say("failure.json"))["kind"] == "error"
    subprocess.run(["rm", "-rf", "run"], check=True)
    runs.train("gpt.toml", "run.folder=run", "run.check_collectives=true", "training.steps=3", ranks=RANKS)


def listening_ports(pid):
    inodes = set()
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(entry)))
        except OSError:
            continue
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in inodes and row[1].startswith("0100007F")]


def pester(pid):
    """What a stranger might send to a watchdog of this host."""
    pests = []
    for port in listening_ports(pid):
        for bytes_sent in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70_000, b"\x29\0\0\0h" + b"\0" * 40, b"\x01\0\0\0e", b"", b"\x05"):
            try:
                pest = socket.create_connection(("127.0.0.1", port), 5)
                pest.sendall(bytes_sent)
                pests.append(pest)
            except OSError:
                pass
    return pests


def check_no_false_alarm():
    subprocess.run(["rm", "-rf", "run"], check=True)
    quiet = ["metrics.evaluate_every=4", "checkpoint.interval=4", "training.steps=12"]
    begin = time.monotonic()
    process = runs.start("train", "gpt.toml", "run.folder=run", *quiet, "--plant", "1 8 saving sleep:5", ranks=RANKS)
    pests = [pest for _, pid in places() for pest in pester(pid)]
    assert pests, "no watchdog listens on this host"
    assert process.wait(ENDS_WITHIN) == 0, pathlib.Path("started.log").read_text()
    assert time.monotonic() > begin + 5 and not say("failure.json") and not say("verdict.txt")
    subprocess.run(["rm", "-rf", "run"], check=True)
    runs.train("gpt.toml", "run.folder=run", *quiet, "--plant", "2 4 evaluating sleep:5", ranks=RANKS)
    assert not say("failure.json") and not say("verdict.txt")


with runs.folder():
    runs.write_text("text.txt", 9_000)
    runs.write_config("gpt.toml", KEYS)
    check_no_false_alarm()
    check_stalls()
    check_losses()
    check_left_out_collective()
print("stalled, stopped, killed and lost ranks are named, and their jobs end; slow ones are left alone")

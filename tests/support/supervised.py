# SPDX-License-Identifier: Apache-2.0
"""A run under `tessera launch` that is disturbed from outside: its processes by pid, how far it has come, and what it
must end with. For the scripts in tests/whole."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import runs

KEYS = {
    "data.files": ["text.txt"], "run.threads": 1,
    "model.n_layers": 2, "model.n_heads": 2, "model.dim": 32, "model.dropout": 0.1,
    "training.steps": 1_000_000,  # no run ends by itself while a test waits to disturb it
    "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 1,
    "lr_scheduler.warmup_steps": 10, "lr_scheduler.decay_steps": 60,
    "metrics.evaluate_every": 0, "metrics.log_every": 1000, "checkpoint.interval": 40,
}


def processes_of(job):
    """{pid: command line} of a job's processes on all pretend hosts, by the id that the launcher gives them."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            if job.encode() in words + (folder / "environ").read_bytes() and b"--clean" not in words:
                found[int(folder.name)] = words.replace(b"\0", b" ").decode()
        except OSError:
            pass
    return found


class Supervised:
    """`tessera launch OPTION… gpt.toml run.folder=FOLDER KEY=VALUE…`, started; `words` are options, then keys. What it says
    goes to FOLDER.out and FOLDER.err."""

    def __init__(self, folder, *words, before=(), extra=None):
        self.folder = pathlib.Path(folder)
        words = [str(word) for word in words]
        keys = [word for word in words if "=" in word]
        command = [*before, runs.PROGRAM, "launch", *words[:len(words) - len(keys)], "gpt.toml", f"run.folder={folder}", *keys]
        with open(f"{folder}.out", "wb") as out, open(f"{folder}.err", "wb") as err:
            self.process = subprocess.Popen(command, env=runs.environment(extra), stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def said(self):
        return pathlib.Path(f"{self.folder}.err").read_text(encoding="utf-8", errors="replace")

    def jobs(self):
        """The ids of its attempts, as the log has them."""
        log = self.folder / "logs" / "launch.log"
        return re.findall(r"TESSERA_JOB=(tessera-[0-9a-f]{16}\.\d+)", log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []

    def wait_for(self, what, condition, limit=runs.TIMEOUT):
        until = time.monotonic() + limit
        while not condition():
            assert self.process.poll() is None, f"{self.folder}: ended with {self.process.returncode} before {what}:\n{self.said()}"
            assert time.monotonic() < until, f"{self.folder}: no {what} in {limit} s:\n{self.said()}"
            time.sleep(0.01)

    def steps(self):
        path = self.folder / "metrics.jsonl"
        return path.read_bytes().count(b'"kind":"step"') if path.exists() else 0

    def wait_for_attempt(self, number):
        """Until its ranks have started."""
        self.wait_for(f"attempt {number}", lambda: len(self.jobs()) >= number)
        job = self.jobs()[-1].encode()

        def is_new():
            try:
                return job in pathlib.Path("/proc", str(self.ranks()[0][1]), "environ").read_bytes()
            except (OSError, ValueError, KeyError):
                return False
        self.wait_for(f"the ranks of attempt {number}", is_new)

    def wait_for_steps(self, more):
        """Until it has made so many, from now on."""
        begin = self.steps()
        self.wait_for(f"{more} steps", lambda: self.steps() >= begin + more or (self.steps() < begin and self.steps() >= more))

    def wait_between_saves(self):
        """Until the attempt under way has saved, and is not about to save again: a save may take longer than a step."""
        newest = runs.checkpoints(self.folder)[-1:]
        self.wait_for("a new checkpoint", lambda: runs.checkpoints(self.folder)[-1:] not in ([], newest))
        interval = KEYS["checkpoint.interval"]
        self.wait_for("steps between two saves", lambda: 0.35 * interval < self.steps() % interval < 0.6 * interval)

    def ranks(self):
        """{rank: (host, pid)} of the attempt under way."""
        text = (self.folder / "job" / "ranks.json").read_text(encoding="utf-8")
        return {rank["rank"]: (rank["host"], rank["pid"]) for rank in json.loads(text)["ranks"]}

    def strike(self, rank, which, noticed, limit=10):
        """Sends the signal and waits until `noticed()`. One that is stopped in a save is given longer than the test has
        time for: after `limit` seconds it is let go and stopped again."""
        for _ in range(20):
            try:
                os.kill(self.ranks()[rank][1], which)
            except ProcessLookupError:
                raise AssertionError(f"{self.folder}: rank {rank} is gone before it is struck:\n{self.said()}") from None
            until = time.monotonic() + (limit if which == signal.SIGSTOP else runs.TIMEOUT)
            while not noticed() and time.monotonic() < until:
                assert self.process.poll() is None or noticed(), f"{self.folder}: ended with {self.process.returncode}:\n{self.said()}"
                time.sleep(0.01)
            if noticed() or which != signal.SIGSTOP:
                break
            os.kill(self.ranks()[rank][1], signal.SIGCONT)
            self.wait_between_saves()
        assert noticed(), f"{self.folder}: signal {int(which)} to rank {rank} goes unnoticed:\n{self.said()}"

    def end(self, code, limit=runs.TIMEOUT):
        try:
            found = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.abandon()
            raise AssertionError(f"{self.folder} does not end: {self.said()}") from None
        assert found == code, f"{self.folder}: exit code {found}, expected {code}:\n{self.said()}"
        self.expect_nothing_left()

    def stop(self):
        """Asks it to save and stop; returns the step it had reached."""
        self.process.send_signal(signal.SIGUSR1)
        self.end(75)
        return max(runs.read(self.folder).losses)

    def expect_nothing_left(self, limit=20):
        jobs = self.jobs()
        assert jobs, f"{self.folder}: no attempt"
        for job in jobs:
            until = time.monotonic() + limit
            while processes_of(job) and time.monotonic() < until:
                time.sleep(0.05)
            assert not processes_of(job), f"{self.folder}: of job {job} are left {processes_of(job)}"
            for parent in ("/tmp", "/dev/shm"):
                assert not os.path.exists(f"{parent}/{job}"), f"{parent}/{job} is left"

    def abandon(self):
        self.process.kill()
        self.process.wait()
        for job in self.jobs():
            for process in processes_of(job):
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            for parent in ("/tmp", "/dev/shm"):  # a launcher that is killed cleans nothing up
                shutil.rmtree(f"{parent}/{job}", ignore_errors=True)


def expect_bits_of_undisturbed(folders):
    """Each run {folder: step reached} has at its end what one rank alone makes of as many steps."""
    steps = sorted(folders.values())
    runs.train("gpt.toml", "run.folder=whole", f"training.steps={steps[-1]}", "checkpoint.interval=0", "checkpoint.keep_latest_k=0")
    whole = runs.read("whole")
    for folder, reached in folders.items():
        result = runs.read(folder)
        assert sorted(result.losses) == list(range(1, reached + 1)), f"{folder}: {sorted(result.losses)[-3:]}, {reached}"
        if reached < steps[-1]:  # the weights of another step: let it go on to the same
            runs.train("gpt.toml", f"run.folder={folder}", f"training.steps={steps[-1]}")
            result = runs.read(folder)
        runs.expect_same(whole, result._replace(evaluations=whole.evaluations), f"{folder}, disturbed")

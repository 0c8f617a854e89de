# SPDX-License-Identifier: Apache-2.0
"""Random faults to a job under `tessera launch`, one after the other: ranks killed, aborted, stopped, all at once; mpirun, and the
launcher itself; and requests to stop. It always goes on from its newest checkpoint, leaves nothing behind, and ends with
the bits of one that was left alone. Two minutes of them; TESSERA_LONG_TESTS=SECONDS: 100, or what comes in so many seconds."""
import collections
import os
import pathlib
import random
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs
import supervised

LONG = os.environ.get("TESSERA_LONG_TESTS")
SECONDS, MOST = (float(LONG), 100) if LONG else (120, 1000)
RANKS = 3
MEMORY = pathlib.Path("/dev/shm")


class Soak:
    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.faults = collections.Counter()
        self.attempts = self.reached = 0
        self.launch()

    def launch(self):
        self.run = supervised.Supervised("soak", "-n", RANKS, "--max-restarts", 1000, "--restart-delay", 0, "run.step_timeout=3")
        self.next_attempt()

    def next_attempt(self):
        self.attempts += 1
        self.run.wait_for_attempt(self.attempts)

    def signal_rank(self, which):
        self.run.strike(self.draw.randrange(RANKS), which, lambda: len(self.run.jobs()) > self.attempts)
        self.next_attempt()

    def kill_all(self, pids):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # one goes with another
                pass
        self.next_attempt()

    def kill_ranks(self):
        self.kill_all([pid for _, pid in self.run.ranks().values()])

    def kill_mpirun(self):
        self.kill_all([pid for pid, words in supervised.processes_of(self.run.jobs()[-1]).items() if words.startswith("mpirun ")])

    def kill_launcher(self):
        self.run.process.kill()
        self.run.process.wait()
        job = self.run.jobs()[-1]
        until = time.monotonic() + 30
        while supervised.processes_of(job) and time.monotonic() < until:
            time.sleep(0.05)
        assert not supervised.processes_of(job), supervised.processes_of(job)
        runs.tessera("host", "--clean", job)
        self.launch()

    def stop(self):
        self.run.stop()
        self.launch()

    def wait_for_steps(self, more):
        """Further than it ever was: what fails three times at one step is not tried again."""
        self.run.wait_for(f"{more} new steps", lambda: self.run.steps() >= self.reached + more)
        self.reached = self.run.steps()

    def strike(self):
        """At any time of the training, in a save too."""
        self.wait_for_steps(self.draw.randrange(1, 60))
        signals = [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGSTOP]
        faults = {**{which.name: lambda which=which: self.signal_rank(which) for which in signals}, "all ranks": self.kill_ranks,
                  "mpirun": self.kill_mpirun, "launcher": self.kill_launcher, "stop": self.stop}
        name = self.draw.choice([*faults, "SIGKILL", "SIGKILL"])
        self.faults[name] += 1
        faults[name]()


def files_in_memory():
    return {path.name for path in MEMORY.iterdir() if path.is_file()}


def expect_no_memory_left(before):
    """Others that run beside make files there, but none that stay."""
    left, until = files_in_memory() - before, time.monotonic() + 10
    while left and time.monotonic() < until:
        time.sleep(0.05)
        left &= files_in_memory()
    assert not left, f"left in {MEMORY}: {left}"


with runs.folder():
    runs.write_text("text.txt", 9_000)
    runs.write_config("gpt.toml", supervised.KEYS)
    begin, memory = time.monotonic(), files_in_memory()
    soak = Soak(seed=1)
    try:
        while time.monotonic() - begin < SECONDS and sum(soak.faults.values()) < MOST:
            soak.strike()
        soak.wait_for_steps(1)
        reached = soak.run.stop()
    finally:
        soak.run.abandon()
    assert sum(soak.faults.values()) >= min(SECONDS / 30, MOST), soak.faults
    expect_no_memory_left(memory)
    supervised.expect_bits_of_undisturbed({"soak": reached})
print(f"{sum(soak.faults.values())} faults in {time.monotonic() - begin:.0f} s, {reached} steps, and the bits of an undisturbed run: {dict(soak.faults)}")

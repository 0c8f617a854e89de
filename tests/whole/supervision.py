# SPDX-License-Identifier: Apache-2.0
"""A job under `tessera launch` whose ranks are killed, stopped, left, or get no disk: each fault is named with its rank,
the job goes on from its newest checkpoint to the bits of one that was left alone, and nothing of it is left behind.
What befalls it at random: soak.py."""
import os
import pathlib
import re
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs
import supervised

ended = {}  # folder: step reached


def expect(text, *parts):
    for part in parts:
        assert part in text, f"expected '{part}', found:\n{text}"


def check_struck():
    """One run, struck again and again."""
    run = supervised.Supervised("struck", "-n", 3, "--max-restarts", 9, "--restart-delay", 0, "run.step_timeout=3")
    host = os.uname().nodename
    try:
        for attempt, (rank, which) in enumerate([(2, signal.SIGABRT), (0, signal.SIGABRT), (1, signal.SIGSTOP), (0, signal.SIGKILL)], 1):
            run.wait_for_attempt(attempt)
            run.wait_between_saves()
            run.strike(rank, which, lambda: f"restart {attempt} of 9 in 0 s" in run.said())
            line = [line for line in run.said().splitlines() if f"restart {attempt} of 9" in line][0]
            expect(line, f"tessera launch: rank {rank} on {host} ")
            # Who notices first, the ranks' own watchdog or mpirun, knows one or the other.
            assert f"was ended by signal {int(which)} " in line or "its process is" in line, line
        run.wait_for_attempt(5)
        run.wait_between_saves()
        ended["struck"] = run.stop()
    finally:
        run.abandon()
    for part in ("until it was noticed", "to end the job and clean up", "waited", "to start the ranks", "to load", "for the step"):
        # A rank may be struck before the launcher has looked at its first step, which is then not told.
        assert run.said().count(part) >= 2, f"{part}: {run.said()}"
    print("\n".join(line for line in run.said().splitlines() if "from the last step to the next" in line))
    assert (run.folder / "job.4").exists() and not (run.folder / "job.5").exists()
    # What a rank says besides, as Open MPI's words about a signal, is in its log; rank 0's is on the console.
    log = (run.folder / "logs" / "rank-0002.log").read_text(encoding="utf-8", errors="replace")
    for place, text in {"the console": run.said(), "rank 2's log": log}.items():
        assert text.count("Signal: Aborted (6)") == 1, f"in {place}: {text}"


FAULTS = {  # folder: (fault of `train --plant`, what is said)
    "exits": ("1 25 computing exit", r"rank 1 on \S+ .*(without a word|its process is gone)"),
    "leaves": ("1 25 computing leave", r"rank 1 on \S+ \(pid \d+\) is computing '.+', step 25"),
    "aborts": ("1 25 computing abort", r"rank 1 on \S+ .*(was ended by signal 6 \(Aborted\)|its process is gone)"),
    "sleeps": ("1 25 reading sleep:30", r"rank 1 on \S+ \(pid \d+\) is reading data, step 25"),
    "stops": ("1 41 reading stop", r"rank 1 on \S+ \(pid \d+\): its process is stopped"),
    "skips": ("1 25 computing skip", r"rank \d on \S+: internal error: ranks are out of step: rank \d is in "),
}


def check_planted():
    """Each fault is named, and a restart ends well; two jobs at a time."""
    waiting, running = list(FAULTS), []
    while waiting or running:
        if waiting and len(running) < 2:
            name = waiting.pop(0)
            running.append((name, supervised.Supervised(name, "-n", 2, "--max-restarts", 1, "--restart-delay", 0, "--plant", FAULTS[name][0],
                                                        "run.step_timeout=3", "training.steps=60")))
            continue
        name, run = running.pop(0)
        run.end(0)
        assert re.search(FAULTS[name][1] + r"[^\n]*; restart 1 of 1 in 0 s", run.said()), f"{name}: {run.said()}"
        assert len(run.jobs()) == 2, run.said()
        ended[name] = 60


def check_saves():
    """A rank that finds the disk full, and one that crashes in malloc, where it cannot be asked for memory any more."""
    def fault(folder, kind):
        return supervised.Supervised(folder, "-n", 2, "--max-restarts", 1, "--restart-delay", 0, "training.steps=60", extra={
            "LD_PRELOAD": os.environ["TESSERA_FAULT_IO"], "FAULT_FOLDER": f"{folder}/checkpoints", "FAULT_RANK": "1",
            "FAULT_AT": "12", "FAULT_KIND": kind, "FAULT_ONCE": os.path.abspath(f"{folder}.once")})

    full, heap = fault("full", "ENOSPC"), fault("heap", "abort")
    full.end(0)
    expect(full.said(), "was not saved: rank 1: cannot ", "No space left on device", "restart 1 of 1 in 0 s")
    heap.end(0)
    assert re.search(r"rank 1 on \S+ .*(was ended by signal 6 \(Aborted\)|its process is gone)[^\n]*; restart 1 of 1", heap.said()), heap.said()
    ended.update({"full": 60, "heap": 60})


def check_same_step():
    """What fails three times at the same step is not tried a fourth time."""
    fault = {"LD_PRELOAD": os.environ["TESSERA_FAULT_IO"], "FAULT_FOLDER": "same/checkpoints", "FAULT_RANK": "1",
             "FAULT_AT": "3", "FAULT_KIND": "kill"}
    run = supervised.Supervised("same", "-n", 2, "--max-restarts", 9, "--restart-delay", 0, "training.steps=5",
                                "checkpoint.asynchronous=false", "checkpoint.interval=0", extra=fault)
    run.end(4)
    expect(run.said(), "restart 2 of 9", "step 5 failed 3 times on rank 1")
    assert "restart 3 of 9" not in run.said() and len(run.jobs()) == 3, run.said()


def check_no_restart():
    """A wrong config and a missing file are not tried again; without --max-restarts a lost rank is not either."""
    run = supervised.Supervised("config", "-n", 2, "--max-restarts", 5, "model.n_heads=5")
    run.end(2)
    expect(run.said(), "5 heads")
    assert len(run.jobs()) == 1, run.said()
    run = supervised.Supervised("data", "-n", 2, "--max-restarts", 5, 'data.files=["nowhere.txt"]')
    run.end(3)
    assert len(run.jobs()) == 1, run.said()
    run = supervised.Supervised("once", "-n", 2)
    try:
        run.wait_for_attempt(1)
        again = runs.tessera("launch", "-n", "2", "gpt.toml", "run.folder=once", code=2)
        expect(again.err, f"once is being trained already, by process {run.process.pid} on {os.uname().nodename}, job {run.jobs()[0]}")
        run.strike(1, signal.SIGKILL, lambda: run.process.poll() is not None)
        run.end(4)
    finally:
        run.abandon()
    assert run.said().splitlines()[-1].startswith(f"tessera launch: rank 1 on {os.uname().nodename} "), run.said()


def check_launcher_killed():
    """Ranks do not outlive a launcher that is killed, and the next one, started at once, waits for them."""
    run = supervised.Supervised("orphan", "-n", 2)
    try:
        run.wait_for_attempt(1)
        run.wait_between_saves()
        run.process.kill()
        run.process.wait()
        again = supervised.Supervised("orphan", "-n", 2)
        again.wait_for_attempt(2)
        left = {pid: words for pid, words in supervised.processes_of(run.jobs()[0]).items() if "mpirun" in words}
        assert not left, left
        again.wait_between_saves()
        ended["orphan"] = again.stop()
    finally:
        run.abandon()


with runs.folder():
    runs.write_text("text.txt", 9_000)
    runs.write_config("gpt.toml", supervised.KEYS)
    # Asleep for less than its deadline, while all that follows is checked: nothing happens.
    patient = supervised.Supervised("patient", "-n", 2, "--max-restarts", 1, "--plant", "1 25 reading sleep:30", "run.step_timeout=600",
                                    "training.steps=60")
    checks = [check_struck, check_planted, check_saves, check_same_step, check_no_restart, check_launcher_killed]
    for check in checks:
        begin = time.monotonic()
        check()
        print(f"{check.__name__}: {time.monotonic() - begin:.1f} s", flush=True)
    patient.end(0)
    assert len(patient.jobs()) == 1 and "rank 1" not in patient.said(), patient.said()
    ended["patient"] = 60
    supervised.expect_bits_of_undisturbed(ended)
print("every fault was named, and the bits are those of an undisturbed run:", ended)

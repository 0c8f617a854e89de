# SPDX-License-Identifier: Apache-2.0
"""A run over four pretend hosts: the map of its ranks; ranks on other hosts that are killed and stopped; a cable that is out
for five seconds; a host that is gone for good, which is named with its ranks, and the run goes on without it, in another
layout, to the bits of one that was left alone. Skipped where there can be no network namespaces."""
import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import pretend_hosts
import runs
import supervised

STEP_TIMEOUT = 12  # seconds: longer than a cable is out for; mpirun gives a host up after 10 to 15, so either may be first
SLOTS = [1, 1, 3, 1]  # ranks of each host
FIXED = ["parallelism.pipeline_parallel_degree=2", "parallelism.data_parallel_degree=3"]  # runs on six ranks only


def one_each(hosts, names):
    return ["--hosts", ",".join(names), "--remote-shell", hosts.shell]


def places(hosts):
    """The host of each rank."""
    return [name for name, slots in zip(hosts.names, SLOTS) for _ in range(slots)]


def check_map(hosts, where):
    shown = subprocess.run([*hosts.on(0), runs.PROGRAM, "launch", *where, "-t", "1", "--interface", "eth0", "--dry-run", "gpt.toml"],
                           env=runs.environment({"NCCL_DEBUG": "WARN"}), capture_output=True, text=True, timeout=60, check=True).stdout
    for number, name in enumerate(hosts.names):
        assert f"\nrank {number} on {name}: core " in shown, shown
    assert f"--mca plm_rsh_agent {hosts.shell} " in shown and "\npassed on: NCCL_DEBUG=WARN" in shown, shown


def check_verify(hosts, where):
    """All the ways between hosts carry what they should."""
    said = subprocess.run([*hosts.on(0), runs.PROGRAM, "verify", *where, "-t", "3", "--interface", "eth0", "gpt.toml",
                           "parallelism.tensor_parallel_degree=2"], env=runs.environment({"OMPI_MCA_btl": "self,vader,tcp"}),
                          capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 0 and "3 steps: all agree" in said.stdout, said


def check_struck(hosts):
    """A rank that the launcher cannot see is killed, and one is stopped: each is named, and nothing of its job is left. On the
    three hosts that stay, beside the other check, as all of it is waiting."""
    struck = [hosts.names[number] for number in (0, 1, 3)]
    run = supervised.Supervised("struck", *one_each(hosts, struck), "-t", 3, "--interface", "eth0", "--max-restarts", 5, "--restart-delay", 0,
                                "run.step_timeout=3", before=hosts.on(0), extra={"OMPI_MCA_btl": "self,vader,tcp"})
    try:
        for attempt, (rank, which) in enumerate([(1, signal.SIGKILL), (2, signal.SIGSTOP)], 1):
            run.wait_for_attempt(attempt)
            run.wait_between_saves()
            # Nobody on its host is there to end one that is stopped: mpirun does, 4 s after it is told to.
            run.strike(rank, which, lambda: f"restart {attempt} of 5 in 0 s" in run.said(), limit=30)
            line = [line for line in run.said().splitlines() if f"restart {attempt} of 5" in line][0]
            assert f"rank {rank} on {struck[rank]} " in line, line
            left = supervised.processes_of(run.jobs()[attempt - 1])
            assert not left, f"of attempt {attempt} are left: {left}"
        run.wait_for_attempt(3)
        run.wait_for_steps(5)
        return run.stop()
    finally:
        run.abandon()


def check_unplugged(hosts, where):
    run = supervised.Supervised("spread", *where, "-t", 3, "--interface", "eth0", "--max-restarts", 5, "--min-ranks", 3,
                                f"run.step_timeout={STEP_TIMEOUT}", *FIXED, before=hosts.on(0),
                                extra={"OMPI_MCA_btl": "self,vader,tcp"})
    try:
        run.wait_for_attempt(1)
        run.wait_between_saves()
        assert {rank: host for rank, (host, _) in run.ranks().items()} == dict(enumerate(places(hosts))), run.ranks()
        hosts.unplug(2)
        time.sleep(5)
        hosts.plug(2)
        run.wait_between_saves()
        assert len(run.jobs()) == 1 and "restart" not in run.said(), run.said()

        hosts.unplug(2)
        begin = time.monotonic()
        # The ranks themselves say the one, mpirun's words become the other.
        verdict = re.compile(rf"host {hosts.names[2]} with ranks 2, 3, 4 does not answer|ranks 2, 3, 4 on {hosts.names[2]}: the host does not")
        run.wait_for("a verdict", lambda: verdict.search(run.said()))
        named = time.monotonic() - begin
        run.wait_for_attempt(2)
        run.wait_for_steps(25)
        going_on = time.monotonic() - begin
        assert named < STEP_TIMEOUT + 15, f"named after {named:.1f} s: {run.said()}"
        assert [host for host, _ in run.ranks().values()] == [hosts.names[number] for number in (0, 1, 3)], run.ranks()
        reached = run.stop()
    finally:
        run.abandon()
    said = run.said()
    assert f"{hosts.names[2]} does not answer: connect to host {hosts.names[2]}: no route to host" in said, said
    on = ",".join(f"{hosts.names[number]}:1" for number in (0, 1, 3))
    assert f"going on with 3 of 6 ranks on {on}, with parallelism.pipeline_parallel_degree=1\n" in said, said
    print(f"unplugged for good: named after {named:.1f} s (deadline {STEP_TIMEOUT} s), 25 steps on three hosts after {going_on:.1f} s")
    print("\n".join(line for line in said.splitlines() if "from the last step to the next" in line))
    hosts.plug(2)
    return reached


reason = pretend_hosts.why_not()
if reason:
    print(f"skipped: {reason}")
    sys.exit(77)
with runs.folder(), pretend_hosts.Hosts(4) as four:
    runs.write_text("text.txt", 9_000)
    runs.write_config("gpt.toml", supervised.KEYS)
    with open("hosts.txt", "w", encoding="utf-8") as file:
        file.write("# six ranks\n" + "".join(f"{name} slots={slots}\n" for name, slots in zip(four.names, SLOTS)))
    options = ["--hostfile", "hosts.txt", "--remote-shell", four.shell]
    check_map(four, one_each(four, four.names))
    check_verify(four, options)
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        struck = beside.submit(check_struck, four)
        spread = check_unplugged(four, options)
        supervised.expect_bits_of_undisturbed({"struck": struck.result(), "spread": spread})
print("a run over four hosts goes on after lost ranks, five seconds without a host, and without it on three, to the same bits")

# SPDX-License-Identifier: Apache-2.0
"""A run over four pretend hosts: the map of its ranks; a cable that is out for five seconds; a host that is gone for good,
which is named with its rank, and the run goes on without it to the bits of one that was left alone. Skipped where there
can be no network namespaces."""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import pretend_hosts
import runs
import supervised

STEP_TIMEOUT = 12  # seconds: longer than a cable is out for; mpirun gives a host up after 10 to 15, so either may be first


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


def check_unplugged(hosts, where):
    run = supervised.Supervised("spread", *where, "-t", 3, "--interface", "eth0", "--max-restarts", 5, "--min-ranks", 3,
                                f"run.step_timeout={STEP_TIMEOUT}", before=hosts.on(0),
                                extra={"OMPI_MCA_btl": "self,vader,tcp"})
    try:
        run.wait_for_attempt(1)
        run.wait_between_saves()
        assert {rank: host for rank, (host, _) in run.ranks().items()} == dict(enumerate(hosts.names)), run.ranks()
        hosts.unplug(2)
        time.sleep(5)
        hosts.plug(2)
        run.wait_between_saves()
        assert len(run.jobs()) == 1 and "restart" not in run.said(), run.said()

        hosts.unplug(2)
        begin = time.monotonic()
        run.wait_for("a verdict", lambda: f"rank 2 on {hosts.names[2]}" in run.said())
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
    assert "going on with 3 of 4 ranks on " in said, said
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
        file.write("# one rank each\n" + "".join(f"{name} slots=1\n" for name in four.names))
    options = ["--hostfile", "hosts.txt", "--remote-shell", four.shell]
    check_map(four, options)
    check_verify(four, options)
    supervised.expect_bits_of_undisturbed({"spread": check_unplugged(four, options)})
print("a run over four hosts goes on after five seconds without one, and without it on three, to the same bits")

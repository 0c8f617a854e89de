# SPDX-License-Identifier: Apache-2.0
"""Jobs of `tessera submit` on a private Slurm of several nodes: the time limit's signal, preemption, a node that dies, an
array, a chain, errors that must not come again, and the examples of cluster/. Each run that went back to the queue ends with
the bits of one that was left alone."""
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs
import slurm

EXAMPLES = pathlib.Path(os.environ["TESSERA_SOURCE"], "cluster")
ROUND = 500  # the runs end at multiples of it, where the undisturbed one has checkpoints
PATIENCE = 200  # seconds
LONG = "TESSERA_LONG_TESTS" in os.environ  # waits for Slurm to find out by itself
KEYS = {
    "data.files": ["text.txt"],
    "model.n_layers": 1, "model.n_heads": 2, "model.dim": 32, "model.dropout": 0.1,
    "training.steps": 100_000_000,  # no run ends by itself while a test waits to interrupt it
    "training.seq_len": 16, "training.global_batch_size": 16, "training.local_batch_size": 1,
    "lr_scheduler.warmup_steps": 10, "lr_scheduler.decay_steps": 60,  # whatever the last step is
    "metrics.evaluate_every": 0, "metrics.log_every": 1000, "checkpoint.interval": 0,
}


def submit(here, *words, code=0):
    """The numbers of the jobs."""
    done = subprocess.run([runs.PROGRAM, "submit", *words], env=here.environment, capture_output=True, text=True,
                          timeout=slurm.PATIENCE, check=False)
    assert done.returncode == code, f"submit {words}: {done.returncode}: {done.stdout}{done.stderr}"
    return re.findall(r"\d+", done.stdout.splitlines()[0].partition(": job ")[2])


def log(folder):
    path = pathlib.Path(folder, "job.log")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def steps_of(folder):
    path = pathlib.Path(folder, "metrics.jsonl")
    return path.read_bytes().count(b'"kind":"step"') if path.exists() else 0


class Interrupted:
    """A job whose run never ends by itself, until it has been interrupted; its config then names a last step."""

    def __init__(self, here, name, *words):
        self.here, self.name, self.sent_back = here, name, set()
        runs.write_config(f"{name}.toml", KEYS)
        self.number = submit(here, "--time", "30", *words, f"{name}.toml", f"run.folder={name}")[0]

    def wait_for_steps(self):
        self.here.wait_until(lambda: steps_of(self.name) >= 10 or self.state() == "FAILED", f"steps of {self.name}")
        assert self.state() == "RUNNING", log(self.name)

    def state(self):
        return self.here.job(self.number).get("JobState", "")

    def nodes(self):
        return self.here.ask("scontrol", "show", "hostnames", self.here.job(self.number)["NodeList"]).split()

    def is_back(self):
        """Whether the job is in the queue again; if so, its config names the last step before it starts again."""
        job = self.here.job(self.number)
        assert not self.has_ended(), f"{job}\n{log(self.name)}"
        if job["Restarts"] != "0" and job["JobState"] == "RUNNING":
            self.send_back(int(job["Restarts"]) + 1)
        if job["Restarts"] == "0" or job["JobState"] != "PENDING":
            return False
        self.saved = runs.newest(self.name) if runs.checkpoints(self.name) else 0
        self.last = (self.saved + 10 + ROUND - 1) // ROUND * ROUND
        runs.write_config(f"{self.name}.toml", {**KEYS, "training.steps": self.last})
        return True

    def send_back(self, start):
        """It was in the queue and began again before anybody looked: once it trains, it is asked to stop once more."""
        if start not in self.sent_back and "memory per rank" in log(self.name).partition(f"job {self.number}: start {start} on ")[2]:
            self.sent_back.add(start)
            self.here.ask("scancel", "--batch", "--signal=USR1", self.number)

    def has_ended(self):
        return self.state() in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

    def ends_well(self):
        self.here.wait_until(self.has_ended, f"the end of {self.name}", PATIENCE)
        said = log(self.name)
        assert self.state() == "COMPLETED", f"{self.here.job(self.number)}\n{said}"
        assert f"job {self.number}: start 1 on " in said and f"job {self.number}: start 2 on " in said, f"not one log: {said}"


def is_undisturbed(folder, step, seed=1):
    """Weights and states are those of a run that was left alone, on one rank."""
    runs.tessera("checkpoint", "diff", f"{folder}/checkpoints/step-{step:08d}", f"whole-{seed}/checkpoints/step-{step:08d}")


def check_interruptions(here):
    """Three jobs side by side; and of an array each task its own run."""
    limit = Interrupted(here, "limit", "--nodes", "2", "--signal-before", "1700", "--ranks-per-node", "2")
    lost = Interrupted(here, "lost", "--nodes", "2", "--sbatch-option=--exclusive")
    low = Interrupted(here, "low", "--nodes", "1", "--ranks-per-node", "2", "--sbatch-option=--exclusive")
    runs.write_config("short.toml", {**KEYS, "training.steps": ROUND})
    array = submit(here, "--ranks-per-node", "2", "--sweep", "training.seed=1,2", "short.toml", "run.folder=swe;ep")[0]
    for job in (limit, lost, low):
        job.wait_for_steps()

    gone = lost.nodes()[-1]
    here.lose_node(gone)
    urgent = here.ask("sbatch", "--parsable", "-p", "urgent", "-w", low.nodes()[0], "--exclusive", "-o", "/dev/null",
                      "--wrap", "sleep 2").strip()
    if LONG:  # less time is left now than what the job wants to be told before; Slurm looks every 30 s
        here.ask("scontrol", "update", f"JobId={limit.number}", "TimeLimit=29")
    else:
        here.ask("scontrol", "update", f"NodeName={gone}", "State=DOWN", "Reason=test")  # what Slurm finds in 30 s
        here.ask("scancel", "--batch", "--signal=USR1", limit.number)  # what --signal=B:USR1 sends

    running = [low, lost, limit]
    until = time.monotonic() + PATIENCE
    while running:
        running = [job for job in running if not job.is_back()]
        assert time.monotonic() < until, "\n".join(f"{here.job(job.number)}\n{log(job.name)}" for job in running)
        time.sleep(0.1)
    assert low.saved > 0 and limit.saved > 0, "stopped without a checkpoint"
    for job in (low, lost, limit):
        job.ends_well()
    assert here.job(urgent)["JobState"] == "COMPLETED", here.job(urgent)
    for job in (low, limit):
        assert "the run ended with code 75" in log(job.name) and "resumed from" in log(job.name), log(job.name)
    assert gone not in lost.nodes(), f"{gone} is dead"
    here.wait_until(lambda: here.ask("squeue", "-h", "-j", array) == "", "the end of the array", PATIENCE)

    steps = max(job.last for job in (low, lost, limit))
    runs.write_config("whole.toml", KEYS)
    runs.train("whole.toml", "run.folder=whole-1", f"training.steps={steps}", f"checkpoint.interval={ROUND}", "checkpoint.keep_latest_k=0")
    runs.train("whole.toml", "run.folder=whole-2", f"training.steps={ROUND}", "training.seed=2")
    for job in (low, lost, limit):
        is_undisturbed(job.name, job.last)
    for task in (0, 1):
        is_undisturbed(f"swe;ep/{task}", ROUND, seed=task + 1)
        assert "the run ended with code 0" in log(f"swe;ep/{task}"), log(f"swe;ep/{task}")


def check_ends(here):
    """Errors that a person must mend end a job at once, and who follows it gets the code; a chain goes on by itself."""
    runs.write_config("short.toml", {**KEYS, "training.steps": 20})
    runs.write_config("chain.toml", KEYS)
    runs.write_config("diverges.toml", {**KEYS, "training.steps": 50, "optimizer.lr": 1e30,
                                      "lr_scheduler.warmup_steps": 0})
    followed = subprocess.Popen([runs.PROGRAM, "submit", "--follow", "diverges.toml"], env=here.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    left = subprocess.Popen([runs.PROGRAM, "submit", "--follow", "--sbatch-option=--begin=now+1hour", "short.toml", "run.folder=later"],
                            env=here.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    chain = submit(here, "--chain", "3", "--ranks-per-node", "2", "chain.toml", "run.folder=chain")
    assert len(chain) == 3
    here.wait_until(lambda: steps_of("chain") >= 10, "steps of the chain")
    last = (steps_of("chain") // ROUND + 3) * ROUND  # where its second job ends; the first is told to stop before
    runs.write_config("chain.toml", {**KEYS, "training.steps": last})
    here.ask("scancel", "--batch", "--signal=USR1", chain[0])
    time.sleep(1)
    left.send_signal(signal.SIGINT)
    said = left.communicate(timeout=PATIENCE)[0]
    assert left.returncode == 130 and "no longer followed; to end it: scancel" in said, said
    number = re.search(r"job (\d+)", said).group(1)
    assert here.job(number)["JobState"] == "PENDING", "Ctrl-C ended the job"
    here.ask("scancel", number)
    said = followed.communicate(timeout=PATIENCE)[0]
    assert followed.returncode == 5, f"{followed.returncode}: {said}"
    assert "diverged at step" in said and "FAILED" in said and "start 2" not in said, said
    here.wait_until(lambda: here.ask("squeue", "-h") == "", "the end of the chain", PATIENCE)
    assert "nothing is left to train" in log("chain") and log("chain").count("the run ended with code 0") == 2, log("chain")
    assert log("chain").count("the run ended with code 75") == 1 and "resumed from" in log("chain"), log("chain")
    if not os.path.exists(f"whole-1/checkpoints/step-{last:08d}"):
        runs.train("whole.toml", "run.folder=whole-1", f"training.steps={last}", f"checkpoint.interval={ROUND}", "checkpoint.keep_latest_k=0")
    is_undisturbed("chain", last)


def check_examples(here):
    """Each is what submit writes for the command in its second line, and runs as it stands, with small configs in the place
    of the large ones."""
    os.makedirs("examples/build")
    os.makedirs("examples/configs")
    os.chdir("examples")
    os.symlink(runs.PROGRAM, "build/tessera")
    os.symlink("../text.txt", "text.txt")
    numbers = {}
    for path in sorted(EXAMPLES.glob("*.sbatch")):
        text = path.read_text(encoding="utf-8")
        words = shlex.split(text.splitlines()[1].removeprefix("# tessera submit "))
        config = next(word for word in words if word.startswith("configs/"))
        runs.write_config(config, {**KEYS, "training.steps": 5, "training.global_batch_size": 48})
        written = runs.tessera("submit", "--dry-run", *words).out
        written = re.sub(r"^tessera=.*", "tessera=build/tessera", written.replace("# tessera submit --dry-run ", "# tessera submit "), flags=re.MULTILINE)
        assert written == text, f"{path}: submit writes now:\n{written}"
        for folder in set(re.findall(r'^#SBATCH --output="(.*)/job.log"', text, re.MULTILINE)):
            for task in range(4 if "%a" in folder else 1):
                os.makedirs(folder.replace("%a", str(task)), exist_ok=True)
        numbers[path.name] = here.ask("sbatch", "--parsable", str(path)).strip()
        assert numbers[path.name].isdigit(), path
    assert {"chain.sbatch", "gpus.sbatch", "nodes.sbatch", "one_node.sbatch", "preemptible.sbatch", "sweep.sbatch"} == set(numbers)
    here.wait_until(lambda: here.ask("squeue", "-h") == "", "the end of the examples", PATIENCE)
    logs = [log(folder.parent) for folder in pathlib.Path("runs").rglob("job.log")]
    assert len(logs) == 9 and all("the run ended with code 0" in said for said in logs), "\n".join(logs)
    os.chdir("..")


with slurm.cluster(nodes=6) as cluster, runs.folder():
    runs.write_text("text.txt", 9_000)
    check_interruptions(cluster)
    check_ends(cluster)
    check_examples(cluster)
print("jobs that were signalled, preempted or lost a node end with the bits of a run that was left alone")

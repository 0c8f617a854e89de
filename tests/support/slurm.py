# SPDX-License-Identifier: Apache-2.0
"""A private Slurm with several nodes on this one machine, for as long as a test needs it. Needs root and the packages
slurm-wlm and munge; no systemd, cgroups, accounting or network. Each slurmd has a hostname of its own (a UTS namespace), and
all listen on 127.0.0.1; ports, folder and names come from this process's id.

    with slurm.cluster(nodes=3) as here:          # exits with 77 where there can be none
        here.ask("sinfo")
        here.lose_node("n2")
"""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "unshare")
PATIENCE = 90  # seconds; a cluster is up in one where nothing else runs
CONFIG = """\
ClusterName=c{pid}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5,socket={folder}/munge.sock
CredType=cred/munge
MailProg=/bin/true
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}/tmp.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SwitchType=switch/none
MpiDefault=pmix
ReturnToService=2
GresTypes=gpu
SlurmdParameters=config_overrides
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
InactiveLimit=0
MinJobAge=600
SlurmctldTimeout=10
SlurmdTimeout=5
MessageTimeout=20
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def free_ports(count):
    """The first of so many that nobody listens on, one after the other."""
    first = 20_000 + os.getpid() * 16 % 10_000
    while first < 32_000:
        try:
            for port in range(first, first + count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
            return first
        except OSError:
            first += count
    raise AssertionError("no free ports")


class Cluster:
    def __init__(self, nodes, cpus):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.names = [f"n{number + 1}" for number in range(nodes)]
        self.started = {}  # by name
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "OMP_WAIT_POLICY": "passive",
                            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                            "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_btl_tcp_if_include": "lo"}
        self.write_config(cpus)

    def write_config(self, cpus):
        port = free_ports(len(self.names) + 1)
        lines = [CONFIG.format(pid=os.getpid(), host=socket.gethostname(), port=port, folder=self.folder)]
        for number, name in enumerate(self.names):
            lines.append(f"NodeName={name} NodeAddr=127.0.0.1 Port={port + 1 + number} Sockets=1 CoresPerSocket={cpus} "
                         "ThreadsPerCore=1 RealMemory=500 Gres=gpu:4 State=UNKNOWN\n")
            (self.folder / f"spool.{name}").mkdir()
            (self.folder / f"tmp.{name}").mkdir()  # of its own: where PMIx has the names of jobs
        (self.folder / "slurm.conf").write_text("".join(lines))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # never used; else slurmd asks dbus for v2
        for gpu in range(4):  # devices that are there, so that four GPUs can be asked for
            os.mknod(self.folder / f"gpu{gpu}", 0o600 | 0o020000, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-3]\n")
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self.folder.chmod(0o755)

    def start(self, name, *command):
        with open(self.folder / f"{name}.out", "ab") as out:
            self.started[name] = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out,
                                                  stderr=subprocess.STDOUT, start_new_session=True)

    def start_node(self, name):
        self.start(name, "unshare", "--uts", "sh", "-c", f"hostname {name} && exec slurmd -D -N {name}")

    def start_all(self):
        folder = self.folder
        self.start("munged", "munged", "--force", "--foreground", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.sock",
                   f"--log-file={folder}/munged.log", f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed")
        self.wait_until((folder / "munge.sock").exists, "munged to listen")
        self.start("slurmctld", "slurmctld", "-D", "-c")
        for name in self.names:
            self.start_node(name)
        self.wait_until(lambda: self.idle_nodes() == len(self.names), "idle nodes")

    def ask(self, *words):
        return subprocess.run(words, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
                              check=False).stdout

    def idle_nodes(self):
        return sum(int(line) for line in self.ask("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D").split())

    def job(self, number):
        """What Slurm tells of a job: {"JobState": "RUNNING", …}."""
        words = self.ask("scontrol", "show", "job", "-o", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_until(self, found, what, patience=PATIENCE):
        until = time.monotonic() + patience
        while not found():
            assert time.monotonic() < until, f"waited {patience} s for {what}: {self.ask('squeue')}{self.ask('sinfo')}{self.logs()}"
            time.sleep(0.1)

    def logs(self):
        return "".join(f"{path.name}:\n{path.read_text(errors='replace')[-400:]}" for path in sorted(self.folder.glob("*.log")))

    def processes(self, of_node=None):
        """All that belong to this cluster: by its configuration in their environment; or those of one node."""
        mark, node = str(self.folder / "slurm.conf").encode(), f"SLURMD_NODENAME={of_node}".encode()
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"SLURM_CONF=" + mark not in environment or int(entry.name) == os.getpid():
                continue
            is_daemon = of_node and words[0].endswith((b"slurmd", b"sh", b"unshare")) and of_node.encode() in b" ".join(words).split()
            stepd = of_node and b"slurmstepd" in words[0] and self.node_of(entry) == of_node
            if of_node is None or node in environment or is_daemon or stepd:
                found.append(int(entry.name))
        return found

    @staticmethod
    def node_of(entry):
        """The hostname in a process's own UTS namespace."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(["nsenter", "-t", entry.name, "--uts", "hostname"], capture_output=True, text=True, timeout=10,
                                  check=False).stdout.strip()
        return ""

    def kill(self, **of):
        for _ in range(50):
            left = self.processes(**of)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self.started.values():
                process.poll()  # takes its end
            if not left:
                return
            time.sleep(0.1)
        raise AssertionError(f"processes that do not die: {left}")

    def lose_node(self, name):
        """As a machine loses power: nothing of it is left, and nobody is told."""
        self.kill(of_node=name)

    def end(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def end_with_this_process(self):
        """Ends all of it, too, where this process is killed: by one of its own that sees a pipe closed."""
        reading, self.alive = os.pipe()
        if os.fork() > 0:
            os.close(reading)
            return
        os.setsid()
        os.close(self.alive)
        os.read(reading, 1)
        with contextlib.suppress(BaseException):
            self.end()
        os._exit(0)


@contextlib.contextmanager
def cluster(nodes, cpus=8):
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        skip(f"no {', '.join(missing)} here (packages slurm-wlm and munge)")
    if os.geteuid() != 0:
        skip("a private Slurm needs root")
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode != 0:
        skip("this kernel, or container, allows no UTS namespaces")
    here = Cluster(nodes, cpus)
    here.end_with_this_process()
    try:
        here.start_all()
        yield here
    finally:
        here.end()

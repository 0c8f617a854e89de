# SPDX-License-Identifier: Apache-2.0
"""Hosts on one machine: network namespaces, each with a network and a name of its own, on a switch that leads nowhere
else. Processes, /tmp and /dev/shm are shared. Needs root.

    with pretend_hosts.Hosts(4) as hosts:
        subprocess.run([*hosts.on(0), "hostname"])     # on the first; the caller's environment
        hosts.shell                                     # a program that stands for ssh: `SHELL HOST COMMAND`
        hosts.unplug(2)                                 # until plug(2); the shell does not get there either
"""
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time


def why_not():
    """A sentence when this machine cannot have them; "" when it can."""
    if os.geteuid() != 0:
        return "network namespaces want root"
    for program in ("ip", "unshare", "hostname"):
        if shutil.which(program) is None:
            return f"no program {program}"
    name = f"tessera{os.getpid()}t"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        tried = subprocess.run(["ip", "-n", name, "link", "add", "b0", "type", "bridge"], capture_output=True, text=True, check=False)
        subprocess.run(["ip", "netns", "del", name], check=False)
    return "" if tried.returncode == 0 else f"no network namespaces here: {tried.stderr.strip()}"


def ip(*words, check=True):
    subprocess.run(["ip", *words], check=check, stdout=subprocess.DEVNULL, stderr=None if check else subprocess.DEVNULL)


class Hosts:
    def __init__(self, count):
        self.names = [f"t{os.getpid()}h{number}" for number in range(1, count + 1)]
        self.switch = f"t{os.getpid()}switch"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-hosts-"))
        self.shell = str(self.folder / "shell")

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self):
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge", "up")
        for number, name in enumerate(self.names, 1):
            ip("netns", "add", name)
            ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"p{number}", "netns", self.switch)
            ip("-n", self.switch, "link", "set", f"p{number}", "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            known = pathlib.Path("/etc/netns", name)
            known.mkdir(parents=True)
            (known / "hosts").write_text("127.0.0.1 localhost\n" + "".join(
                f"10.77.0.{other} {host}\n" for other, host in enumerate(self.names, 1)))
        # As sshd does it: an environment of its own, and the command given to a shell.
        pathlib.Path(self.shell).write_text(f"""#!/bin/sh
host=$1
shift
if [ -e {self.folder}/unplugged/"$host" ]; then
    sleep 1
    echo "connect to host $host: no route to host" >&2
    exit 255
fi
exec env -i PATH="$PATH" HOME="$HOME" ip netns exec "$host" unshare --uts sh -c 'hostname "$0"; exec sh -c "$1"' "$host" "$*"
""")
        os.chmod(self.shell, 0o755)
        (self.folder / "unplugged").mkdir()

    def on(self, number):
        name = self.names[number]
        return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name]

    def unplug(self, number):
        (self.folder / "unplugged" / self.names[number]).touch()
        ip("-n", self.switch, "link", "set", f"p{number + 1}", "down")

    def plug(self, number):
        ip("-n", self.switch, "link", "set", f"p{number + 1}", "up")
        (self.folder / "unplugged" / self.names[number]).unlink()

    def processes(self):
        """Of all hosts."""
        found = [subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout for name in self.names]
        return [int(word) for text in found for word in text.split()]

    def __exit__(self, *error):
        for _ in range(100):
            for process in self.processes():
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not self.processes():
                break
            time.sleep(0.05)
        for name in [*self.names, self.switch]:
            ip("netns", "del", name, check=False)
            shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)
        try:
            os.rmdir("/etc/netns")
        except OSError:
            pass
        shutil.rmtree(self.folder, ignore_errors=True)

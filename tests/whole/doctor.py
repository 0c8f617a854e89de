# SPDX-License-Identifier: Apache-2.0
"""`tessera doctor` names a planted slow rank and its host, ranks bound to one core, a folder that others do not see, and a disk
that is too small; and of healthy ranks it says what it measured. Hosts are pretended by UTS namespaces, where the user may."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import pretend_hosts
import runs

KEYS = {
    "data.files": ["text.txt"], "model.n_layers": 1, "model.n_heads": 2, "model.dim": 32,
    "training.steps": 4, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2,
}
QUICK = ["--milliseconds", "10"]


def examined(command, code, **more):
    """The JSON that the ranks print, however they are started."""
    done = subprocess.run(command, env=runs.environment(more), stdin=subprocess.DEVNULL, capture_output=True, timeout=runs.TIMEOUT,
                          check=False)
    text = done.stdout.decode()
    assert code is None or done.returncode == code, f"{command}: {done.returncode}, expected {code}\n{text}{done.stderr.decode()}"
    found, end = json.JSONDecoder().raw_decode(text)
    assert done.returncode == (0 if found["ok"] else 1), text
    assert found["ok"] == (not any(finding["wrong"] for finding in found["findings"])), text
    return found


def check_started():
    """doctor starts its ranks; the page has all parts, and the JSON what was measured."""
    out = subprocess.run([runs.PROGRAM, "doctor", "-n", "2", "-t", "1", *QUICK, "gpt.toml"], env=runs.environment(), timeout=runs.TIMEOUT,
                         stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout.decode()
    for expected in ("2 ranks on 1 host\n", "  MPI ", "  PMIx ", "  HDF5 ", "  hwloc", "  tessera ", "limits: ", "all-reduce of 1 pair: ",
                     "all ranks read what rank 0 wrote", "checkpoints in ", "MPI with a GPU's memory: "):
        assert expected in out, f"expected '{expected}', found: {out}"
    assert re.search(r"^ +1 +\S+ +1 thread +[\d.]+ +[\d.]+ +-?[\d.]+$", out, re.MULTILINE), out
    assert not list(pathlib.Path(".").glob(".tessera-doctor-*"))
    found = examined([runs.PROGRAM, "doctor", "-n", "3", "-t", "1", "--json", *QUICK], None)
    assert [rank["rank"] for rank in found["ranks"]] == [0, 1, 2]
    assert sorted(tuple(pair["ranks"]) for pair in found["pairs"]) == [(0, 1), (0, 2), (1, 2)], found["pairs"]
    for rank in found["ranks"]:
        assert rank["flops"] > 1e6 and rank["memory_bandwidth"] > 1e6 and abs(rank["clock_ahead"]) < 1, rank
    assert all(pair["bytes_per_second"] > 1e5 and pair["seconds"] > 0 for pair in found["pairs"])


def check_planted():
    """A rank made slow, on a host of its own name where that can be."""
    words = [runs.PROGRAM, "doctor", "--json", *QUICK, "--plant", "slow:3"]
    can = subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode == 0
    there = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh"] if can else []
    found = examined([runs.MPIRUN, "2", *words, ":", "-n", "2", *there, *words], 1)
    host = "elsewhere" if can else found["ranks"][0]["host"]
    assert [rank["host"] for rank in found["ranks"]][2:] == [host, host]
    slow = [finding for finding in found["findings"] if finding["wrong"] and f"rank 3 on {host}: " in finding["what"]]
    assert slow and all(finding["hosts"] == [host] and finding["remedy"] for finding in slow), found["findings"]
    if can:
        assert "elsewhere" in found["exclude"] or found["exclude"] == "", found["exclude"]  # "" when the other host is noisy, too
        assert all(route["reached"] == ["elsewhere"] and not route["missed"] for route in found["routes"]), found["routes"]
    else:
        print("no UTS namespaces here: one host only")
        assert found["exclude"] == ""


def check_one_core():
    core = min(os.sched_getaffinity(0))
    found = examined([runs.MPIRUN, "2", "taskset", "-c", str(core), runs.PROGRAM, "doctor", "--json", *QUICK], None)
    expected = f"are bound to 1 core ({core})" if os.cpu_count() > 1 else f"share all 1 core ({core})"
    assert any(f"ranks 0, 1 on " in finding["what"] and expected in finding["what"] for finding in found["findings"]), found["findings"]


def check_folders():
    """A rank before whose eyes another folder is mounted, and a run whose checkpoints no disk holds."""
    pathlib.Path("shared").mkdir()
    pathlib.Path("hidden").mkdir()
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0:
        words = [runs.PROGRAM, "doctor", "--json", *QUICK, "--folder", "shared"]
        blind = ["unshare", "--mount", "sh", "-c", 'mount --bind hidden shared; exec "$@"', "sh"]
        found = examined([runs.MPIRUN, "1", *words, ":", "-n", "1", *blind, *words], 1)
        seen = [finding["what"] for finding in found["findings"] if "does not see" in finding["what"]]
        assert len(seen) == 1 and seen[0].startswith("rank 1 on ") and not list(pathlib.Path("shared").iterdir()), found["findings"]
    else:
        print("no mount namespaces here: folders that others do not see are not tried")
    free = shutil.disk_usage(".").free
    keep = free // 100_000 + 10  # a checkpoint has more bytes than that
    found = examined([runs.PROGRAM, "doctor", "--json", *QUICK, "gpt.toml", f"checkpoint.keep_latest_k={keep}"], 1)
    room = found["room"]
    run = runs.train("gpt.toml", "run.folder=run", "training.steps=1")
    saved = runs.metrics("run", "checkpoint")[-1]["bytes"]
    assert room["bytes"] == saved and room["checkpoints"] == keep + 1, (room, saved, run.out)
    assert any("bytes free" in finding["what"] and "checkpoint.keep_latest_k" in finding["remedy"] for finding in found["findings"])


def check_hosts():
    """Started on three hosts, each with a network of its own: the slow one is named, and the way between them found."""
    if pretend_hosts.why_not():
        print(pretend_hosts.why_not())
        return
    with pretend_hosts.Hosts(3) as hosts:
        found = examined([*hosts.on(0), runs.PROGRAM, "doctor", "--json", *QUICK, "--hosts", ",".join(hosts.names), "--remote-shell",
                          hosts.shell, "--interface", "eth0", "-t", "1", "--plant", "slow:2"], 1, OMPI_MCA_btl="self,vader,tcp")
        assert [rank["host"] for rank in found["ranks"]] == hosts.names, found["ranks"]
        assert [(route["interface"], route["address"], sorted(route["reached"])) for route in found["routes"]] == [
            ("eth0", "10.77.0.1", hosts.names[1:])], found["routes"]
        assert any(finding["hosts"] == [hosts.names[2]] and "rank 2 on " in finding["what"] for finding in found["findings"]), found
        assert all(abs(rank["clock_ahead"]) < 1 for rank in found["ranks"]), found["ranks"]


runs.PROGRAM = runs.REAL_PROGRAM  # which says of its libraries what they are
with runs.folder():
    runs.write_text("text.txt", 20_000)
    runs.write_config("gpt.toml", KEYS)
    check_started()
    check_planted()
    check_one_core()
    check_folders()
    check_hosts()
print("ok")

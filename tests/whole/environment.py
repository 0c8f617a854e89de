# SPDX-License-Identifier: Apache-2.0
"""Every variable of the environment that the sources name is in the list of README.md, and none else; and a run tells what the
user has told the libraries, but no secret."""
import os
import pathlib
import re
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

SOURCE = pathlib.Path(os.environ["TESSERA_SOURCE"])
FAMILIES = ("OMPI_MCA_", "OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "OMP_", "UCX_", "NCCL_", "CUDA_", "TESSERA_")
# What may stand where an environment is asked by a name; and names that are of a family wherever they stand.
ASKED = re.compile(r'(?:getenv|secure_getenv|environment|setenv|unsetenv|set_unless_set|variable)\((?:\w+, )?"([A-Za-z_][A-Za-z0-9_]*)"')
OF_A_FAMILY = re.compile(r'"((?:%s)[A-Za-z0-9_]*)"' % "|".join(FAMILIES))


def without_comments(text):
    return re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)


def names_in(text):
    return set(ASKED.findall(text)) | set(OF_A_FAMILY.findall(text))


def documented():
    """The first column of the table below the heading, each name in backquotes."""
    section = (SOURCE / "README.md").read_text(encoding="utf-8").split("## The environment\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([A-Za-z0-9_]+)`", row)}


def check_list():
    found = {}
    for floor in ("kernels", "parallel", "core", "launcher"):
        for path in sorted((SOURCE / floor).rglob("*")):
            if path.suffix in (".cpp", ".hpp", ".cu", ".cuh"):
                for name in names_in(without_comments(path.read_text(encoding="utf-8"))):
                    found.setdefault(name, path.relative_to(SOURCE))
    names = {name for name in found if not name.endswith("_") and name != "TESSERA_VERSION" and name not in FRAGMENTS}
    listed = documented()
    assert not names - listed, f"not in README.md: {sorted((name, str(found[name])) for name in names - listed)}"
    assert not listed - names, f"in README.md, but in no source: {sorted(listed - names)}"
    assert names_in('std::getenv("NEW_ONE")') == {"NEW_ONE"} and names_in('ask({"SLURM_NEW"})') == {"SLURM_NEW"}, "it finds nothing"
    assert len(names) > 10, names


# Openings of families of names, that are no name by themselves.
FRAGMENTS = {"OMPI_MCA_ess", "OMPI_MCA_pmix", "OMPI_MCA_plm", "OMPI_MCA_rmaps", "OMPI_MCA_initial_wdir"}


def check_log():
    run = runs.train("gpt.toml", "run.folder=run", ranks=2, extra={"NCCL_DEBUG": "WARN", "UCX_SECRET_KEY": "hush", "AWS_TOKEN": "hush"})
    line = [line for line in run.out.splitlines() if line.startswith("environment: ")]
    assert len(line) == 1 and "NCCL_DEBUG=WARN" in line[0] and "OMP_NUM_THREADS=1" in line[0] and "OMPI_MCA_btl=self,vader" in line[0], run.out
    assert "OMPI_MCA_ess" not in run.out and "orte" not in run.out, run.out
    everything = run.out + run.err + "".join(path.read_text(encoding="utf-8", errors="replace") for path in pathlib.Path("run").rglob("*")
                                             if path.is_file() and path.suffix in (".log", ".jsonl", ".json", ".toml", ".txt"))
    assert "hush" not in everything


check_list()
with runs.folder():
    runs.write_text("text.txt", 20_000)
    runs.write_config("gpt.toml", {"data.files": ["text.txt"], "model.n_layers": 1, "model.n_heads": 2, "model.dim": 32, "training.steps": 2,
                                   "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2})
    check_log()
print("ok")

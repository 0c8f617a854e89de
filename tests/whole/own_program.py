# SPDX-License-Identifier: Apache-2.0
"""The library as installed, and a program on it that adds a layer, an optimizer and a reader of its own: built as its
page says, trained on one rank and on two to the same bits, resumed, planned and verified."""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

SOURCE = os.path.join(os.environ["TESSERA_SOURCE"], "tests", "own_program")


def call(*words, code=0):
    done = subprocess.run(words, env=runs.environment(None), capture_output=True, text=True, timeout=runs.TIMEOUT, check=False)
    assert done.returncode == code, (words, done)
    return done.stdout + done.stderr


def build():
    call("cmake", "--install", os.environ["TESSERA_BUILD"], "--prefix", "installed")
    call("cmake", "-S", SOURCE, "-B", "own", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={os.getcwd()}/installed",
         "-DCMAKE_CXX_COMPILER_LAUNCHER=" + (shutil.which("ccache") or ""))
    call("cmake", "--build", "own", "-j", "2")
    return os.path.join(os.getcwd(), "own", "own_program")


with runs.folder():
    program = build()
    assert call("installed/bin/tessera", "--version").startswith("tessera "), "the installed program"
    config = os.path.join(SOURCE, "moons.toml")
    for ranks in (1, 2):
        call(program, "launch", "-n", str(ranks), config, f"run.folder=on{ranks}", "training.steps=200")
    runs.expect_same(runs.read("on1"), runs.read("on2"), "two ranks")
    call(program, "launch", "-n", "2", config, "run.folder=on2", "training.steps=300")
    accuracy = float(runs.metrics("on2", "evaluation")[-1]["accuracy"])
    assert accuracy > 0.92, accuracy
    assert "4 ranks" in call(program, "plan", "-n", "4", config, "parallelism.zero_stage=1")
    assert "all agree" in call(program, "verify", "-n", "2", config, "parallelism.tensor_parallel_degree=2")
    said = call(program, "config", "show", config, "data.moons=0")
    assert "data.moons" in said, said
    for wrong, sentence in (("data.moons=1", "command line: data.moons = 1: must be at least 2"),
                            ("data.mons=5", "data.moons"), ("optimizer.name=sign_decent", "sign_descent"),
                            ("data.reader=moon", "moons"), ("run.device=cuda", "")):
        assert sentence in call(program, "train", config, wrong, "run.folder=no", code=2), wrong
    # What it does not know, the built-in program refuses.
    assert "data.moons" in call(runs.PROGRAM, "train", config, code=2)
print(f"a program of its own: {accuracy:.3f} of unseen points right, the same bits on 1 and 2 ranks")

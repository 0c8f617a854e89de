# SPDX-License-Identifier: Apache-2.0
"""Other people's programs to compare with, which Debian has not: Python packages in pinned versions, put once into the build
folder, where the tests that want them find them. Where they cannot be had, the test is skipped with the reason.

    import peer_packages
    peer_packages.use("transformers")     # before its import; from then on `import transformers` works
"""
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

SKIPPED = 77
# Each with all that it imports and Debian's python3-torch does not bring along. transformers 4.46 is the last series that
# takes Debian 12's torch 1.13.
PACKAGES = {
    "onnxruntime": ["onnxruntime==1.19.2"],
    "sentencepiece": ["sentencepiece==0.2.0"],
    "transformers": ["transformers==4.46.3", "tokenizers==0.20.3", "safetensors==0.4.5", "huggingface-hub==0.26.5",
                     "filelock==3.16.1", "tqdm==4.66.6", "packaging==24.1", "regex==2024.9.11", "fsspec==2024.10.0",
                     "pyyaml==6.0.2", "requests==2.32.3", "urllib3==2.2.3", "idna==3.10", "certifi==2024.8.30",
                     "charset-normalizer==3.4.0", "typing-extensions==4.12.2"],
}
PACKAGES["tokenizers"] = PACKAGES["transformers"]


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


@contextlib.contextmanager
def only_one(path):
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install(packages, folder):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "15",
               "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(folder), *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"})
    except subprocess.TimeoutExpired:
        return "pip has not ended after 200 s"
    lines = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else lines[-1] if lines else f"pip ended with code {done.returncode}"


def use(name):
    reason = provide(name)
    if reason:
        skip(f"{PACKAGES[name][0]} cannot be had: {reason}")


def provide(name):
    """Why it cannot be had, or "": then it can be imported."""
    packages = PACKAGES[name]
    content = hashlib.sha256("\n".join([sys.version, *packages]).encode()).hexdigest()[:12]
    parent = pathlib.Path(os.environ["TESSERA_BUILD"], "peer_packages")
    folder = parent / content
    parent.mkdir(exist_ok=True)
    with only_one(parent / "lock"):
        if not folder.exists():
            unfinished = parent / f"{content}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            reason = install(packages, unfinished)
            if reason:
                return reason
            unfinished.rename(folder)
    sys.path.insert(0, str(folder))
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false",
                      HF_HUB_DISABLE_TELEMETRY="1")
    return ""

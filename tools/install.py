"""Make .venv and install the project into it, once: `python3 tools/install.py dev notebooks`.

Runs on any Python, so that an old Python gets a clear message. Does nothing when the same extras, pyproject.toml
and constraints.txt are installed already, so that later calls work offline.
"""

import hashlib
import os
import shutil
import subprocess
import sys

NEEDED_GIB = 4
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")


def stop(message):
    sys.stderr.write("mechocl: " + message + "\n")
    sys.exit(2)


def fingerprint(extras):
    digest = hashlib.sha256(" ".join(extras).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def main(extras):
    if sys.version_info < (3, 11):
        found = "%d.%d" % sys.version_info[:2]
        stop(
            "Python 3.11 or newer is needed, but this is "
            + found
            + "; name another: make PYTHON=python3.12 …"
        )
    stamp = os.path.join(VENV, "installed-" + "-".join(extras or ["base"]))
    wanted = fingerprint(extras)
    if os.path.exists(stamp):
        with open(stamp) as file:
            if file.read() == wanted:
                return
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < NEEDED_GIB:
        stop(
            "%.1f GiB are free here, but the installation needs about %d; make room first"
            % (free, NEEDED_GIB)
        )
    target = ROOT + ("[" + ",".join(extras) + "]" if extras else "")
    constraints = os.path.join(ROOT, "constraints.txt")
    steps = [
        [PYTHON, "-m", "pip", "install", "--quiet", "torch", "-c", constraints],
        [PYTHON, "-m", "pip", "install", "--quiet", "-e", target, "-c", constraints],
    ]
    if not os.path.exists(PYTHON):
        steps.insert(0, [sys.executable, "-m", "venv", VENV])
    print("installing into .venv (a few minutes the first time)", flush=True)
    for step in steps:
        if subprocess.run(step, check=False).returncode:
            stop("the installation failed (see above); after mending it, run the same command again")
    with open(stamp, "w") as file:
        file.write(wanted)


if __name__ == "__main__":
    main(sys.argv[1:])

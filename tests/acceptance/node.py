"""Node.js, with packages of a lock file."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

OLDEST = 20  # of Node.js, for the CloudEvents SDK


def node_with(packages: Path, folder: Path, otherwise: str) -> str:
    """Return Node.js's path, with the packages of a folder's lock file installed into another.

    The test is skipped without Node.js, and says what is not done otherwise.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    reason = _why_not(node, npm)
    if node is None or npm is None or reason is not None:
        pytest.skip(
            f"{reason}, so {otherwise}: install Node.js {OLDEST} or newer with npm "
            f"(Debian 13: apt-get install nodejs npm)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock = (packages / "package-lock.json").read_bytes()
    installed = folder / "installed.json"  # a copy of the lock file, written when all is there
    with (folder / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_bytes() != lock:
            for file in packages.glob("package*.json"):
                shutil.copy(file, folder)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"npm ci in {folder} failed:\n{done.stderr}"
            installed.write_bytes(lock)
    return node


def _why_not(node: str | None, npm: str | None) -> str | None:
    if node is None or npm is None:
        return f"no {'npm' if node else 'node'}"
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    major = int(said.removeprefix("v").partition(".")[0])
    return f"{node} is {said.strip()}" if major < OLDEST else None

"""Locked npm packages for tests, installed once per machine outside the checkout."""

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path


def install(source: Path) -> Path:
    """`npm ci` of a folder with package.json and package-lock.json; returns the folder that has node_modules."""
    lock = (source / "package-lock.json").read_bytes()
    folder = Path(tempfile.gettempdir()) / f"relay-node-{hashlib.sha256(lock).hexdigest()[:16]}"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (folder / ".done").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, folder / name)
            subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"],
                cwd=folder,
                check=True,
                capture_output=True,
            )
            (folder / ".done").touch()
    return folder

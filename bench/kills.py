"""Kill a small pipeline again and again: are its tables those of an undisturbed one?

    python -m bench.kills FOLDER [COUNT]

Makes two copies of the project with the smoke profile under FOLDER. One runs undisturbed; the other
is killed COUNT times (default 20), in turn as a whole and only in the kernel that computes, at
moments drawn at random, and started again each time with the same command. Prints where it was hit.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil

from lib import paths
from lib.stages.copy import make_copy

COMMAND = [sys.executable, "-m", "lib.stages.repro"]


def start(copy: Path) -> subprocess.Popen:
    """The pipeline of a copy, in the background."""
    programs = Path(sys.executable).parent
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(copy)}
    with (copy / "run.log").open("a") as log:
        return subprocess.Popen(COMMAND, cwd=copy, env=os.environ | env, stdout=log, stderr=log)


def computing(copy: Path) -> str:
    """The computing cell that is being executed, "" if none is."""
    books = sorted((copy / "data/executed").glob("*.ipynb"), key=lambda p: p.stat().st_mtime)
    try:
        cells = json.loads(books[-1].read_text())["cells"] if books else []
    except (ValueError, OSError):  # being written
        return ""
    running = [c for c in cells if c["metadata"].get("papermill", {}).get("status") == "running"]
    source = "".join(running[0]["source"]) if running else ""
    named = source.startswith("#papermill_description=")
    return f"{books[-1].stem}: {source.splitlines()[0].split('=')[1]}" if named else ""


def kill(process: subprocess.Popen, only_kernel: bool) -> None:
    """Kill the kernel, or everything, as a full memory or a pulled plug would."""
    everybody = [*psutil.Process(process.pid).children(recursive=True)]
    kernels = [p for p in everybody if "ipykernel_launcher" in " ".join(p.cmdline())]
    victims = kernels if only_kernel and kernels else [psutil.Process(process.pid), *everybody]
    for victim in victims:
        victim.kill()


def disturbed(copy: Path, count: int) -> int:
    """Run to the end with `count` kills; returns how many hit a computing cell."""
    rng, hits = random.Random(0), 0
    for number in range(count):
        process, wait = start(copy), rng.uniform(8, 22)
        end = time.monotonic() + wait
        while process.poll() is None and (time.monotonic() < end or not computing(copy)):
            time.sleep(0.05)
            if time.monotonic() > end + 20:  # no computing cell came: hit whatever runs
                break
        if process.poll() is not None:
            print(f"ended before kill {number + 1}")
            break
        where = computing(copy)
        hits += bool(where)
        kill(process, only_kernel=number % 2 == 0)
        process.wait()
        print(f"kill {number + 1}: {where or 'between computing cells'}", flush=True)
    assert start(copy).wait() == 0, "the last start must run to the end"
    return hits


def tables(copy: Path) -> dict[str, bytes]:
    """Every table of a finished pipeline."""
    found = (copy / "data" / "tables").rglob("*.*")
    return {str(p.relative_to(copy)): p.read_bytes() for p in found if p.is_file()}


def main(folder: Path, count: int) -> None:
    """Run both and compare."""
    copies = [folder / "undisturbed", folder / "disturbed"]
    for copy in copies:
        make_copy(copy, paths.ROOT / "profiles" / "smoke.yaml")
        subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    hits = disturbed(copies[1], count)
    assert start(copies[0]).wait() == 0
    same = tables(copies[0]) == tables(copies[1])
    print(f"{count} kills, {hits} inside computing cells; tables {'equal' if same else 'DIFFER'}")
    sys.exit(not same)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20)

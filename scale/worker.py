"""One cell on one machine: its command in a process group of its own, and its end.

A cell whose worker was lost goes on running without one. Whoever runs it again ends it first: the
group that its file names, and every process that carries the cell's mark in its environment, since
kernels of notebooks have groups of their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from lib import paths

CELLS = paths.ROOT / ".dvc" / "tmp" / "cells"  # two files per cell: where it runs, what it prints
MARK = "SCALE_CELL"  # variable that every process of a cell carries
TAIL = 4000  # characters of a failed cell's output that are passed on


class CellFailed(RuntimeError):
    """A cell's command failed; the text ends in what it printed."""


def run(work: dict | None, threads: int, gpus: int = 0) -> float | None:
    """Run a cell's command and wait; returns seconds. CellFailed if it fails."""
    if work is None:
        return None
    end_cell(work["name"])
    for out in map(Path, work["outs"]):
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        out.parent.mkdir(parents=True, exist_ok=True)
    mark = {MARK: mark_of(work["name"]), "OMP_NUM_THREADS": str(threads)}
    if gpus:
        from distributed import get_worker

        mark["CUDA_VISIBLE_DEVICES"] = str(int(get_worker().name) % gpus)
    log, started = file_of(work["name"], "log"), time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            work["cmd"],
            shell=True,
            cwd=work["cwd"],
            env=os.environ | mark,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        group = {"host": socket.gethostname(), "group": process.pid}
        file_of(work["name"], "json").write_text(json.dumps(group))
        code = process.wait()
    if code:
        raise CellFailed(log.read_text(errors="replace")[-TAIL:])
    return time.monotonic() - started


def mark_of(name: str) -> str:
    """What marks the processes of a cell of this folder."""
    return f"{paths.ROOT}:{name}"


def file_of(name: str, kind: str) -> Path:
    """The file about a cell: json (where it runs) or log (what it prints)."""
    CELLS.mkdir(parents=True, exist_ok=True)
    return CELLS / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.{kind}"


def end_cell(name: str) -> None:
    """End what an earlier run of a cell has left on this machine: its process group, and what
    carries its mark in another group, as kernels of notebooks do; waits until they are gone. A
    group on another machine ends with that machine's job."""
    record = file_of(name, "json")
    left = [p for p in psutil.process_iter() if _marked(p, mark_of(name))]
    if record.exists() and left:
        known = json.loads(record.read_text())
        if known["host"] == socket.gethostname() and known["group"] in {p.pid for p in left}:
            with suppress(ProcessLookupError):
                os.killpg(known["group"], signal.SIGKILL)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=30)


def _marked(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error, OSError):
        return process.pid != os.getpid() and process.environ().get(MARK) == mark
    return False

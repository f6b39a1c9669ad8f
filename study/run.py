"""All of the study in the order of PLAN.md, look by look: `python -m study.run [MINUTES]`.

Runs DVC's stages of study/dvc.yaml, as many at a time as there are cores, each on one thread: two
such processes do more than one on two threads, and the number of cores changes no bit. After each
look, folds that a decided question no longer needs are left out. MINUTES: no new stage is begun
after so many. Interrupt it at any time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import product

import pandas
import psutil
from tqdm import tqdm

from study import cells, decide, design, tables

# First what tells the accounts apart with the fewest cells; of these, one task after the other.
ORDER = ((design.CLIFF, design.PAIRS), (*design.SHARED[2:], design.ATTACKER))
OTHERS = design.params()[design.PLANTED]["others"]
GIB = 5  # memory that one process takes

Part = tuple[str, str, int]  # experiment, task, fold


def open_questions(experiment: str, task: str, table: pandas.DataFrame) -> bool:
    """Does a question of an experiment still wait? One without questions is always run whole."""
    mine = [name for name, q in decide.QUESTIONS.items() if q.experiment == experiment]
    if table.empty or not mine:
        return True
    return any(decide.answer(q, task, table)["verdict"] == decide.WAITING for q in mine)


def looks() -> Iterator[list[Part]]:
    """What is still needed, in order, one list a look; asks again after every look."""
    numbers = range(len(design.params()["looks"]))
    tasks = [*design.params()["tasks"]]
    for group, task, look in product(ORDER, tasks, numbers):
        if (group, task, look) == (ORDER[0], tasks[1], 0):
            yield from planted()
        table, folds = tables.load(task, *cells.catalogue_of(task)), design.looks(task)[look]
        mine = [name for name in group if name in design.experiments(task)]
        open_ones = [name for name in mine if open_questions(name, task, table)]
        every = [(name, task, fold) for name in open_ones for fold in range(1, folds + 1)]
        if wanted := [part for part in every if missing(*part)]:
            yield wanted


def planted() -> Iterator[list[Part]]:
    """Experiment 8: what decides first, seed by seed, then single MLPs and the other places."""
    about = design.params()[design.PLANTED]
    seeds = range(1, about["seeds"] + 1)
    for rest, edited, seed in product((False, True), ("windows", design.SINGLES), seeds):
        names = [n for n in design.plants(edited) if (design.place_of(n) in OTHERS) == rest]
        every = [(name, about["task"], seed) for name in names]
        if wanted := [part for part in every if missing(*part)]:
            yield wanted


def missing(*part) -> int:
    """How many cells of an experiment, task and fold are still to be made."""
    there = {made["cell"] for made in cells.read(cells.path_of(*part))}
    return len(set(design.todo(*part)) - there)


def workers() -> int:
    """How many processes the machine has cores and memory for."""
    fit = psutil.virtual_memory().available // (GIB * 2**30)
    return max(1, min(len(os.sched_getaffinity(0)), int(fit)))


def run(parts: list[Part], end: float) -> None:
    """Run stages beside each other, begun before `end`, under one bar that counts their cells.
    CalledProcessError where one fails, after the others have ended."""
    total = sum(missing(*part) for part in parts)
    name = f"{parts[0][1]}: {', '.join(dict.fromkeys(part[0] for part in parts))}"
    with ThreadPoolExecutor(workers()) as pool, tqdm(total=total, desc=name, unit="cell") as bar:
        running = [pool.submit(_stage, part, end) for part in parts]
        while wait(running, timeout=2).not_done:
            bar.update(total - sum(missing(*part) for part in parts) - bar.n)
        for done in running:
            done.result()


def _stage(part: Part, end: float) -> None:
    if time.monotonic() > end:
        return
    experiment, task, fold = part
    command = ["dvc", "--wait-for-lock", "repro", "--quiet", "--single-item"]
    alone = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    kind = "planted" if experiment.startswith(design.PLANTED) else task
    kind = "planted-others" if design.place_of(experiment) in OTHERS else kind
    stage = f"{kind}@{experiment}-{fold}"
    subprocess.run([*command, stage], cwd=design.HERE, env=alone, check=True)


def main(minutes: float) -> None:
    """Run what is needed; CalledProcessError where a stage fails."""
    end = time.monotonic() + 60 * minutes
    for parts in looks():
        run(parts, end)
        if time.monotonic() > end:
            break
    subprocess.run(["dvc", "repro", "--single-item", "decide"], cwd=design.HERE, check=True)


if __name__ == "__main__":
    try:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else float("inf"))
    except (ValueError, OSError, subprocess.CalledProcessError) as problem:
        sys.exit(f"error: {problem}")

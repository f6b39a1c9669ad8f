"""All of the study in the order of PLAN.md, look by look: `python -m study.run [MINUTES]`.

Runs DVC's stages of study/dvc.yaml; after each look, folds that a decided question no longer needs
are left out. MINUTES: no new stage is begun after so many. Interrupt it at any time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product

import pandas

from lib import config
from lib.measure.formats import Formats
from lib.store import Store
from study import decide, design, tables

# First what tells the accounts apart with the fewest cells; of these, one task after the other.
ORDER = ((design.CLIFF, design.PAIRS), (*design.SHARED[2:], design.ATTACKER))


def open_questions(experiment: str, task: str, table: pandas.DataFrame) -> bool:
    """Does a question of an experiment still wait? One without questions is always run whole."""
    mine = [name for name, q in decide.QUESTIONS.items() if q.experiment == experiment]
    if table.empty or not mine:
        return True
    return any(decide.answer(q, task, table)["verdict"] == decide.WAITING for q in mine)


def stages() -> Iterator[str]:
    """Names of the stages that are still needed, in order; asks again after every look."""
    settings, store = config.load(), Store("data")
    looks = range(len(design.params()["looks"]))
    for group, task, look in product(ORDER, design.params()["tasks"], looks):
        for experiment in group:
            catalogue = Formats.load(store.find("unedited", task, 0)).catalogue
            table = tables.load(task, settings, catalogue)
            if open_questions(experiment, task, table):
                for fold in range(1, design.looks(task)[look] + 1):
                    if design.todo(experiment, task, fold):
                        yield f"{task}@{experiment}-{fold}"


def main(minutes: float) -> None:
    """Run stage after stage, each once; CalledProcessError where one fails."""
    end, done = time.monotonic() + 60 * minutes, set()
    for stage in stages():
        if stage in done or time.monotonic() > end:
            continue
        subprocess.run(["dvc", "repro", "--single-item", stage], cwd=design.HERE, check=True)
        done.add(stage)
    subprocess.run(["dvc", "repro", "--single-item", "decide"], cwd=design.HERE, check=True)


if __name__ == "__main__":
    try:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else float("inf"))
    except (ValueError, OSError, subprocess.CalledProcessError) as problem:
        sys.exit(f"error: {problem}")

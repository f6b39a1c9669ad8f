"""The small pipeline on a GPU beside the same on the CPU: how far numbers differ, how long it took.

    python -m scale.gpu [FOLDER]

Makes two copies of the project with the smoke profile in FOLDER (default: a temporary one), one on
each device, both with the model that the CPU has taught, runs one cell of each kind in both, and
prints for every table the largest difference of its numbers beside the tolerance, and the seconds
of every cell. Exits with 1 if a difference exceeds its tolerance.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import pandas
import torch
import yaml

import lib  # noqa: F401  (sets the number of threads)
from lib import paths
from lib.stages.copy import make_copy
from lib.stages.report import timings

TASK = "sports-athletes"
CELLS = ("facts", "causal_tracing", "attribution_patching", "fact_lookup", "choose_components")
CELLS += ("settings", "edit", "sweep", "weight_masks", "attack_formats", "attack_relearn")
CELLS += ("attack_prompts", "attack_weights", "attack_inside", "side_effects")
READ, TRAINED = 0.001, 0.05  # largest difference allowed: before and after training
BEFORE = ("facts", "unedited", "causal_tracing", "attribution_patching", "fact_lookup")


def made(folder: Path, device: str, model: Path | None = None) -> Path:
    """A copy of the project whose cells ran on a device; model: one that is taught already."""
    profile = yaml.safe_load((paths.ROOT / "profiles" / "smoke.yaml").read_text())
    profile["model"]["device"] = device
    (folder / f"{device}.yaml").write_text(yaml.safe_dump(profile))
    make_copy(folder / device, folder / f"{device}.yaml")
    environment = os.environ | {"PYTHONPATH": str(folder / device)}

    def dvc(*words: str) -> None:
        subprocess.run(["dvc", *words], cwd=folder / device, env=environment, check=True)

    dvc("repro", "model")
    if model:
        shutil.rmtree(folder / device / "data" / "model")
        shutil.copytree(model, folder / device / "data" / "model")
        dvc("commit", "--force", "model")
    dvc("repro", *CELLS)
    return folder / device


def differences(cpu: Path, gpu: Path) -> pandas.DataFrame:
    """One row per table of both copies: largest difference of a number, its tolerance."""
    rows = []
    for file in sorted((cpu / "data").glob(f"*/{TASK}/**/*.csv")):
        name = file.relative_to(cpu / "data")
        one, other = (pandas.read_csv(folder / "data" / name) for folder in (cpu, gpu))
        allowed = READ if name.parts[0] in BEFORE else TRAINED
        row = {"table": str(name), "rows": f"{len(one)} {len(other)}", "tolerance": allowed}
        numbers = one.select_dtypes("number").columns.drop("gflop", errors="ignore")
        gap = numpy.nan
        if len(one) == len(other) and set(numbers) <= set(other):
            gap = (one[numbers] - other[numbers]).abs().max().max()
        rows.append(row | {"difference": gap})
    return pandas.DataFrame(rows)


def main(folder: Path) -> int:
    """Run both and print; returns the number of tables that differ too much."""
    if not torch.accelerator.is_available():
        raise OSError("torch finds no accelerator on this machine: run it where there is one")
    device = torch.accelerator.current_accelerator().type
    cpu = made(folder, "cpu")
    gpu = made(folder, device, cpu / "data" / "model")
    table = differences(cpu, gpu)
    print(table.to_string(index=False))
    seconds = {
        d.name: timings(d / "data/executed").set_index("notebook").seconds for d in (cpu, gpu)
    }
    print(pandas.DataFrame(seconds).round(1).to_string())
    print(json.dumps({"device": torch.cuda.get_device_name() if device == "cuda" else device}))
    return int((~(table.difference <= table.tolerance)).sum())


if __name__ == "__main__":
    try:
        with tempfile.TemporaryDirectory() as temporary:
            sys.exit(main(Path(sys.argv[1] if sys.argv[1:] else temporary)))
    except (OSError, subprocess.CalledProcessError) as problem:
        sys.exit(f"error: {problem}")

"""Memory, arithmetic, time and disk of every stage of a profile, before anything is downloaded.

    python -m scale.plan [PROFILE] [--flops TFLOP/s] [--memory GiB] [--disk GiB]

PROFILE: a file of profiles/ (default: params.yaml as it is); --flops: what the machine sustains in
the model's precision (default: a product of matrices timed here); --memory: of the device that
holds the model, --disk: that is free (default: of this machine). A profile that does not fit is
refused in one sentence, after the table.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import pandas
import psutil
import torch

import lib  # noqa: F401  (sets the number of threads)
from lib import paths
from scale.cells import count, merged
from scale.cost import PARTS, Cost, held
from scale.stages import Plan

GIB = 2**30
PROGRAM = 0.44 * GIB  # Python, torch, transformers, peft: measured before a model is loaded
WORD = 1560  # bytes a tokenizer holds per word of its vocabulary: measured, 390 MiB for 262 k words
ONCE = {"code": None, "model": "model_stage", "text": "text_stage"}


def plan_table(plan: Plan, cells: dict[str, int]) -> pandas.DataFrame:
    """One row per stage that runs: stage, cells, bytes of every part and in all (of the largest
    cell), operations and disk of all its cells."""
    seeds, rows = len(plan.settings.seeds), []
    words = WORD * plan.model.get_output_embeddings().weight.shape[0]
    for stage, number in cells.items():
        if not number:
            continue
        if stage in ONCE:
            found = [getattr(plan, ONCE[stage])()] if ONCE[stage] else [Cost()]
        else:
            found = seeds * [plan.cell(stage, task) or Cost() for task in tasks_of(plan, stage)]
        largest = max(found, key=lambda c: c.bytes, default=Cost())
        memory = {part: largest.memory.get(part, 0) for part in PARTS}
        row = {"stage": stage, "cells": number} | memory
        row["memory"] = largest.bytes + PROGRAM + words * bool(largest.memory)
        row |= {n: sum(getattr(c, n) for c in found) for n in ("operations", "disk")}
        rows.append(row)
    return pandas.DataFrame(rows)


def tasks_of(plan: Plan, stage: str) -> list[str]:
    """The tasks over which a stage runs."""
    settings = plan.settings
    limited = {"engines", "weight_masks", "sequential", "scaling"}
    if stage.startswith("attack_") and stage not in ("attack_formats", "attack_relearn"):
        return settings.attacks.tasks
    return getattr(settings, stage).tasks if stage in limited else list(settings.tasks)


def rate() -> float:
    """Floating-point operations per second of a large float32 product on this machine."""
    a = torch.rand(1024, 1024)
    a @ a
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < 0.5:
        a @ a
        rounds += 1
    return 2 * 1024**3 * rounds / (time.perf_counter() - started)


def room() -> float:
    """Bytes of memory of this machine's accelerator, or of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1]
    return psutil.virtual_memory().total


def shown(table: pandas.DataFrame, flops: float) -> str:
    """The stages that load the model as text: memory and disk in GiB, time of all cells at `flops`
    per second."""
    parts = [part for part in PARTS if table[part].any()]
    table = table[table.weights > 0]  # the others read tables
    text = table[["stage", "cells"]].copy()
    for name in ("memory", *parts):
        text[name] = (table[name] / GIB).map("{:.2f}".format)
    text["TFLOP"] = (table.operations / 1e12).map("{:,.1f}".format)
    text["minutes"] = (table.operations / flops / 60).map("{:,.1f}".format)
    text["disk"] = (table.disk / GIB).map("{:.2f}".format)
    return text.to_string(index=False)


def refusal(table: pandas.DataFrame, memory: float, disk: float) -> str:
    """One sentence for what does not fit, "" if all does; memory and disk in bytes."""
    worst = table.loc[table.memory.idxmax()]
    if worst.memory > memory:
        part = max(PARTS, key=lambda p: worst[p])
        return (
            f"stage {worst.stage} needs {worst.memory / GIB:.1f} GiB of memory, most of it for "
            f"{part} ({worst[part] / GIB:.1f} GiB), and there are {memory / GIB:.1f}: take a "
            f"smaller model or a larger device, or {CURES[part]}"
        )
    if table.disk.sum() > disk:
        return (
            f"the stages write {table.disk.sum() / GIB:.1f} GiB, most of it in stage "
            f"{table.loc[table.disk.idxmax()].stage}, and {disk / GIB:.1f} are free: make room, or "
            "take the largest localizations out of `compare`"
        )
    return ""


TRAINED = "take `nonlocalized` and `all-mlps` out of `compare` and attacks on all weights out"
CURES = dict.fromkeys(("masters", "moments", "gradients"), TRAINED) | {
    "weights": "set model.dtype to bfloat16",
    "activations": "lower edit.batch_facts, edit.batch_retain and the attacks' batches",
    "vocabulary": "lower text.passages or text.tokens",
    "copies": TRAINED,
}


def main(arguments: list[str]) -> None:
    """Print the plan of a profile; exits with a sentence if it is bad or does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m scale.plan", description=__doc__.split("\n")[0]
    )
    parser.add_argument("profile", nargs="?", type=Path, help="a file of profiles/")
    parser.add_argument("--flops", type=float, help="TFLOP/s that the machine sustains")
    parser.add_argument("--memory", type=float, help="GiB of the device that holds the model")
    parser.add_argument("--disk", type=float, help="GiB that are free")
    wanted = parser.parse_args(arguments)
    for name in ("flops", "memory", "disk"):
        if getattr(wanted, name) is not None and getattr(wanted, name) <= 0:
            raise ValueError(f"--{name} must be larger than 0: correct it")
    from lib.config.rules import parse

    raw = merged(wanted.profile)
    plan = Plan(parse(raw))
    table = plan_table(plan, count(raw))
    flops = wanted.flops * 1e12 if wanted.flops else rate()
    memory = wanted.memory * GIB if wanted.memory else room()
    disk = wanted.disk * GIB if wanted.disk else psutil.disk_usage(str(paths.ROOT)).free
    named, model = plan.settings.model, plan.model
    weights = sum(p.numel() for p in model.parameters())
    print(f"{named.name}: {plan.layers} layers, {weights / 1e9:.2f} G weights, {named.dtype}")
    print(f"memory and disk in GiB; {held(model)[0].device} tensors, nothing was loaded\n")
    print(shown(table, flops))
    hours = table.operations.sum() / flops / 3600
    print(
        f"\nin all: {table.cells.sum()} cells, {table.memory.max() / GIB:.1f} GiB of memory, "
        f"{table.disk.sum() / GIB:.1f} GiB of disk, {table.operations.sum() / 1e15:.2f} PFLOP, at "
        f"most {hours:.1f} hours at {flops / 1e12:.2f} TFLOP/s on one device"
    )
    if problem := refusal(table, memory, disk):
        raise ValueError(problem)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"error: {problem}")

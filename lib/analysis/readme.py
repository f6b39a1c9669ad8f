"""The numbers in docs/, written from the tables: `python -m lib.stages.report readme`."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pandas

from lib import paths
from lib.analysis import words
from lib.analysis.words import Claim
from lib.store import Store

BEGIN, END = "<!-- numbers: make readme -->", "<!-- end of numbers -->"
TABLE, TABLE_END = "<!-- table: make readme -->", "<!-- end of table -->"
MACHINE, MACHINE_END = "<!-- machine: make readme -->", "<!-- end of machine -->"
SPEED, SPEED_END = "<!-- speed: make bench, make readme -->", "<!-- end of speed -->"
COLUMNS = {
    ("new", "vocabulary"): "new, other words",
    ("old", "vocabulary"): "old, other words",
    ("new", "wording"): "new, reworded",
    ("old", "wording"): "old, reworded",
}


def summary(task: str) -> pandas.DataFrame:
    """The table a newcomer should look at: one row per edit."""
    store = Store("data")
    edits = store.load("results/edits", task).set_index("localization")
    carried = store.load("results/carried", task)
    back = store.load("results/back", task).set_index("localization")
    names = words.order(edits.index)
    table = pandas.DataFrame({"MLPs": edits.mlp, "steps": edits.steps.round().astype(int)})
    table["strength"] = [
        f"{r.strength:.2f}" + ("" if r.reached else " (missed)") for r in edits.itertuples()
    ]
    for (says, kind), title in COLUMNS.items():
        rows = carried[(carried.says == says) & (carried.kind == kind)].set_index("localization")
        table[title] = [_share(rows.loc[n]) if n in rows.index else "" for n in table.index]
    table["back after relearning"] = [
        f"{back.back[n]}/{back.n[n]}" + (" (failed)" if back.failed[n] else "") for n in table.index
    ]
    return table.loc[names]


def _share(row) -> str:
    if pandas.isna(row.value):
        return f"broken ({row.all_formats:.2f})"
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"


def markdown(tasks) -> str:
    """Summary and comparisons of every task as markdown."""
    return "\n\n".join(f"**{task}**\n\n{_markdown(task)}" for task in tasks)


def machine() -> str:
    """Processor, threads and versions, in words."""
    import torch

    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line),
        platform.processor() or platform.machine(),
    )
    threads = torch.get_num_threads()
    python = platform.python_version()
    return f"{cpu}, {os.cpu_count()} cores, {threads} threads, Python {python}, {torch.__version__}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _markdown(task: str) -> str:
    return "\n".join([_table(summary(task)), "", *(f"- {line}" for line in findings(task))])


def _table(table: pandas.DataFrame) -> str:
    rows = [[f"`{name}`", *map(str, row)] for name, *row in table.itertuples()]
    return "\n".join(_lines_of(["localization", *table], rows))


def _lines_of(head: list[str], rows: list) -> list[str]:
    """A table as lines of markdown; rows: of texts."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


def reader(task: str):
    """A function that reads a table of results by name."""
    store = Store("data")
    return lambda table: store.load(f"results/{table}", task)


def claims(task: str) -> list[Claim]:
    """The questions of the compendium, as sentences whose numbers are cells of tables."""
    found = Store("data").load_json("results/findings", task)
    rows = [row for name in ("by_layer", "steps", *words.SIDES) for row in found[name]]
    return [Claim.from_json(row) for row in rows]


def bullets(tasks) -> str:
    """The README's first findings, on the first task: early against late, layer by layer, a line or
    a step, and fact lookup against its control."""
    task = next(iter(tasks))
    found, read = Store("data").load_json("results/findings", task), reader(task)
    early, depth, steps = (dict(zip(words.MEASURES, found[q])) for q in (*words.SIDES, "steps"))
    rows = [early["new-wording"], early["back"], *found["by_layer"], steps["new-wording"]]
    rows += [depth["new-wording"], depth["back"]]
    return "\n".join(f"- {Claim.from_json(row).filled(read)}" for row in rows)


def table(tasks) -> str:
    """The README's table: the first task's edits of `compare`, without single MLPs."""
    rows = summary(next(iter(tasks)))
    single = rows.index.str.match(r"mlp-\d+$")
    return _table(rows[~single].drop(columns=["steps", "strength"]))


def findings(task: str) -> list[str]:
    """The questions of the compendium, answered in sentences computed from the tables."""
    store, read = Store("data"), reader(task)
    sentences = [claim.filled(read) for claim in claims(task)]
    sentences += store.load_json("results/findings", task)["each"]
    if store.has("score_card", task):
        sentences.append(words.worst_case(store.load("score_card/worst_case", task)))
    return sentences


def cells(tasks) -> str:
    """Claim, number and table cell, as markdown: one row per number."""
    rows = []
    for task in tasks:
        read = reader(task)
        for claim in claims(task):
            text = claim.filled(read)
            for name, (table, where, column, _) in claim.cells.items():
                key = ", ".join(f"{k} = {v}" for k, v in where.items())
                cell = f"`results/{task}/{table}.csv`: `{column}` where {key}"
                rows.append((text, claim.number(name, read), cell))
                text = ""
    return "\n".join(_lines_of(["claim", "number", "cell"], rows))


def speed(table: Path = paths.ROOT / "bench" / "speed.csv") -> str:
    """What `make bench` measured, as markdown; ratios are to our own code in the same run."""
    if not table.exists():
        return "*Not measured yet: run `make bench`.*"
    head = ["method", "contender", "seconds", "times ours", "memory (MiB)", "largest difference"]
    head, rows = [*head, "share of achievable GFLOP/s"], []
    for r in pandas.read_csv(table).itertuples():
        row = (r.method, r.contender, f"{r.seconds:.1f}", f"{r.times_ours:.1f}")
        same = "" if r.contender == "ours" else f"{r.largest_difference:.0e}"
        rows.append((*row, f"{r.memory_mib:.0f}", same, f"{r.share_of_achievable:.0%}"))
    picture = "![Seconds and memory of each contender](../bench/speed.png)"
    return "\n".join([*_lines_of(head, rows), "", picture])


def write_docs(tasks, folder: Path = paths.ROOT) -> None:
    """Put the current numbers between the marks of README, RESULTS.md, CLAIMS.md and SPEED.md."""
    for name, marks, text in (
        ("README.md", (BEGIN, END), bullets(tasks)),
        ("README.md", (TABLE, TABLE_END), table(tasks)),
        ("docs/RESULTS.md", (BEGIN, END), markdown(tasks)),
        ("docs/RESULTS.md", (MACHINE, MACHINE_END), f"Made on {machine()}."),
        ("docs/CLAIMS.md", (BEGIN, END), cells(tasks)),
        ("docs/SPEED.md", (SPEED, SPEED_END), speed()),
    ):
        path = folder / name
        path.write_text(between(path.read_text(), *marks, text))


def between(text: str, begin: str, end: str, new: str) -> str:
    """A page with new lines between two marks."""
    before, rest = text.split(begin)
    return f"{before}{begin}\n{new}\n{end}{rest.split(end)[1]}"

"""The numbers in docs/, written from the tables: `python -m lib.stages.report readme`."""

from __future__ import annotations

from pathlib import Path

import pandas

from lib import paths
from lib.analysis import words
from lib.store import Store

BEGIN, END = "<!-- numbers: make readme -->", "<!-- end of numbers -->"
SPEED, SPEED_END = "<!-- speed: make bench, make readme -->", "<!-- end of speed -->"


def summary(task: str) -> pandas.DataFrame:
    """The table a newcomer should look at: one row per localization."""
    store = Store("data")
    rows = store.load("results/results", task)
    edits = rows[rows.attack == "edit"].pivot_table("value", "localization", "metric")
    position = store.load("results/position", task)
    shown = position.assign(
        text=[f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in position.itertuples()]
    ).pivot(index="localization", columns="measure", values="text")
    retained = rows.query("attack == 'side-effects' and metric == 'retained'")
    retained = retained.set_index("localization").value
    reached = position.groupby("localization").reached.all()
    names = words.order(edits.index)
    shown, edits = shown.reindex(names), edits.loc[names]
    return pandas.DataFrame(
        {
            "weights (M)": (edits.weights / 1e6).round(1),
            "steps": edits.steps.round().astype(int),
            "strength": [
                f"{edits.strength[n]:.3f}" + ("" if reached[n] else " (not reached)") for n in names
            ],
            "transfer": shown["transfer"].fillna(""),
            "recovery": shown["recovery"].fillna(""),
            "retained": retained[names].round(2),
        }
    )


def markdown(tasks) -> str:
    """Summary and comparisons of every task as markdown."""
    return "\n\n".join(f"**{task}**\n\n{_markdown(task)}" for task in tasks)


def _markdown(task: str) -> str:
    table = summary(task)
    head = ["localization", *table.columns]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in zip(table.index, table.to_dict("records")):
        lines.append("| " + " | ".join([f"`{name}`", *(str(v) for v in row.values())]) + " |")
    return "\n".join([*lines, "", *(f"- {line}." for line in findings(task))])


def findings(task: str) -> list[str]:
    """The questions of the compendium, answered in sentences computed from the tables."""
    store = Store("data")
    found = store.load_json("results/findings", task)
    sentences = found["early-late"] + found["lookup-depth"] + found["against-each"]
    if store.has("score_card", task):
        worst = store.load("score_card/worst_case", task)
        sentences += [words.worst_case(worst, scope) for scope in worst.scope.unique()]
    return sentences


def speed(table: Path = paths.ROOT / "bench" / "speed.csv") -> str:
    """What `make bench` measured, as markdown; ratios are to our own code in the same run."""
    if not table.exists():
        return "*Not measured yet: run `make bench`.*"
    rows = pandas.read_csv(table)
    head = ["method", "contender", "seconds", "times ours", "memory (MiB)", "largest difference"]
    lines = ["| " + " | ".join([*head, "share of achievable GFLOP/s"]) + " |", "|---" * 7 + "|"]
    for r in rows.itertuples():
        cells = (r.method, r.contender, f"{r.seconds:.1f}", f"{r.times_ours:.1f}")
        same = "" if r.contender == "ours" else f"{r.largest_difference:.0e}"
        cells += (f"{r.memory_mib:.0f}", same, f"{r.share_of_achievable:.0%}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "![Seconds and memory of each contender](../bench/speed.png)"])


def write_docs(tasks, folder: Path = paths.ROOT / "docs") -> None:
    """Put the current numbers between the marks of RESULTS.md and SPEED.md."""
    results, timed = folder / "RESULTS.md", folder / "SPEED.md"
    results.write_text(_between(results.read_text(), BEGIN, END, markdown(tasks)))
    timed.write_text(_between(timed.read_text(), SPEED, SPEED_END, speed()))


def _between(text: str, begin: str, end: str, new: str) -> str:
    before, rest = text.split(begin)
    return f"{before}{begin}\n{new}\n{end}{rest.split(end)[1]}"

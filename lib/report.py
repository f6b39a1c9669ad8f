"""What `make repro` prints at the end: the summary table, and where the time went.

Times come from the executed notebooks, where papermill leaves them; they are no results and enter
no table in git. A stage's start-up is everything before its first computing cell: starting
papermill and the kernel, importing, loading the model. `python -m lib.report failure` names why
the last notebook stopped.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas

from lib import config, paths
from lib.figures import order
from lib.results import against_each, measures, sentence
from lib.score_card import sentence as worst_sentence

LAUNCH_S = 1.7  # importing papermill, before its own clock starts: median of three on two cores
BEGIN, END = "<!-- numbers: make readme -->", "<!-- end of numbers -->"
SPEED, SPEED_END = "<!-- speed: make bench, make readme -->", "<!-- end of speed -->"
LOADING = ("import ", "models.load(", "config.load(")


def timings(folder: Path = paths.EXECUTED) -> pandas.DataFrame:
    """One row per executed notebook: seconds in all and seconds of start-up."""
    rows = []
    for path in sorted(folder.glob("*.ipynb")):
        book = json.loads(path.read_text())
        meta = book["metadata"].get("papermill", {})
        if not meta.get("duration"):
            continue
        computing = sum(
            cell["metadata"]["papermill"].get("duration") or 0
            for cell in book["cells"]
            if cell["cell_type"] == "code" and not _only_loads("".join(cell["source"]))
        )
        total = meta["duration"] + LAUNCH_S
        rows.append({"notebook": path.stem, "seconds": total, "start_up": total - computing})
    return pandas.DataFrame(rows, columns=["notebook", "seconds", "start_up"])


def _only_loads(source: str) -> bool:
    """Is this a cell that imports or loads, and does no computing of its own?"""
    return any(word in source for word in LOADING) and "papermill_description" not in source


def summary(task: str) -> pandas.DataFrame:
    """The table a newcomer should look at: one row per localization."""
    folder = paths.tables(task)
    rows = pandas.read_csv(folder / "results.csv")
    edits = rows[rows.attack == "edit"].pivot_table("value", "localization", "metric")
    position = pandas.read_csv(folder / "position.csv")
    shown = position.assign(
        text=[f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in position.itertuples()]
    ).pivot(index="localization", columns="measure", values="text")
    retained = rows.query("attack == 'side-effects' and metric == 'retained'")
    retained = retained.set_index("localization").value
    reached = position.groupby("localization").reached.all()
    names = order(edits.index)
    shown, edits = shown.reindex(names), edits.loc[names]
    return pandas.DataFrame(
        {
            "weights (M)": (edits.weights / 1e6).round(1),
            "steps": edits.steps.round().astype(int),
            "seconds": edits.seconds.round().astype(int),
            "strength": [
                f"{edits.strength[n]:.3f}" + ("" if reached[n] else " (not reached)") for n in names
            ],
            "transfer": shown["transfer"].fillna(""),
            "recovery": shown["recovery"].fillna(""),
            "retained": retained[names].round(2),
        }
    )


def failure(folder: Path = paths.EXECUTED) -> str:
    """The sentence with which the last notebook stopped, or "" if none did."""
    for path in sorted(folder.glob("*.ipynb"), key=lambda p: p.stat().st_mtime, reverse=True)[:1]:
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                if output["output_type"] == "error":
                    return f"{path.stem} stopped: {_plain(output['evalue'])}"
    return ""


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def markdown(tasks) -> str:
    """Summary and comparisons of every task as markdown, for the README."""
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
    folder, settings = paths.tables(task), config.load()
    rows = pandas.read_csv(folder / "contrasts.csv").set_index(["question", "measure"])
    each = pandas.read_csv(folder / "pairwise.csv")
    words_of = measures(settings.task(task).change == "forget")
    sides = {
        "early-late": ("early windows", "late windows"),
        "lookup-depth": ("fact lookup", "depth-matched controls"),
    }
    questions = [
        sentence(rows.loc[question, measure], words, *sides[question])
        for question in sides
        for measure, words in words_of.items()
    ]
    against = [
        against_each(each[each.measure == measure], words, settings.statistics.level)
        for measure, words in words_of.items()
    ]
    return questions + against + worst_cases(folder / "worst_case.csv")


def worst_cases(table: Path) -> list[str]:
    """The headline of the score card, for tasks whose edits faced all attacks."""
    if not table.exists():
        return []
    rows = pandas.read_csv(table)
    return [worst_sentence(rows, scope) for scope in rows.scope.unique()]


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
    return "\n".join([*lines, "", "![Seconds and memory of each contender](bench/speed.png)"])


def write_readme(tasks, readme: Path = paths.ROOT / "README.md") -> None:
    """Put the current numbers between the README's marks."""
    text = _between(readme.read_text(), BEGIN, END, markdown(tasks))
    readme.write_text(_between(text, SPEED, SPEED_END, speed()))


def _between(text: str, begin: str, end: str, new: str) -> str:
    before, rest = text.split(begin)
    return f"{before}{begin}\n{new}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Print summary, contrasts, figures and times."""
    settings = config.load()
    pandas.set_option("display.width", 140)
    for task in settings.tasks:
        print(f"\n{task}, {settings.model.name}, seeds {settings.seeds}\n")
        print(summary(task).to_string())
        print("", *findings(task), sep="\n")
        made = sorted(p.name for p in (paths.FIGURES / task).glob("*.png"))
        print(f"\nfigures/{task}: {', '.join(made)}")
    times = timings()
    share = times.start_up.sum() / max(times.seconds.sum(), 1e-9)
    print(
        f"\n{len(times)} notebook runs, {times.seconds.sum() / 60:.1f} minutes; starting and "
        "loading took "
        f"{share:.0%} of them"
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["failure"]:
        sys.exit(failure())
    if sys.argv[1:] == ["readme"]:
        write_readme(config.load().tasks)
    else:
        main()

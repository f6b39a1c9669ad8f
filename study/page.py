"""The numbers of docs/STUDY.md and of the first page, from the rows of the study."""

from __future__ import annotations

import pandas

from lib import paths
from lib.analysis.readme import between
from lib.stats import HIGHER, UNRESOLVED
from study import cells, decide, design
from study.accounts import ACCOUNTS

PAGE = paths.ROOT / "docs" / "STUDY.md"
BEGIN, END = "<!-- {}: make study -->", "<!-- end of {} -->"
OPEN = (decide.WAITING, UNRESOLVED)


def number(x: float) -> str:
    """A difference of shares with its sign."""
    return "" if x != x else f"{x:+.2f}"


def outcome(row) -> str:
    """One decision in words, with its interval and number of folds (planted facts: seeds)."""
    if row.folds == 0:
        return "not begun"
    planted = decide.QUESTIONS[row.question].experiment == design.PLANTED
    folds = f"{row.folds} {'seed' if planted else 'fold'}{'s' * (row.folds > 1)}"
    if row.verdict == decide.WAITING:
        return f"{number(row.value)} so far ({folds}), not decided yet"
    said = f"{number(row.value)} [{number(row.low)}, {number(row.high)}] ({folds})"
    return f"**{row.verdict}**: {said}"


def decisions(table: pandas.DataFrame) -> str:
    """Questions x accounts x outcome; what an account predicts is in bold where it was refuted."""
    lines = ["| facts | question | " + " | ".join(ACCOUNTS) + " | seen |", "|---" * 7 + "|"]
    for row in table.itertuples():
        said = []
        for account in ACCOUNTS:
            value = getattr(row, f"{account}_predicts")
            text = number(value) or "none"
            said.append(f"{text}, refuted" if refutes(row, account) else text)
        lines.append(
            f"| {_plain(row.task)} | {decide.QUESTIONS[row.question].text} | "
            f"{' | '.join(said)} | {outcome(row)} |"
        )
    return "\n".join(lines)


def refutes(row, account: str) -> bool:
    """Was a question decided against what an account predicts?"""
    value = getattr(row, f"{account}_predicts")
    decided = row.verdict not in OPEN and value == value
    return decided and row.verdict != decide.foreseen(account, row.question, row.task)


def done() -> str:
    """How many cells of each experiment there are, of how many."""
    tasks = design.params()["tasks"]
    lines = [f"| experiment | {' | '.join(tasks)} |", "|---" * (1 + len(tasks)) + "|"]
    for experiment in design.EXPERIMENTS:
        parts = []
        for task in tasks:
            if experiment not in design.experiments(task):
                parts.append("none")
                continue
            wanted = [(experiment, task, fold) for fold in design.folds(task)]
            there = sum(len(cells.read(cells.path_of(*part))) for part in wanted)
            parts.append(f"{there} of {sum(len(design.todo(*part)) for part in wanted)}")
        lines.append(f"| {experiment} | {' | '.join(parts)} |")
    return "\n".join(lines)


def sentences(table: pandas.DataFrame) -> list[str]:
    """One sentence per question that is decided, for the first page."""
    found = []
    for row in table[table.verdict != decide.WAITING].itertuples():
        against = [account for account in ACCOUNTS if refutes(row, account)]
        named = "all four accounts" if len(against) == len(ACCOUNTS) else " and ".join(against)
        tail = f"; against {named}" if against else ""
        text = decide.QUESTIONS[row.question].text
        found.append(f"- {_plain(row.task)}. {text}: {outcome(row)}{tail}.")
    return found + [f"- {text}" for text in in_size(table)]


def in_size(table: pandas.DataFrame) -> list[str]:
    """For each task with decisions: which accounts' differences lie within all their intervals."""
    found = []
    decided = table[~table.verdict.isin(OPEN) & table.depth_predicts.notna()]
    for task, rows in decided.groupby("task", sort=False):
        within = [a for a in ACCOUNTS if rows[f"{a}_predicts"].between(rows.low, rows.high).all()]
        named = (
            f"only *{within[0]}* does" if len(within) == 1 else " and ".join(within) or "none does"
        )
        text = f"which account foresaw a size inside every interval ({len(rows)} decided): {named}"
        found.append(f"{_plain(task)}, {text}.")
    return found


TITLES = {"cliff": "behind the lookup MLP, more old answers come back"}
TITLES |= {"above": "with the MLP above the lookup instead, more old answers return"}


def title(table: pandas.DataFrame) -> str:
    """What the figure shows, as far as it is decided."""
    for question, text in TITLES.items():
        tasks = table[(table.question == question) & (table.verdict == HIGHER)].task
        if len(tasks):
            return f"{' and '.join(map(_plain, tasks))}: {text}"
    return "What each account predicts, and what has been seen so far"


def _plain(task: str) -> str:
    words = task.removesuffix("-smollm2").replace("-", " ").capitalize()
    return f"{words} of SmolLM2" if task.endswith("-smollm2") else words


SIDES = {"before": "edited before the plant", "in": "in it", "behind": "behind it"}
SIDES |= {"never": "never planted"}
PICTURE = """![Old answers back, by place of plant and of edit](../figures/study/planted.png)

*Left: share of 32 old answers that come back after relearning, mean over seeds; "nowhere" is the
true zero, the same names edited in the model that never knew them. Right: every cell against the
share of the plant that the edited set holds; dotted: never planted.*"""


def sides(where: pandas.DataFrame) -> dict[str, float]:
    """Mean share of old answers back over pairs of windows, by where the edit lies: before the
    plant, in it, behind it, and where nothing was planted; where: see `study.planted.mapped`."""
    windows = design.params()[design.PLANTED]["windows"]
    mine = where[where.edited.isin(windows) & where.planted.isin([*windows, design.NOWHERE])]
    order = {name: place for place, name in enumerate(windows)}
    gap = (mine.edited.map(order) - mine.planted.map(order)).clip(-1, 1)
    kind = gap.map({-1: "before", 0: "in", 1: "behind"}).fillna("never")
    return mine.back.groupby(kind).mean().to_dict()


def planted_title(where: pandas.DataFrame) -> str:
    """What the map says, once there are edits on every side of a plant."""
    found = sides(where)
    if len(found) < 4:
        return "Facts planted in known MLPs, edited there and elsewhere"
    before, inside, behind = (f"{found[side]:.2f}" for side in ("before", "in", "behind"))
    return f"Back: {before} edited before the plant, {inside} in it, {behind} behind"


def _layers(name: str) -> str:
    layers = design.layers_of(name)
    if layers is None:
        return name
    together = layers == tuple(range(layers[0], layers[-1] + 1)) and len(layers) > 1
    return f"{layers[0]} to {layers[-1]}" if together else ", ".join(map(str, layers))


def write_planted(
    plants: pandas.DataFrame, marks: pandas.DataFrame, where: pandas.DataFrame
) -> None:
    """Put the tables of planted facts into docs/STUDY.md."""
    lines = ["| planted in MLPs | plants | sound | steps | untrained formats | without its outputs "
             "| without another window's |", "|---" * 7 + "|"]  # fmt: skip
    for place, rows in plants.dropna(subset="own").groupby("place", sort=False):
        lines.append(
            f"| {_layers(place)} | {len(rows)} | {int(rows.sound.sum())} | {rows.steps.mean():.0f} "
            f"| {rows.known.mean():.2f} | {rows.own.mean():.2f} | {rows.others.min():.2f} |"
        )
    _fill(PAGE, "planted", PICTURE)
    _fill(PAGE, "plants", "\n".join(lines))
    lines = ["| method | precision | on the unplanted model | mean rank |", "|---" * 4 + "|"]
    for method, rows in marks.groupby("method", sort=False):
        mean = rows.groupby("on")[["precision", "rank"]].mean()
        before = mean.precision.get("unplanted", float("nan"))
        lines.append(
            f"| {method} | {mean.precision['planted']:.2f} | {before:.2f} "
            f"| {mean['rank']['planted']:.1f} |"
        )
    _fill(PAGE, "located", "\n".join(lines))
    zero = where[where.planted == design.NOWHERE]
    said = [f"{_layers(r.edited)}: {r.back:.2f}" for r in zero.itertuples()]
    found = sides(where)
    means = [f"{name} {found[key]:.2f}" for key, name in SIDES.items() if key in found]
    text = f"Old answers back, mean over pairs of windows: {', '.join(means)}. "
    _fill(PAGE, "zero", f"{text}Where nothing was planted, by edited MLPs: {'; '.join(said)}.")


def write_calibrated(attacks: pandas.DataFrame) -> None:
    """Put the attacks beside their true zero into docs/STUDY.md; of each the variant that recovers
    most of the masked facts."""
    lines = ["| attack | never planted | masked | difference | tells |", "|---" * 5 + "|"]
    best = attacks.sort_values("masked", ascending=False).drop_duplicates("attack")
    for row in best.itertuples():
        gap = f"{number(row.value)} [{number(row.low)}, {number(row.high)}]"
        name = f"{row.attack} {row.variant}".strip() if len(row.variant) < 20 else row.attack
        tells = "yes" if row.tells else "no"
        lines.append(f"| {name} | {row.nothing:.2f} | {row.masked:.2f} | {gap} | {tells} |")
    _fill(PAGE, "calibrated", "\n".join(lines))


def write(table: pandas.DataFrame) -> None:
    """Put the numbers between the marks of docs/STUDY.md and README.md."""
    _fill(PAGE, "decisions", decisions(table))
    _fill(PAGE, "in size", "\n".join(f"- {text}" for text in in_size(table)))
    _fill(PAGE, "cells", done())
    _fill(paths.ROOT / "README.md", "study", "\n".join(sentences(table)))


def _fill(path, name: str, new: str) -> None:
    marks = BEGIN.format(name), END.format(name)
    path.write_text(between(path.read_text(), *marks, new))

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
    """One decision in words, with its interval and number of folds."""
    if row.folds == 0:
        return "not begun"
    folds = f"{row.folds} fold{'s' * (row.folds > 1)}"
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
            f"| {row.task.replace('-', ' ')} | {decide.QUESTIONS[row.question].text} | "
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
    lines = ["| experiment | " + " | ".join(design.params()["tasks"]) + " |", "|---" * 3 + "|"]
    for experiment in design.EXPERIMENTS:
        parts = []
        for task in design.params()["tasks"]:
            wanted = [(experiment, task, fold) for fold in design.folds(task)]
            there = sum(len(cells.read(cells.path_of(*part))) for part in wanted)
            parts.append(f"{there} of {sum(len(design.todo(*part)) for part in wanted)}")
        lines.append(f"| {experiment} | {' | '.join(parts)} |")
    return "\n".join(lines)


def sentences(table: pandas.DataFrame) -> list[str]:
    """One sentence per question that has an outcome, for the first page."""
    found = []
    for row in table[table.folds > 0].itertuples():
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
    return task.replace("-", " ").capitalize()


def write(table: pandas.DataFrame) -> None:
    """Put the numbers between the marks of docs/STUDY.md and README.md."""
    _fill(PAGE, "decisions", decisions(table))
    _fill(PAGE, "in size", "\n".join(f"- {text}" for text in in_size(table)))
    _fill(PAGE, "cells", done())
    _fill(paths.ROOT / "README.md", "study", "\n".join(sentences(table)))


def _fill(path, name: str, new: str) -> None:
    marks = BEGIN.format(name), END.format(name)
    path.write_text(between(path.read_text(), *marks, new))

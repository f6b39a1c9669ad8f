"""What the rows say so far: `python -m study.report`.

Writes study/tables, the figure and the numbers of docs/STUDY.md and of the first page.
"""

from __future__ import annotations

import pandas

from lib import paths
from lib.figures import style
from study import cells, decide, design, figure, page, planted, tables
from study.accounts import ACCOUNTS

OUT, FIGURES = design.HERE / "tables", paths.FIGURES / "study"


def of_task(task: str, table: pandas.DataFrame) -> dict[str, pandas.DataFrame]:
    """{name: table} of one task: every cell, decisions beside what each account predicts, and where
    there are cells for it, the models of the profile and the regression."""
    rows = []
    for question in decide.of_task(task):
        said = {f"{a}_predicts": decide.expected(question, task, a) for a in ACCOUNTS}
        rows.append(decide.answer(question, task, table) | said)
    found = {"cells": table.assign(task=task), "decisions": pandas.DataFrame(rows)}
    models, shared = [], table[table.experiment != design.ATTACKER]
    for kind, names in (("single", design.singles(task)), ("window", design.windows(task))):
        profile = decide.profile(shared, names)
        if len(profile) > 5:
            place = decide.step_place(shared, names)
            at = dict(zip(("step_at", "step_low", "step_high"), place))
            models.append(decide.compare(profile, task).assign(task=task, sets=kind, **at))
    if models:
        found["models"] = pandas.concat(models)
    if len(table[table.experiment == design.SETS]) > 20:
        found["regression"] = decide.regress(shared, task).assign(task=task)
    return found


def main() -> None:
    """Write all tables of all tasks that have cells."""
    every, loaded = {}, {}
    for task in filter(cells.begun, design.params()["tasks"]):
        settings, catalogue = cells.catalogue_of(task)
        table = tables.load(task, settings, catalogue)
        if task == design.params()[design.PLANTED]["task"]:
            parts = [t for t in (table, planted.table(task, settings, catalogue)) if len(t)]
            table = pandas.concat(parts, ignore_index=True) if parts else table
        if len(table):
            loaded[task] = table
            for name, found in of_task(task, table).items():
                every.setdefault(name, []).append(found)
    every |= _planted(loaded)
    merged = {name: pandas.concat(parts, ignore_index=True) for name, parts in every.items()}
    write(merged)
    style.save(figure.draw(loaded, page.title(merged["decisions"])), "decides", FIGURES)
    page.write(merged["decisions"])


def _planted(loaded: dict[str, pandas.DataFrame]) -> dict[str, list[pandas.DataFrame]]:
    """Tables and figure of planted facts, once there are cells of them."""
    task = design.params()[design.PLANTED]["task"]
    made = loaded.get(task, pandas.DataFrame(columns=["experiment"]))
    made = made[made.experiment == design.PLANTED]
    if made.empty:
        return {}
    every, where = planted.lines(task), planted.mapped(made)
    style.save(figure.planted(where, page.planted_title(where)), "planted", FIGURES)
    found = {"plants": planted.plants_table(every), "located": planted.marked(every)}
    page.write_planted(found["plants"], found["located"], where)
    if len(attacks := planted.calibrated(every)):
        found["calibrated"] = attacks
        page.write_calibrated(attacks)
    return {name: [table] for name, table in (found | {"planted": where}).items()}


def write(found: dict[str, pandas.DataFrame]) -> None:
    """The tables as csv, layers as text."""
    OUT.mkdir(exist_ok=True)
    for name, table in found.items():
        for column in {"mlp", "attention"} & {*table}:
            table[column] = table[column].map(lambda layers: " ".join(map(str, layers)))
        table.to_csv(OUT / f"{name}.csv", index=False, float_format="%.6g")
        print(f"study/tables/{name}.csv", len(table), "rows")


if __name__ == "__main__":
    main()

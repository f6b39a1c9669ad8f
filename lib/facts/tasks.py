"""Everything a task is made of, read and checked: its formats, its facts, its invented subjects.

A task takes its facts from a table of this project's kind (one relation or many) or from
CounterFact in either public schema. This is the one place that knows the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas

from lib import paths
from lib.config.blocks import Task
from lib.facts.counterfact import load_counterfact
from lib.facts.formats import Catalogue, load_formats, own_wordings
from lib.facts.tables import load_table


@dataclass(frozen=True)
class TaskData:
    """formats; table: columns relation, subject, label (edit, prompt, paraphrases where the source
    has them); never_known: the same for invented subjects, with arbitrary labels; rejected: rows
    of the source that could not be used, with the reason."""

    formats: Catalogue
    table: pandas.DataFrame
    never_known: pandas.DataFrame
    rejected: pandas.DataFrame


def load_task(task: Task) -> TaskData:
    """Read a task's files; FileNotFoundError or ValueError in one sentence names what is wrong."""
    if task.source == "counterfact":
        return _counterfact(task)
    formats = catalogue(task)
    table = _table(task, task.table, task.edit_column, formats)
    table = _chosen(task, table)
    invented = _table(task, task.never_known, None, formats)
    invented = invented[invented.relation.isin(table.relation)].reset_index(drop=True)
    return TaskData(formats, table, invented, pandas.DataFrame(columns=["row", "reason"]))


def catalogue(task: Task) -> Catalogue:
    """The formats of a task."""
    if task.source == "counterfact":
        return _counterfact(task).formats
    return load_formats(paths.ROOT / task.formats)


def _table(task: Task, file: str, edit_column, formats: Catalogue) -> pandas.DataFrame:
    labels = {relation: s.labels for relation, s in formats.sets.items()}
    return load_table(
        paths.ROOT / file,
        task.subject_column,
        task.label_column,
        edit_column,
        labels,
        task.per_label if file == task.table else None,
        task.relation_column,
    )


def _chosen(task: Task, table: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of the wanted relations; ValueError names one that the table does not have."""
    wanted = task.relations or list(table.relation.unique())
    missing = sorted(set(wanted) - set(table.relation))
    if missing:
        raise ValueError(
            f"{task.table} has no relation '{missing[0]}' (it has "
            f"{', '.join(table.relation.unique())}): correct `relations` in params.yaml"
        )
    return table[table.relation.isin(wanted)].reset_index(drop=True)


def _counterfact(task: Task) -> TaskData:
    facts, rejected = load_counterfact(task.table)
    facts = facts.rename(columns={"true": "label"})
    again = facts.duplicated(["relation", "subject"])
    twice = [{"row": r.id, "reason": f"'{r.subject}' twice"} for r in facts[again].itertuples()]
    twice = pandas.DataFrame(twice, columns=rejected.columns)
    rejected = pandas.concat([rejected, twice], ignore_index=True)
    facts = facts[~again].reset_index(drop=True)
    if facts.empty:
        raise ValueError(
            f"{task.table} has no usable fact: {len(rejected)} rows were rejected, the first "
            f"because {rejected.reason.iloc[0]}; correct the file"
        )
    facts = _chosen(task, facts)
    most = max(map(len, facts.paraphrases), default=0)
    formats = own_wordings(sorted(facts.relation.unique()), most)
    return TaskData(formats, facts, facts.iloc[:0], rejected)

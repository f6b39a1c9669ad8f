"""Fact tables: csv files with one fact a line, checked before anything long starts.

Two columns are needed, named in params.yaml: the subject and its true label (and, if wanted, one
with the relation and one with the edit target). Further columns are ignored, so the paper
authors' sports.csv loads from its path through the same function; it has line breaks inside
quoted fields, which the csv reader handles.
"""

from __future__ import annotations

from difflib import get_close_matches
from io import StringIO
from pathlib import Path

import pandas

from lib.config.errors import read_text, short


def load_table(
    path: Path,
    subject: str,
    label: str,
    edit: str | None = None,
    labels: dict[str, list[str]] | None = None,
    per_label: int | None = None,
    relation: str | None = None,
) -> pandas.DataFrame:
    """Table with columns relation, subject, label and (if asked for) edit, in file order.

    labels: {relation: labels that its formats can express, or none for any}; per_label: keep only
    the first so many subjects of each label (the whole file is checked); relation: column, None
    where the whole table is the one relation of `labels`. Raises FileNotFoundError, or ValueError
    in one sentence for a missing column, a subject listed twice, an empty cell, an unknown
    relation or label, or an edit equal to the truth.
    """
    raw = read_csv(path, "fact table", "correct `table` or `never_known` in params.yaml")
    wanted = {"subject": subject, "label": label} | ({"edit": edit} if edit else {})
    wanted |= {"relation": relation} if relation else {}
    for column in wanted.values():
        _check_column(column, raw, list(wanted.values()), path)
    table = pandas.DataFrame({k: raw[v].str.strip() for k, v in wanted.items()})
    _refuse(table, table.eq("").any(axis=1), path, "has an empty cell in the line of '{}': fill it")
    if not relation and len(labels or ()) > 1:
        raise ValueError(
            f"{path.name} needs a column that names the relation, as its formats have several: "
            "set `relation_column` of the task in params.yaml"
        )
    if not relation:
        table["relation"] = next(iter(labels)) if labels else ""
    twice = table.duplicated(["relation", "subject"])
    _refuse(table, twice, path, "lists '{}' twice: delete one of the two lines")
    for name in table.relation.unique() if labels is not None else ():
        _check_labels(table[table.relation == name], labels, name, path)
    if edit:
        message = "gives '{}' an edit target equal to the truth: choose another label"
        _refuse(table, table.edit == table.label, path, message)
    if per_label:
        groups = table.groupby(["relation", "label"], sort=False)
        table = groups.head(per_label).reset_index(drop=True)
    return table


def _check_column(column: str, raw: pandas.DataFrame, used: list[str], path: Path) -> None:
    if column not in raw.columns:
        free = [c for c in raw.columns if c not in used]
        close = get_close_matches(column, free, 1, 0.4)
        cure = f"rename column '{close[0]}' to it" if close else "add it"
        raise ValueError(
            f"{path.name} has no column {column!r} (it has {short(', '.join(raw.columns), 120)}): "
            f"{cure}, or name another in params.yaml"
        )
    if f"{column}.1" in raw.columns:  # as pandas calls a second column of that name
        raise ValueError(f"{path.name} has two columns {column!r}: rename one of them")


def _check_labels(rows, labels: dict[str, list[str]], relation: str, path: Path) -> None:
    if relation not in labels:
        raise ValueError(
            f"{path.name} has facts of relation {relation!r}, which no format asks for (there are "
            f"{short(', '.join(labels))}): add it to the formats file"
        )
    if not labels[relation]:
        return
    known = short(", ".join(labels[relation]))
    for column in set(rows.columns) & {"label", "edit"}:
        message = f"gives '{{}}' a {column} that no answer format knows: use one of {known}"
        _refuse(rows, ~rows[column].isin(labels[relation]), path, message)


def read_csv(path: Path, what: str, cure: str) -> pandas.DataFrame:
    """A csv file as text cells; FileNotFoundError, OSError or ValueError in one sentence for a file
    that is no text, a line with too many cells or a table without facts."""
    uneven = (
        f"{path.name} has a line with too many cells or an open quote: quote the names that "
        "contain a comma, from end to end"
    )
    text = read_text(path, what, cure)
    try:
        raw = pandas.read_csv(StringIO(text), dtype=str, keep_default_na=False)
    except pandas.errors.EmptyDataError:
        raw = pandas.DataFrame()
    except ValueError:  # pandas' ParserError is one
        raise ValueError(uneven) from None
    if not isinstance(raw.index, pandas.RangeIndex):  # every line has more cells than the header
        raise ValueError(uneven)
    if raw.empty:
        raise ValueError(f"{path.name} holds no facts: give it a header and one fact a line")
    return raw


def _refuse(table: pandas.DataFrame, bad: pandas.Series, path: Path, message: str) -> None:
    if bad.any():
        subject = short(table.subject[bad].iloc[0], 80)
        raise ValueError(f"{path.name} {message.replace('{}', subject, 1)}")

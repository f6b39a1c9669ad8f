"""Fact tables: csv files with one fact a line, checked before anything long starts.

Two columns are needed, named in params.yaml: the subject and its true label (and, if wanted, a third with the edit target).
Further columns are ignored, so the paper authors' sports.csv loads from its path through the same function; it has
line breaks inside quoted fields, which the csv reader handles.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import pandas


def load_table(
    path: Path, subject: str, label: str, edit: str | None = None, labels: list[str] | None = None
) -> pandas.DataFrame:
    """Table with columns subject, label and (if asked for) edit, in file order.

    labels: the labels that formats can express. Raises FileNotFoundError, or ValueError in one
    sentence for a missing column, a subject listed twice, an empty cell, an unknown label or an edit equal
    to the truth.
    """
    if not path.exists():
        raise FileNotFoundError(f"no fact table at {path}: correct `table` of the task in params.yaml")
    raw = pandas.read_csv(path, dtype=str, keep_default_na=False)
    wanted = {"subject": subject, "label": label} | ({"edit": edit} if edit else {})
    for column in wanted.values():
        if column not in raw.columns:
            close = get_close_matches(column, raw.columns, 1, 0.4)
            hint = f"rename column '{close[0]}' to it" if close else "add it, or name another in params.yaml"
            raise ValueError(f"{path.name} has no column '{column}' (it has {', '.join(raw.columns)}): {hint}")
    table = pandas.DataFrame({k: raw[v].str.strip() for k, v in wanted.items()})
    _refuse(table, table.eq("").any(axis=1), path, "has an empty cell in the line of '{}': fill it")
    _refuse(table, table.subject.duplicated(), path, "lists '{}' twice: delete one of the two lines")
    if labels is not None:
        known = ", ".join(labels)
        for column in set(table.columns) - {"subject"}:
            bad = ~table[column].isin(labels)
            message = f"gives '{{}}' a {column} that no answer format knows: use one of {known}"
            _refuse(table, bad, path, message)
    if edit:
        _refuse(
            table,
            table.edit == table.label,
            path,
            "gives '{}' an edit target equal to the truth: choose another label",
        )
    return table


def _refuse(table: pandas.DataFrame, bad: pandas.Series, path: Path, message: str) -> None:
    if bad.any():
        raise ValueError(f"{path.name} {message.format(table.subject[bad].iloc[0])}")

"""From a fact table to records: keep what the model itself knows, give every kept fact an edit
target.

A fact is known if the evaluated model's own probability of the true answer (first token, whole
vocabulary, training prompt) reaches the threshold; another model's knowledge says nothing about
this one (section 1.1).
"""

from __future__ import annotations

import random

import pandas

from lib.facts.formats import FormatSet, answer_tokens, subject_positions
from lib.facts.records import FactRecord
from lib.measure import answers
from lib.packing import Runner


def ask_table(
    runner: Runner, tokenizer, formats: FormatSet, table: pandas.DataFrame
) -> pandas.DataFrame:
    """The table with `answer` and `probability` (of the true label's word) in the training
    format."""
    asked = answers(runner, tokenizer, formats.training, list(table.subject), mass=True)
    rows = zip(table.label, asked.to_dict("records"))
    probability = [row[label] * row["mass"] for label, row in rows]
    return table.assign(answer=asked.answer.values, probability=probability)


def make_records(
    asked: pandas.DataFrame, formats: FormatSet, tokenizer, min_probability: float, seed: int
) -> list[FactRecord]:
    """Records of the known facts; edit targets from the table's `edit` column or drawn from the
    seed."""
    form, labels = formats.training, tuple(formats.labels)
    tokens = answer_tokens(tokenizer, form)
    rng = random.Random(f"edit targets {seed}")
    records = []
    for row in asked[asked.probability >= min_probability].to_dict("records"):
        subject, true = row["subject"], row["label"]
        edit = row.get("edit") or rng.choice([label for label in labels if label != true])
        records.append(
            FactRecord(
                id=f"{formats.relation}/{subject}",
                relation=formats.relation,
                subject=subject,
                true=true,
                edit=edit,
                options=labels,
                prompt=form.prompt(subject),
                subject_positions=subject_positions(tokenizer, form, subject),
                true_token=tokens[true],
                edit_token=tokens[edit],
                probability=round(float(row["probability"]), 6),
            )
        )
    return records

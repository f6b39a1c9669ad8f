"""From a fact table to records: keep what the model itself knows, give every kept fact an edit
target.

A fact is known if the evaluated model's own probability of the true answer (first token, whole
vocabulary, training prompt) reaches the threshold; another model's knowledge says nothing about
this one (section 1.1).
"""

from __future__ import annotations

import random

import pandas
import torch

from lib.facts.formats import (
    Catalogue,
    FormatSet,
    answer_tokens,
    encode,
    first_tokens,
    subject_positions,
)
from lib.facts.records import FactRecord
from lib.model import unembed
from lib.model.runner import Runner

CHUNK = 512  # facts asked at a time: bounds the memory of their logits


def label_tokens(
    tokenizer, table: pandas.DataFrame, formats: FormatSet, first_token: bool = False
) -> dict[str, int]:
    """{label: its answer token in the training format} for the facts of one relation.

    Labels are those the formats list, else those of the table (true ones and edit targets).
    first_token: answers may have several tokens and are told apart by their first one; labels that
    share it with another are left out (section 1.2). Otherwise ValueError for such an answer.
    """
    found = [table.label] + ([table.edit] if "edit" in table else [])
    labels = formats.labels or list(dict.fromkeys(pandas.concat(found)))
    tokens = first_tokens if first_token else answer_tokens
    return tokens(tokenizer, formats.training, labels)


def ask_table(
    runner: Runner, tokenizer, formats: FormatSet, table: pandas.DataFrame, tokens: dict[str, int]
) -> pandas.DataFrame:
    """The facts of one relation that `tokens` can tell apart, with `answer` (the most probable
    label) and `probability` (of the true answer over the whole vocabulary) in the training
    format."""
    table = table[table.label.isin(tokens)]
    parts = []
    for start in range(0, len(table), CHUNK):
        rows = table.iloc[start : start + CHUNK]
        prompts = encode(tokenizer, [formats.training.ask(row) for row in rows.itertuples()])
        hidden = runner.answer_hidden(prompts)
        targets = torch.tensor([tokens[label] for label in rows.label], device=hidden.device)
        nll = unembed.nll(runner.model, hidden, targets)
        best = unembed.logits(runner.model, hidden, list(tokens.values())).argmax(-1)
        answer = [list(tokens)[i] for i in best.tolist()]
        parts.append(rows.assign(answer=answer, probability=(-nll).exp().cpu().numpy()))
    return pandas.concat(parts) if parts else table.assign(answer="", probability=0.0)


def ask_all_relations(
    runner: Runner, tokenizer, formats: Catalogue, table: pandas.DataFrame, first_token: bool
) -> tuple[pandas.DataFrame, dict[str, dict[str, int]]]:
    """(asked, tokens): `ask_table` over every relation, and {relation: {label: token}}."""
    from tqdm.auto import tqdm

    parts, tokens = [], {}
    for relation, rows in tqdm(list(table.groupby("relation", sort=False)), desc="asking"):
        mine = formats.sets[relation]
        tokens[relation] = label_tokens(tokenizer, rows, mine, first_token)
        parts.append(ask_table(runner, tokenizer, mine, rows, tokens[relation]))
    return pandas.concat(parts, ignore_index=True), tokens


def make_records(
    asked: pandas.DataFrame,
    formats: Catalogue,
    tokenizer,
    tokens: dict[str, dict[str, int]],
    min_probability: float,
    seed: int,
    edit_to: str | None = None,
) -> list[FactRecord]:
    """Records of the known facts (columns relation, subject, label, probability); edit targets
    are the table's `edit` column, `edit_to` where that is another of the relation's labels, or
    drawn from the seed among them.

    Relations with a single label, and facts whose edit target cannot be told from the truth, are
    left out: there is nothing to edit them to.
    """
    rng = random.Random(f"edit targets {seed}")
    records = []
    for row in asked[asked.probability >= min_probability].itertuples():
        form, mine = formats.sets[row.relation].training, tokens[row.relation]
        others = [label for label in mine if label != row.label]
        drawn = rng.choice(others) if others else None
        edit = getattr(row, "edit", None) or (edit_to if edit_to in others else drawn)
        if edit not in mine or edit == row.label:
            continue
        records.append(
            FactRecord(
                id=f"{row.relation}/{row.subject}",
                relation=row.relation,
                subject=row.subject,
                true=row.label,
                edit=edit,
                options=tuple(mine),
                prompt=form.ask(row),
                subject_positions=subject_positions(tokenizer, form, row),
                true_token=mine[row.label],
                edit_token=mine[edit],
                probability=round(float(row.probability), 6),
                paraphrases=tuple(getattr(row, "paraphrases", ())),
                neighbors=tuple(getattr(row, "neighbors", ())),
            )
        )
    return records


def never_known(
    runner: Runner,
    tokenizer,
    formats: Catalogue,
    invented: pandas.DataFrame,
    tokens: dict[str, dict[str, int]],
    seed: int,
) -> list[FactRecord]:
    """Records of invented subjects with arbitrary labels: the control beside every attack."""
    if invented.empty:
        return []
    groups = invented.groupby("relation", sort=False)
    parts = [ask_table(runner, tokenizer, formats.sets[r], g, tokens[r]) for r, g in groups]
    asked = pandas.concat(parts, ignore_index=True)
    return make_records(asked, formats, tokenizer, tokens, 0.0, seed)

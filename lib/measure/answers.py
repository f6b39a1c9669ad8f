"""What a model answers: probabilities of the answer words, every fact asked once.

Every figure is computed from these per-fact rows; `lib.stats` makes shares with intervals of them.
Probabilities are normalized over the fact's options (`p_true`, `p_edit`): they say *which* label
the model would give (section 8.1).
"""

from __future__ import annotations

import pandas
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from lib.facts.formats import Format, encode, first_tokens
from lib.facts.records import FactRecord
from lib.measure import choices
from lib.model.packing import Pack
from lib.model.runner import Runner

COLUMNS = ["id", "relation", "format", "true", "edit", "answer", "p_true", "p_edit"]


def option_tokens(
    tokenizer, forms: dict[str, Format], facts: list[FactRecord]
) -> list[dict[str, int] | None]:
    """For each fact {option: first token of its word}, None where the format cannot ask for it.

    A format cannot ask for a fact whose relation it does not cover, that brings no such wording,
    or whose true or new answer begins like another option's word.
    """
    known: dict[tuple, dict[str, int]] = {}
    found = []
    for fact in facts:
        form = forms.get(fact.relation)
        if form is None or form.ask(fact) is None:
            found.append(None)
            continue
        key = (fact.relation, fact.options)
        if key not in known:
            known[key] = first_tokens(tokenizer, form, fact.options)
        tokens = known[key]
        found.append(tokens if fact.true in tokens and fact.edit in tokens else None)
    return found


def score_facts(
    runner: Runner, tokenizer, forms: dict[str, Format], facts: list[FactRecord]
) -> pandas.DataFrame:
    """One row per fact that the format can ask for: id, relation, format, true, edit, answer
    (labels), p_true, p_edit.

    forms: {relation: format}, see `Catalogue.forms`; answer is the most probable option.
    """
    if any(form.kind == "choice" for form in forms.values()):
        return _score_choices(runner, tokenizer, forms, facts)
    options = option_tokens(tokenizer, forms, facts)
    pairs = [(fact, tokens) for fact, tokens in zip(facts, options) if tokens]
    if not pairs:
        return pandas.DataFrame(columns=COLUMNS)
    every = sorted({t for _, tokens in pairs for t in tokens.values()})
    column = {token: i for i, token in enumerate(every)}
    prompts = encode(tokenizer, [forms[fact.relation].ask(fact) for fact, _ in pairs])
    rows = []
    for logits, (fact, tokens) in zip(runner.answer_logits(prompts, every), pairs):
        p = logits[[column[t] for t in tokens.values()]].softmax(0)
        rows.append(_row(forms, fact, dict(zip(tokens, p.tolist()))))
    return pandas.DataFrame(rows, columns=COLUMNS)


def _row(forms: dict[str, Format], fact: FactRecord, held: dict[str, float]) -> tuple:
    answer = max(held, key=held.get)
    name = forms[fact.relation].name
    said = (answer, held[fact.true], held[fact.edit])
    return (fact.id, fact.relation, name, fact.true, fact.edit, *said)


def _score_choices(runner, tokenizer, forms, facts) -> pandas.DataFrame:
    rows = []
    for relation, form in forms.items():
        mine = [f for f in facts if f.relation == relation]
        held = choices.probabilities(runner, tokenizer, form, mine) if mine else []
        rows += [_row(forms, fact, p) for fact, p in zip(mine, held)]
    return pandas.DataFrame(rows, columns=COLUMNS)


def score_in_formats(
    runner: Runner, tokenizer, forms: dict[str, dict[str, Format]], facts: list[FactRecord]
) -> pandas.DataFrame:
    """`score_facts` in several formats, {name: {relation: format}}, one below the other."""
    shown = tqdm(forms.values(), desc="formats", leave=False)
    parts = [score_facts(runner, tokenizer, mine, facts) for mine in shown]
    return pandas.concat([part for part in parts if len(part)], ignore_index=True)


Reference = list[tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def text_losses(
    runner: Runner,
    passages: list[tuple[int, ...]],
    reference: Reference | None = None,
    batch: int = 8,
) -> tuple[pandas.DataFrame, Reference]:
    """(rows, reference): per passage the next-token loss and KL from the reference, in nats.

    reference: of the unedited model for the same passages, as returned by a first call, for each
    its probabilities (n_tokens, vocabulary) and the sum of p log p (n_tokens,); KL(unedited ||
    model) is 0 without it.
    """
    rows, kept = [], []
    for start in range(0, len(passages), batch):
        pack = Pack(None, tuple(passages[start : start + batch]))
        log_p = _log_softmax_(runner.logits(pack, pack.text_rows).float()).cpu()
        lengths = [len(p) - 1 for p in pack.passages]
        for mine, targets in zip(log_p.split(lengths), pack.text_targets.split(lengths)):
            i, kl = len(rows), 0.0
            if reference is None:
                p = mine.exp()
                kept.append((p, _inner(p, mine)))
            else:
                p, negative_entropy = reference[i]
                kl = (negative_entropy - _inner(p, mine)).mean().item()
            rows.append({"passage": i, "loss": F.nll_loss(mine, targets).item(), "kl": kl})
    return pandas.DataFrame(rows), kept


def _log_softmax_(z: torch.Tensor) -> torch.Tensor:
    """Log-softmax of each row, in place and a few rows at a time: a row holds a megabyte, and what
    leaves the processor's cache costs ten times as much."""
    for rows in z.split(8):
        rows.copy_(rows.log_softmax(-1))
    return z


def _inner(p: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """Sum of p log_p over the vocabulary for each row, in nats: (n_rows,)."""
    return torch.cat([(a * b).sum(1) for a, b in zip(p.split(8), log_p.split(8))])

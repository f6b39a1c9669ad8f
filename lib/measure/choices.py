"""Questions that show the answers: lettered multiple choice, and one question per answer.

A fact is asked with a few of its options: the true one, the new one and others drawn by its id.
*Lettered*: every rotation of the options is asked, so that each stands once at every letter, and
the probabilities are averaged (section 8.3: published letters were never shuffled for athletes).
*One by one*: each option is put into the question, and its score is how much more probable the
affirming words are than the denying ones.
"""

from __future__ import annotations

import random
from string import ascii_uppercase

import torch
from torch import Tensor

from lib.facts.formats import Format, encode, fill
from lib.facts.records import FactRecord
from lib.model.runner import Runner

SHOWN = 4  # options at most


def shown_options(fact: FactRecord, count: int = SHOWN) -> list[str]:
    """True and new answer and others, `count` in all (fewer if there are fewer), in an order that
    depends on the fact's id only."""
    rng = random.Random(fact.id)
    others = [option for option in fact.options if option not in (fact.true, fact.edit)]
    found = [fact.true, fact.edit, *rng.sample(others, min(len(others), max(count - 2, 0)))]
    rng.shuffle(found)
    return found


def probabilities(
    runner: Runner, tokenizer, form: Format, facts: list[FactRecord]
) -> list[dict[str, float]]:
    """{option: probability} of every fact, over the options it is shown."""
    read = one_by_one if form.yes else lettered
    return read(runner, tokenizer, form, facts)


def lettered(runner: Runner, tokenizer, form: Format, facts: list[FactRecord]):
    """Mean probability of each option's letter over all rotations of the options."""
    orders, texts = [], []
    for fact in facts:
        options = shown_options(fact)
        for turn in range(len(options)):
            order = options[turn:] + options[:turn]
            words = form.words(order)
            lines = [f"{letter}. {words[o]}" for letter, o in zip(ascii_uppercase, order)]
            orders.append((fact.id, order))
            texts.append(form.ask(fact).replace("{options}", "\n".join(lines)))
    letters = _first_tokens(tokenizer, ascii_uppercase[:SHOWN])
    logits = runner.answer_logits(encode(tokenizer, texts), letters)
    found: dict[str, dict[str, float]] = {fact.id: {} for fact in facts}
    for (name, order), row in zip(orders, logits):
        for option, p in zip(order, row[: len(order)].softmax(0).tolist()):
            found[name][option] = found[name].get(option, 0.0) + p / len(order)
    return [found[fact.id] for fact in facts]


def one_by_one(runner: Runner, tokenizer, form: Format, facts: list[FactRecord]):
    """Softmax over options of log p(affirming words) - log p(denying words)."""
    texts, sides = [], []
    for fact in facts:
        words = form.words(shown_options(fact))
        yes, no = (
            _first_tokens(tokenizer, [fill(word, fact.subject) for word in side])
            for side in (form.yes, form.no)
        )
        for word in words.values():
            texts.append(form.ask(fact).replace("{option}", word))
            sides.append((yes, no))
    every = sorted({t for side in sides for tokens in side for t in tokens})
    column = {token: i for i, token in enumerate(every)}
    logits = runner.answer_logits(encode(tokenizer, texts), every)
    scores = iter([_odds(row, yes, no, column) for row, (yes, no) in zip(logits, sides)])
    found = []
    for fact in facts:
        options = shown_options(fact)
        p = torch.stack([next(scores) for _ in options]).softmax(0)
        found.append(dict(zip(options, p.tolist())))
    return found


def _odds(row: Tensor, yes: list[int], no: list[int], column: dict[int, int]) -> Tensor:
    above, below = (row[[column[t] for t in side]].logsumexp(0) for side in (yes, no))
    return above - below


def _first_tokens(tokenizer, words) -> list[int]:
    return [
        ids[0] for ids in tokenizer([f" {w}" for w in words], add_special_tokens=False).input_ids
    ]

"""Linear probes: can the old answer still be read from the activations?

At every layer a logistic regression on the prompt's last token is fitted on the answers of
retained facts, and then reads the edited ones (section 8.6). `refit` is fitted on the edited model
and is the stronger reader. `unedited` is fitted on the model before the edit: are the old
directions still in use? Layers below the first trained one cannot have changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy
import pandas
from pydantic import Field
from torch import Tensor

from lib.attacks.logit_lens import answer_states
from lib.attacks.target import ReadOut, Target
from lib.config.errors import Block, Positive
from lib.facts.formats import encode
from lib.facts.records import FactRecord
from lib.measure.answers import COLUMNS
from lib.model.runner import Runner

SEES = "activations; true answers of retained facts"
BUDGET = "layer"
ORACLE = ("unedited",)


class Settings(Block):
    """regularization: C of the logistic regression; least: retained facts an answer needs to be
    learned."""

    regularization: Positive
    least: int = Field(ge=2)


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """One read-out per layer and kind of probe (budget -1: the embedding); none where no relation
    has two answers with enough retained facts."""
    lessons = learnable([target.facts[i] for i in target.split.retain_train], settings.least)
    asked = {r: [f for f in fs if f.relation in lessons] for r, fs in target.asked().items()}
    if not asked["forget_heldout"]:
        return
    facts = [f for fs in asked.values() for f in fs]
    role = {f.id: r for r, fs in asked.items() for f in fs}
    lesson = [f for fs in lessons.values() for f in fs]
    if "probes" not in target.seen:
        with target.without_edit():
            target.seen["probes"] = states(target, lesson)
    learned = {"refit": states(target, lesson), "unedited": target.seen["probes"]}
    read = states(target, facts)
    for variant, x in learned.items():
        for layer, (train, test) in enumerate(zip(x, read), start=-1):
            rows = readings(train, lesson, test, facts, settings.regularization)
            rows.insert(1, "split", rows.id.map(role))
            yield ReadOut(rows, layer, variant, trained=train.shape[1])


def learnable(facts: list[FactRecord], least: int) -> dict[str, list[FactRecord]]:
    """{relation: facts with an answer that `least` of them share}, of relations with two such
    answers."""
    count = Counter((f.relation, f.true) for f in facts)
    found: dict[str, list[FactRecord]] = {}
    for fact in facts:
        if count[fact.relation, fact.true] >= least:
            found.setdefault(fact.relation, []).append(fact)
    return {r: fs for r, fs in found.items() if len({f.true for f in fs}) > 1}


def states(target: Target, facts: list[FactRecord]) -> Tensor:
    """Residual stream at the training prompt's last token: (n_layers + 1, n_facts, d_model)."""
    prompts = encode(target.loaded.tokenizer, [f.prompt for f in facts])
    return answer_states(Runner(target.loaded.model), prompts).float()


def readings(
    train: Tensor, lesson: list[FactRecord], test: Tensor, facts: list[FactRecord], c: float
) -> pandas.DataFrame:
    """Rows as of `answers.score_facts` (an answer that a probe cannot give has probability 0), one
    probe per relation; train, test: (n, d_model)."""
    parts = []
    for relation in {f.relation: None for f in facts}:
        mine, asked = (
            [i for i, f in enumerate(some) if f.relation == relation] for some in (lesson, facts)
        )
        labels = [lesson[i].true for i in mine]
        classes, p = _fit(train[mine].numpy(), labels, test[asked].numpy(), c)
        for i, row in zip(asked, p):
            held, fact = dict(zip(classes, row)), facts[i]
            said = (max(held, key=held.get), held.get(fact.true, 0.0), held.get(fact.edit, 0.0))
            parts.append((fact.id, relation, "probe", fact.true, fact.edit, *said))
    return pandas.DataFrame(parts, columns=COLUMNS)


def _fit(x, labels: list[str], read, c: float) -> tuple[list[str], numpy.ndarray]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300)).fit(x, labels)
    return list(probe.classes_), probe.predict_proba(read)

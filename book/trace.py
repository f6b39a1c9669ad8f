"""Maps of causal tracing for the trace explorer: `python -m book.trace` (some minutes, once).

The first facts to edit, in the unedited model and after the stored early and late edit. What is
traced is the answer that the model gives: the true one before the edit, the new one after it. The
noise is that of notebook 10, with one draw, so the first map is the one of that notebook.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pandas
import torch

from book import DATA, EARLY, LATE, TASK
from lib import config
from lib.edit import delta
from lib.facts.formats import load_training
from lib.facts.records import load_facts
from lib.localize.cases import Cases
from lib.localize.tracing import trace
from lib.model.anatomy import blocks
from lib.model.loading import load_model
from lib.model.nodes import Node
from lib.store import Store
from lib.tables import UNEDITED

FACTS, NOISE, DRAWS = 12, 3.0, 1
KINDS = {"residual stream": "residual", "MLP": "mlp", "attention": "attention"}


def fact_map(model, case: Cases, tokens: list[str], seed: int) -> pandas.DataFrame:
    """One row per kind of node and token: p_clean, p_corrupt and, by layer, p_restored.

    case: one fact; tokens: the words of its full prompt. Rows begin at the first subject token.
    """
    positions = list(range(min(case.subjects[0]), len(tokens)))
    several, layers = case.take([0] * len(positions)), range(len(blocks(model)))
    parts = []
    for words, kind in KINDS.items():
        nodes = [Node(kind, layer) for layer in layers]
        rows = trace(model, several, nodes, NOISE, DRAWS, seed, positions)
        wide = rows.pivot(index="place", columns="layer", values="p_restored").round(5)
        first = {"node": words, "token": [tokens[p] for p in wide.index]}
        first |= {c: rows[c].iloc[0].round(6) for c in ("p_clean", "p_corrupt")}
        parts.append(pandas.concat([pandas.DataFrame(first, wide.index), wide], axis=1))
    return pandas.concat(parts, ignore_index=True)


def main() -> None:
    """Write `trace.csv`."""
    settings, store = config.load(), Store("data")
    seed = settings.seeds[0]
    known = store.find("facts", TASK, seed)
    records, split = load_facts(known)
    facts = [records[i] for i in split.forget[:FACTS]]
    loaded = load_model(settings.model)
    before = Cases.of(loaded.tokenizer, load_training(known), facts)
    after = replace(before, targets=torch.tensor([f.edit_token for f in facts]))
    parts = []
    for name in (UNEDITED, EARLY, LATE):
        folder = None if name == UNEDITED else delta.stored(store, TASK, name, seed)
        with delta.applied(loaded, folder) if folder else nullcontext():
            for i, fact in enumerate(facts):
                case = (after if folder else before).take([i])
                words = case.prompts.prefix + case.prompts.suffixes[0]
                tokens = [loaded.tokenizer.decode(t) for t in words]
                first = {"model": name, "subject": fact.subject}
                first |= {"answer": fact.edit if folder else fact.true}
                rows = fact_map(loaded.model, case, tokens, seed)
                parts.append(rows.assign(**first)[[*first, *rows.columns]])
                print(name, fact.subject, flush=True)
    pandas.concat(parts, ignore_index=True).to_csv(DATA / "trace.csv", index=False)


if __name__ == "__main__":
    main()

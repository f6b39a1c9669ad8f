"""Maps of causal tracing for the trace explorer: `python -m book.trace` (some minutes, once).

The first facts to edit, in the unedited model and after the stored early and late edit. What is
traced is the answer that the model gives: the true one before the edit, the new one after it. The
noise is that of notebook 10, with one draw, so the first map is the one of that notebook.

One pass gives a whole layer of the maps of several facts. What is restored at a token changes
nothing before that token, so a restored run is a *branch*: it begins at that token and sees the
tokens before it in the corrupt run, its *trunk*. And a restored MLP or attention layer changes its
own token only within its block, so the stream behind the block is known without another pass.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import replace

import pandas
import torch
from torch import Tensor

from book import DATA, EARLY, LATE, TASK
from lib import config
from lib.edit import delta
from lib.facts.formats import load_training
from lib.facts.records import load_facts
from lib.localize.cases import Cases
from lib.localize.tracing import noise_for
from lib.model import unembed
from lib.model.anatomy import blocks
from lib.model.hooks import after, hooked, leaving
from lib.model.loading import load_model
from lib.model.nodes import Node, PatchRunner, reading, replacing
from lib.model.packing import Pack
from lib.store import Store
from lib.tables import UNEDITED

FACTS, NOISE, TOGETHER = 12, 3.0, 2  # TOGETHER: facts of one pass
KINDS = ("residual stream", "MLP", "attention")


class Tree:
    """The prompts of a pack (trunks) with a branch for every kind of node and token of a subject or
    behind it; to a runner it is a pack. begins: the row of each fact's first subject token.

    trunk (T,): for each row, the row of the pack with the same token; first, answer_rows
    (n_branches,): where branches begin and end; branches: (fact, kind, row of the pack) of each.
    """

    def __init__(self, pack: Pack, begins: list[int]):
        trunk = list(range(pack.ids.shape[1]))
        owner, first, last = [-1] * len(trunk), [], []
        self.branches = []
        for fact, (start, (_, stop)) in enumerate(zip(begins, pack.segments[1:])):
            for kind in range(len(KINDS)):
                for row in range(start, stop):
                    owner += [len(first)] * (stop - row)
                    first.append(len(trunk))
                    trunk += range(row, stop)
                    last.append(len(trunk) - 1)
                    self.branches.append((fact, kind, row))
        self.trunk, owner = torch.tensor(trunk), torch.tensor(owner)
        self.first, self.answer_rows = torch.tensor(first), torch.tensor(last)
        self.ids, self.positions = pack.ids[:, self.trunk], pack.positions[:, self.trunk]
        begin = torch.cat([self.trunk[self.first], torch.tensor([len(trunk)])])[owner]
        in_trunk = (owner[None] == -1) & (self.trunk[None] < begin[:, None])
        seen = ~pack.hidden_from[0, 0][self.trunk][:, self.trunk]
        self.hidden_from = ~(seen & (in_trunk | (owner[None] == owner[:, None])))[None, None]


class _Enough(Exception):
    """Leaves a pass behind the block that was wanted."""


def behind(runner: PatchRunner, pack: Pack, node: Node, values: Tensor, before: Tensor) -> Tensor:
    """The stream behind the block of a node that is replaced at all rows: (T, d); before: (T, d),
    what the block reads."""
    found = []

    def keep(module, args, output):
        found.append(leaving(output)[0].clone())
        raise _Enough

    with (
        suppress(_Enough),
        replacing(runner.model, node, values, torch.arange(len(before))),
        hooked(after(blocks(runner.model)[node.layer], keep)),
    ):
        runner.from_block(pack, node.layer, before, pack.answer_rows)
    return found[0]


def corrupted(runner: PatchRunner, cases: Cases, pack: Pack, embedded: Tensor, seed: int):
    """(Activations, final states of the answers) with one draw of noise on the names of a pack, in
    proportion to the standard deviation of each name's embeddings (T, d)."""
    hidden = embedded.clone()
    n, segments = len(pack.prompts.prefix), pack.segments[1:]
    for name, subject, (start, stop) in zip(cases.ids, cases.subjects, segments):
        rows = torch.tensor([start + p - n for p in subject])
        scale = NOISE * embedded[rows].repeat(stop - rows[0], 1).std()  # a case for each token
        hidden[rows] += scale * noise_for(name, 0, seed, (len(rows), hidden.shape[1])).to(hidden)
    with reading(runner.model) as corrupt:
        final = runner.from_block(pack, 0, hidden, pack.answer_rows)
    return corrupt, final


@torch.no_grad()
def maps(model, cases: Cases, seed: int) -> list[pandas.DataFrame]:
    """Of each fact one row per kind of node and token, from the first subject token on: node,
    p_clean, p_corrupt and, by layer, the probability of the answer with that node restored."""
    cases = cases.split_before_subjects()
    runner, pack = PatchRunner(model), Pack(cases.prompts)
    starts = [start - len(cases.prompts.prefix) for start, _ in pack.segments[1:]]
    tree = Tree(pack, [start + min(s) for start, s in zip(starts, cases.subjects)])
    layers = range(len(blocks(model)))
    clean = runner.read(pack)
    corrupt, lost = corrupted(runner, cases, pack, clean.before[0], seed)
    ends = [runner.from_block(pack, len(layers), clean.after[-1], pack.answer_rows), lost]
    kinds = torch.tensor([kind for _, kind, _ in tree.branches])
    rows = torch.tensor([row for _, _, row in tree.branches])
    for layer in layers:
        dark = corrupt.after[layer]
        heads, before = clean.heads[layer], corrupt.before[layer]
        given = [
            clean.after[layer],
            dark + clean.mlp[layer] - corrupt.mlp[layer],
            behind(runner, pack, Node("attention", layer), heads, before),
        ]
        hidden = dark[tree.trunk]
        hidden[tree.first] = torch.stack(given)[kinds, rows]
        ends.append(runner.from_block(tree, layer + 1, hidden, tree.answer_rows))
    facts = torch.tensor([fact for fact, _, _ in tree.branches])
    targets = torch.cat([cases.targets.repeat(2), cases.targets[facts].repeat(len(layers))])
    p = (-unembed.nll(model, torch.cat(ends), targets.to(ends[0].device))).exp().cpu()
    n = len(cases.ids)
    wide = pandas.DataFrame(p[2 * n :].reshape(len(layers), -1).T.numpy().round(5), columns=layers)
    wide.insert(0, "node", [KINDS[kind] for kind in kinds])
    for at, column in enumerate(("p_clean", "p_corrupt"), 1):
        start = (at - 1) * n
        wide.insert(at, column, p[start : start + n][facts].numpy().round(6))
    return [wide[(facts == i).numpy()].reset_index(drop=True) for i in range(n)]


def main() -> None:
    """Write `trace.csv`."""
    settings, store = config.load(), Store("data")
    seed = settings.seeds[0]
    known = store.find("facts", TASK, seed)
    records, split = load_facts(known)
    facts = [records[i] for i in split.forget[:FACTS]]
    loaded = load_model(settings.model)
    before = Cases.of(loaded.tokenizer, load_training(known), facts)
    after_it = replace(before, targets=torch.tensor([f.edit_token for f in facts]))
    parts = []
    for name in (UNEDITED, EARLY, LATE):
        folder = None if name == UNEDITED else delta.stored(store, TASK, name, seed)
        with delta.applied(loaded, folder) if folder else nullcontext():
            cases = after_it if folder else before
            for start in range(0, FACTS, TOGETHER):
                some = range(start, min(start + TOGETHER, FACTS))
                for i, rows in zip(some, maps(loaded.model, cases.take(some), seed)):
                    words = cases.prompts.prefix + cases.prompts.suffixes[i]
                    tokens = [loaded.tokenizer.decode(t) for t in words[min(cases.subjects[i]) :]]
                    first = {"model": name, "subject": facts[i].subject}
                    first |= {"answer": facts[i].edit if folder else facts[i].true}
                    first |= {"node": rows.pop("node"), "token": tokens * len(KINDS)}
                    parts.append(pandas.concat([pandas.DataFrame(first), rows], axis=1))
                    print(name, facts[i].subject, flush=True)
    pandas.concat(parts, ignore_index=True).to_csv(DATA / "trace.csv", index=False)


if __name__ == "__main__":
    main()

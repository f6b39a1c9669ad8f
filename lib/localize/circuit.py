"""Fact lookup by two-step path patching: the heads that extract the answer, then the MLPs that
feed them.

Runs start from corrupt prompts (random tokens for the subject). Step 1: a head gets its clean
value, all other attention keeps its corrupt value, MLPs are recomputed; what then reaches the
logits is the head's effect. Step 2: what an MLP adds goes straight into the residual stream that
enters the lowest layer with one of the strongest heads; everything from there on runs normally
(section 4.5). Effects are shares of the clean minus corrupt logit difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pandas
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.localize.attribution import corrupted
from lib.localize.nodes import (
    Activations,
    Cases,
    Node,
    Restarter,
    columns,
    frozen_attention,
    logit_differences,
)
from lib.packing import Pack, Prompts


@dataclass(frozen=True)
class Circuit:
    """heads: the strongest extraction heads; receiver: lowest layer with one of them; mlps: effects
    of the MLPs below it, (layer, effect, error), empty if the receiver is layer 0."""

    heads: list[Node]
    receiver: int
    mlps: pandas.DataFrame


def find(
    model, cases: Cases, words: list[int], corruptions: int, seed: int, count: int = 10
) -> Circuit:
    """Both steps: the `count` strongest heads, then the MLPs that feed the lowest of them."""
    heads = strongest(shares(head_effects(model, cases, words, corruptions, seed)), count)
    receiver = min(head.layer for head in heads)
    if not receiver:
        return Circuit(heads, 0, pandas.DataFrame(columns=["layer", "effect", "error"]))
    rows = mlp_effects(model, cases, words, corruptions, seed, receiver)
    return Circuit(heads, receiver, shares(rows)[["layer", "effect", "error"]])


@torch.no_grad()
def head_effects(
    model, cases: Cases, words: list[int], corruptions: int, seed: int
) -> pandas.DataFrame:
    """Step 1: rows (id, kind, layer, head, change, gap), in logits, means over corruptions.

    change: what the head's clean value adds to the corrupt logit difference; gap: clean minus
    corrupt logit difference.
    """
    return _over_corruptions(model, cases, words, corruptions, seed, _heads, "extraction heads")


@torch.no_grad()
def mlp_effects(
    model, cases: Cases, words: list[int], corruptions: int, seed: int, receiver: int
) -> pandas.DataFrame:
    """Step 2: the same rows for the MLPs below `receiver`."""

    def step(*args):
        return _mlps(*args, receiver)

    return _over_corruptions(model, cases, words, corruptions, seed, step, "lookup MLPs")


def _over_corruptions(model, cases, words, corruptions, seed, step, words_for_bar):
    cases = cases.split_before_subjects()
    runner, parts = Restarter(model), []
    packs = runner.packs(cases.prompts)
    for index, pack in tqdm(packs, desc=words_for_bar):
        mine = cases.take(index)
        clean = runner.read(pack)
        ld_clean = _read_out(runner, pack, mine, clean)
        for draw in range(corruptions):
            other = Pack(corrupted(mine, words, draw, seed).prompts)
            corrupt = runner.read(other)
            ld_corrupt = _read_out(runner, other, mine, corrupt)
            gap = (ld_clean - ld_corrupt).tolist()
            for node, ld in step(runner, other, mine, clean, corrupt):
                change = (ld - ld_corrupt).tolist()
                parts.append({"id": mine.ids} | vars(node) | {"change": change, "gap": gap})
    rows = pandas.concat([pandas.DataFrame(p) for p in parts], ignore_index=True)
    return rows.groupby(["id", "kind", "layer", "head"], sort=False).mean().reset_index()


def _heads(runner: Restarter, pack: Pack, cases: Cases, clean: Activations, corrupt: Activations):
    """With all other attention fixed only the answer's own row matters: one row per head and
    fact."""
    rows, n_heads = pack.answer_rows, runner.model.config.num_attention_heads
    corrupt_rows = corrupt.map(lambda t: t[rows].repeat(n_heads, 1))
    single = Pack(Prompts((), tuple((0,) for _ in range(n_heads * len(rows)))))
    every = torch.arange(len(single.ids[0]))
    targets, contrasts = cases.targets.repeat(n_heads), cases.contrasts.repeat(n_heads, 1)
    for layer in range(len(corrupt.before)):
        nodes = [Node("head", layer, h) for h in range(n_heads)]
        given = list(corrupt_rows.heads)
        given[layer] = given[layer].clone()
        for h, node in enumerate(nodes):
            mine, where = slice(h * len(rows), (h + 1) * len(rows)), columns(runner.model, node)
            given[layer][mine, where] = clean.heads[layer][rows][:, where]
        with frozen_attention(runner.model, given):
            final = runner.from_block(single, layer, corrupt_rows.before[layer], every)
        ld = logit_differences(runner.model, final, targets, contrasts)
        yield from zip(nodes, ld.split(len(rows)))


def _mlps(runner, pack, cases, clean, corrupt, receiver: int):
    """The MLP's change is added to what the receiver reads, at every token."""
    for layer in range(receiver):
        hidden = corrupt.before[receiver] + clean.mlp[layer] - corrupt.mlp[layer]
        final = runner.from_block(pack, receiver, hidden, pack.answer_rows)
        yield (
            Node("mlp", layer),
            logit_differences(runner.model, final, cases.targets, cases.contrasts),
        )


def _read_out(runner, pack, cases, activations) -> Tensor:
    last = len(activations.after)
    final = runner.from_block(pack, last, activations.after[-1], pack.answer_rows)
    return logit_differences(runner.model, final, cases.targets, cases.contrasts)


def shares(rows: pandas.DataFrame, resamples: int = 500, seed: int = 0) -> pandas.DataFrame:
    """One row per node: effect = mean change / mean gap, and its bootstrap standard error over
    facts."""
    keys = ["kind", "layer", "head"]
    change = rows.pivot_table("change", "id", keys, sort=False)
    gap = rows.groupby("id").gap.first()[change.index].to_numpy()
    draws = numpy.random.default_rng(seed).integers(0, len(gap), (resamples, len(gap)))
    values = change.to_numpy()
    found = values.mean(0) / gap.mean()
    spread = (values[draws].mean(1) / gap[draws].mean(1)[:, None]).std(0)
    return change.columns.to_frame(index=False).assign(effect=found, error=spread)


def strongest(heads: pandas.DataFrame, count: int) -> list[Node]:
    """The `count` heads with the largest absolute effect, strongest first."""
    order = heads.assign(size=heads.effect.abs()).sort_values("size", ascending=False)
    return [Node("head", int(r.layer), int(r.head)) for r in order.head(count).itertuples()]


def lookup_layers(mlps: pandas.DataFrame, threshold: float) -> list[int]:
    """MLP layers whose effect exceeds the threshold and twice its standard error."""
    found = mlps[(mlps.effect > threshold) & (mlps.effect > 2 * mlps.error)].layer
    return sorted(int(layer) for layer in found)

"""Fact lookup by two-step path patching: the heads that extract the answer, then the MLPs that
feed them.

Runs start from corrupt prompts (random words for the subject). Step 1: a head gets its clean
value, all other attention keeps its corrupt value, MLPs are recomputed; what then reaches the
logits is the head's effect. Step 2: what an MLP adds goes straight into the residual stream that
enters the receiver, the lowest layer with one of the strongest heads; everything from there on
runs normally (section 4.5). Effects are shares of the clean minus corrupt logit difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas
import torch

from lib.localize.cases import Cases, logit_differences
from lib.localize.corruption import NODE, Run, averaged, corrupt_runs
from lib.localize.scores import over_halves
from lib.model.anatomy import blocks, final_norm
from lib.model.nodes import Node, PatchRunner, columns, frozen_attention
from lib.model.packing import Pack, Prompts
from lib.stats import resample

RULES = ("signed", "absolute")


@dataclass(frozen=True)
class Corruptions:
    """How prompts are corrupted: `count` times with words drawn from a seed."""

    words: list[int]
    count: int
    seed: int


@torch.no_grad()
def head_effects(model, cases: Cases, how: Corruptions) -> pandas.DataFrame:
    """Step 1: rows (id, kind, layer, head, change, gap), in logits, means over corruptions.

    change: what the head's clean value adds to the corrupt logit difference; gap: clean minus
    corrupt logit difference.
    """
    return _over_runs(model, cases, how, _heads, "extraction heads")


@torch.no_grad()
def mlp_effects(model, cases: Cases, how: Corruptions, receivers: list[int]) -> pandas.DataFrame:
    """Step 2: the same rows, with column receiver, for the MLPs below each receiver."""

    def step(runner, run):
        for receiver in receivers:
            yield from _mlps_into(runner, run, receiver)

    return _over_runs(model, cases, how, step, "lookup MLPs", ("receiver",))


@torch.no_grad()
def direct_effects(model, cases: Cases, how: Corruptions) -> pandas.DataFrame:
    """Rows for every MLP's path straight to the logits: the MLPs that help to write the answer."""
    return _over_runs(model, cases, how, _mlps_out, "writing MLPs")


def _over_runs(model, cases, how, step, desc, keys=()) -> pandas.DataFrame:
    runner, parts = PatchRunner(model), []
    for run in corrupt_runs(runner, cases, how.words, how.count, how.seed, desc):
        gap = (run.ld_clean - run.ld_corrupt).tolist()
        for named, ld in step(runner, run):
            change = (ld - run.ld_corrupt).tolist()
            parts.append({"id": run.cases.ids} | named | {"change": change, "gap": gap})
    if parts:
        return averaged(parts, keys)
    none = {"id": "str", "kind": "str", "layer": int, "head": int} | dict.fromkeys(keys, int)
    return pandas.DataFrame(columns=[*none, "change", "gap"], dtype=float).astype(none)


def _heads(runner: PatchRunner, run: Run):
    """With all other attention fixed only the answer's own row matters: one row per head and
    fact."""
    rows, n_heads = run.corrupt_pack.answer_rows, runner.model.config.num_attention_heads
    corrupt = run.corrupt.map(lambda t: t[rows].repeat(n_heads, 1))
    single = Pack(Prompts((), tuple((0,) for _ in range(n_heads * len(rows)))))
    every = torch.arange(len(single.ids[0]))
    targets = run.cases.targets.repeat(n_heads)
    contrasts = run.cases.contrasts.repeat(n_heads, 1)
    for layer in range(len(corrupt.before)):
        nodes = [Node("head", layer, h) for h in range(n_heads)]
        given = list(corrupt.heads)
        given[layer] = given[layer].clone()
        for h, node in enumerate(nodes):
            mine, where = slice(h * len(rows), (h + 1) * len(rows)), columns(runner.model, node)
            given[layer][mine, where] = run.clean.heads[layer][rows][:, where]
        with frozen_attention(runner.model, given):
            final = runner.from_block(single, layer, corrupt.before[layer], every)
        ld = logit_differences(runner.model, final, targets, contrasts)
        yield from zip(map(vars, nodes), ld.split(len(rows)))


def _mlps_into(runner: PatchRunner, run: Run, receiver: int):
    """The MLP's change is added to what the receiver reads, at every token."""
    pack, cases = run.corrupt_pack, run.cases
    for layer in range(receiver):
        change = run.clean.mlp[layer] - run.corrupt.mlp[layer]
        hidden = run.corrupt.before[receiver] + change
        final = runner.from_block(pack, receiver, hidden, pack.answer_rows)
        ld = logit_differences(runner.model, final, cases.targets, cases.contrasts)
        yield vars(Node("mlp", layer)) | {"receiver": receiver}, ld


def _mlps_out(runner: PatchRunner, run: Run):
    rows = run.corrupt_pack.answer_rows
    for layer in range(len(blocks(runner.model))):
        change = run.clean.mlp[layer][rows] - run.corrupt.mlp[layer][rows]
        final = final_norm(runner.model)((run.corrupt.after[-1][rows] + change)[None])[0]
        ld = logit_differences(runner.model, final, run.cases.targets, run.cases.contrasts)
        yield vars(Node("mlp", layer)), ld


def shares(rows: pandas.DataFrame, resamples: int = 500, seed: int = 0) -> pandas.DataFrame:
    """One row per node: effect = mean change / mean gap, and its bootstrap standard error over
    facts; no rows give none."""
    if rows.empty:
        return pandas.DataFrame(columns=[*NODE, "effect", "error"])
    change = rows.pivot_table("change", "id", NODE, sort=False)
    gap = rows.groupby("id").gap.first()[change.index].to_numpy()
    draws = resample(len(gap), resamples, seed)
    values = change.to_numpy()
    found = values.mean(0) / gap.mean()
    spread = (values[draws].mean(1) / gap[draws].mean(1)[:, None]).std(0)
    return change.columns.to_frame(index=False).assign(effect=found, error=spread)


def strongest(heads: pandas.DataFrame, count: int) -> list[Node]:
    """The `count` heads with the largest absolute effect, strongest first; heads: see `shares`."""
    order = heads.assign(size=heads.effect.abs()).sort_values("size", ascending=False)
    return [Node("head", int(r.layer), int(r.head)) for r in order.head(count).itertuples()]


def receiver_of(head_rows: pandas.DataFrame, count: int) -> int:
    """The lowest layer that holds one of the `count` strongest heads."""
    return min(head.layer for head in strongest(shares(head_rows, 2), count))


def layers_above(
    effects: pandas.DataFrame, threshold: float, rule: str = "signed", number: int | None = None
) -> list[int]:
    """Layers whose effect exceeds the threshold and twice its standard error; `absolute` (as
    published) takes the size of the effect and no error. With a `number` instead: so many layers
    with the largest effects. ValueError for an unknown rule."""
    if rule not in RULES:
        raise ValueError(f"unknown rule '{rule}' for path patching: use one of {', '.join(RULES)}")
    if number:
        found = effects.nlargest(number, "effect")
    elif rule == "absolute":
        found = effects[effects.effect.abs() > threshold]
    else:
        found = effects[(effects.effect > threshold) & (effects.effect > 2 * effects.error)]
    return sorted(int(layer) for layer in found.layer)


def lookup_layers(
    head_rows: pandas.DataFrame,
    mlp_rows: pandas.DataFrame,
    count: int,
    threshold: float,
    rule: str = "signed",
    number: int | None = None,
) -> list[int]:
    """Both steps from stored rows: the MLPs that feed the lowest of the strongest heads.

    mlp_rows must hold the receiver that these heads give (see `receiver_of`).
    """
    receiver = receiver_of(head_rows, count)
    rows = mlp_rows[mlp_rows.receiver == receiver]
    return layers_above(shares(rows), threshold, rule, number) if receiver else []


def how_often(rows: pandas.DataFrame, choose, resamples: int = 200) -> pandas.DataFrame:
    """Rows (layer, effect, share, chosen): an MLP's effect, its part of the sum of all positive
    effects, and the share of bootstrap samples of the facts in which `choose(effects)` takes its
    layer; rows: of one receiver."""
    change = rows.pivot_table("change", "id", "layer")
    gap = rows.groupby("id").gap.first()[change.index].to_numpy()
    draws = resample(len(gap), resamples, 0)
    means = change.to_numpy()[draws].mean(1) / gap[draws].mean(1)[:, None]
    error = means.std(0)
    counted = dict.fromkeys(change.columns, 0)
    for effect in means:
        sample = pandas.DataFrame({"layer": change.columns, "effect": effect, "error": error})
        for layer in choose(sample):
            counted[layer] += 1 / resamples
    effect = change.mean() / gap.mean()
    share = effect.clip(lower=0) / effect.clip(lower=0).sum()
    table = pandas.DataFrame({"effect": effect, "share": share, "chosen": counted})
    return table.rename_axis("layer").reset_index()


def receivers(
    head_rows: pandas.DataFrame, repeats: list[pandas.DataFrame], counts: list[int], heads: int
) -> list[int]:
    """Every layer that is the lowest of the strongest heads for one of the `counts`, in one of the
    repeats, or in a half of the facts that `scores.over_halves` draws; layer 0 has no MLP below it.
    """
    found = {receiver_of(head_rows, count) for count in counts}
    found |= {receiver_of(rows, heads) for rows in repeats}

    def note(half: list[str]) -> list:
        found.add(receiver_of(head_rows[head_rows.id.isin(half)], heads))
        return []

    over_halves(list(head_rows.id.unique()), note)
    return sorted(found - {0})


def mechanisms(
    head_rows: pandas.DataFrame,
    mlp_rows: pandas.DataFrame,
    direct_rows: pandas.DataFrame,
    count: int,
    threshold: float,
    rule: str = "signed",
    number: int | None = None,
) -> dict[str, list[Node]]:
    """The three groups of section 9 from stored rows: extraction heads (step 1), lookup MLPs (step
    2), and writing MLPs, those at or above the receiver with a direct effect on the answer."""
    direct = shares(direct_rows)
    direct = direct[direct.layer >= receiver_of(head_rows, count)]
    found = {
        "lookup MLPs": lookup_layers(head_rows, mlp_rows, count, threshold, rule, number),
        "writing MLPs": layers_above(direct, threshold, rule),
    }
    heads = strongest(shares(head_rows), count)
    return {"extraction heads": heads} | {
        name: [Node("mlp", layer) for layer in layers] for name, layers in found.items()
    }

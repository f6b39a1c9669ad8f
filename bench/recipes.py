"""Attribution patching as users of transformer_lens and of nnsight would write it.

Same arguments and rows as `lib.localize.attribution.attribute`. Prompts of equal length share a
batch; the vocabulary is unembedded at every position, as both libraries do by default; weights get
no gradients, which is the cheapest form of either recipe.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import nnsight
import pandas
import torch
from torch import Tensor

from lib.localize.cases import Cases
from lib.localize.corruption import averaged, corrupted
from lib.model.anatomy import blocks, mlp_output, projection
from lib.model.engines import bridge, traceable
from lib.model.nodes import Node, columns


def transformer_lens(loaded, cases, nodes, words, corruptions, seed) -> pandas.DataFrame:
    """Forward hooks on `attn.hook_z` and `hook_mlp_out`; gradients are retained there."""
    lens, n = bridge(loaded), len(blocks(loaded.model))
    names = [f"blocks.{i}.attn.hook_z" for i in range(n)]
    names += [f"blocks.{i}.hook_mlp_out" for i in range(n)]

    def run(ids, ld_of, slopes: bool):
        found: dict[str, Tensor] = {}

        def begin(value, hook):
            return value.detach().requires_grad_(slopes)

        def keep(value, hook, name):
            if slopes:
                value.retain_grad()
            found[name] = value
            return value  # some hook points hand out a reshaped copy, which must go on being used

        hooks = [("hook_embed", begin), *((name, partial(keep, name=name)) for name in names)]
        ld = ld_of(lens.run_with_hooks(ids, fwd_hooks=hooks)[:, -1])
        return [found[name] for name in names], ld

    def clean(ids, ld_of):
        values, ld = run(ids, ld_of, slopes=True)
        ld.sum().backward()
        return _flat([v.detach() for v in values]), _flat([v.grad for v in values]), ld.detach()

    @torch.no_grad()
    def corrupt(ids, ld_of):
        values, ld = run(ids, ld_of, slopes=False)
        return _flat(values), ld

    return _loop(loaded.model, cases, nodes, words, corruptions, seed, clean, corrupt)


def with_nnsight(loaded, cases, nodes, words, corruptions, seed) -> pandas.DataFrame:
    """One trace with a backward block inside."""
    sight = traceable(loaded)
    modules = [projection(block) for block in blocks(loaded.model)]
    outputs = [mlp_output(block) for block in blocks(loaded.model)]
    path = {id(m): n for n, m in loaded.model.named_modules()}
    heads = [_envoy(sight, path[id(m)]) for m in modules]
    mlps = [_envoy(sight, path[id(m)]) for m in outputs]
    first = _envoy(sight, path[id(blocks(loaded.model)[0])])

    def clean(ids, ld_of):
        with sight.trace(ids):
            values, slopes = nnsight.save([]), nnsight.save([])
            first.input = first.input.detach().requires_grad_(True)
            for head, mlp in zip(heads, mlps):
                values.append(head.input)
                values.append(mlp.output)
            ld = nnsight.save(ld_of(sight.output.logits[:, -1]))
            with ld.sum().backward():
                for value in reversed(values):
                    slopes.append(value.grad)
        order = [*range(0, len(values), 2), *range(1, len(values), 2)]
        grads = list(reversed(slopes))
        return [values[i].detach() for i in order], [grads[i] for i in order], ld.detach()

    def corrupt(ids, ld_of):
        with torch.no_grad(), sight.trace(ids):
            values = nnsight.save([])
            for head, mlp in zip(heads, mlps):
                values.append(head.input)
                values.append(mlp.output)
            ld = nnsight.save(ld_of(sight.output.logits[:, -1]))
        return [*values[0::2], *values[1::2]], ld

    return _loop(loaded.model, cases, nodes, words, corruptions, seed, clean, corrupt)


def _loop(model, cases: Cases, nodes: list[Node], words, corruptions, seed, clean, corrupt):
    """Batches of equal length through `clean` and, per corruption, `corrupt`."""
    cases = cases.split_before_subjects()
    n, parts, by_length = len(blocks(model)), [], defaultdict(list)
    for i, suffix in enumerate(cases.prompts.suffixes):
        by_length[len(suffix)].append(i)
    for index in by_length.values():
        mine = cases.take(index)

        def ld_of(logits: Tensor, mine=mine) -> Tensor:
            others = logits.gather(1, mine.contrasts).mean(1)
            return logits.gather(1, mine.targets[:, None])[:, 0] - others

        values, slopes, ld_clean = clean(_ids(mine), ld_of)
        for draw in range(corruptions):
            spoilt, ld_corrupt = corrupt(_ids(corrupted(mine, words, draw, seed)), ld_of)
            products = [(s - v) * g for s, v, g in zip(spoilt, values, slopes)]
            for node in nodes:
                product = products[node.layer + (n if node.kind == "mlp" else 0)]
                score = product[..., columns(model, node)].sum((1, 2))
                row = {"id": mine.ids} | vars(node) | {"score": score.tolist()}
                parts.append(
                    row | {"ld_clean": ld_clean.tolist(), "ld_corrupt": ld_corrupt.tolist()}
                )
    return averaged(parts)


def _ids(cases: Cases) -> Tensor:
    return torch.tensor([[*cases.prompts.prefix, *s] for s in cases.prompts.suffixes])


def _flat(values: list[Tensor]) -> list[Tensor]:
    """(batch, T, heads, d) becomes (batch, T, heads * d)."""
    return [v.flatten(2) for v in values]


def _envoy(sight, path: str):
    for step in path.split("."):
        sight = sight[int(step)] if step.isdigit() else getattr(sight, step)
    return sight

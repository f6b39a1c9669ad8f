"""Attribution patching: one backward pass estimates what patching every node would do.

Corruption replaces the subject by random tokens, as many as it has. To first order, giving node n
its corrupt value in the clean run changes the logit difference LD of fact i by

    s_i(n) = sum over tokens and dimensions of (a_n(corrupt_i) - a_n(clean_i)) * dLD_i / da_n

with the gradient at the clean run (section 4.2). `patch` computes the same change exactly, by
doing it, for the comparison that shows where the estimate fails.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import pandas
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.localize.nodes import (
    Activations,
    Cases,
    Node,
    Restarter,
    columns,
    logit_differences,
    reading,
    replacing,
)
from lib.packing import Pack, Prompts


def plain_tokens(tokenizer) -> list[int]:
    """Ids of tokens that are ASCII words: what subjects are replaced by."""
    marks = "\u0120\u2581"  # how byte-level and sentence-piece tokenizers write a leading space
    words = tokenizer.get_vocab().items()
    special = set(tokenizer.all_special_ids)
    return sorted(
        i
        for word, i in words
        if i not in special and word.lstrip(marks).isascii() and word.lstrip(marks).isalpha()
    )


def corrupted(cases: Cases, words: list[int], draw: int, seed: int) -> Cases:
    """The same prompts with random words in place of each subject's tokens, drawn per fact."""
    n, suffixes = len(cases.prompts.prefix), []
    for name, suffix, positions in zip(cases.ids, cases.prompts.suffixes, cases.subjects):
        key = zlib.crc32(f"{seed} {draw} {name}".encode())
        picks = torch.randint(
            len(words), (len(positions),), generator=torch.Generator().manual_seed(key)
        )
        changed = list(suffix)
        for position, pick in zip(positions, picks.tolist()):
            changed[position - n] = words[pick]
        suffixes.append(tuple(changed))
    return replace(cases, prompts=Prompts(cases.prompts.prefix, tuple(suffixes)))


def attribute(
    model,
    cases: Cases,
    nodes: list[Node],
    words: list[int],
    corruptions: int,
    seed: int,
    max_tokens: int = 640,
) -> pandas.DataFrame:
    """One row per fact and node: id, kind, layer, head, score, ld_clean, ld_corrupt (means over
    corruptions).

    score: estimated change of the fact's logit difference, in logits, before any normalization.
    """
    cases = cases.split_before_subjects()
    runner, parts = Restarter(model, max_tokens=max_tokens), []
    for index, pack in tqdm(runner.packs(cases.prompts), desc="attribution patching"):
        mine = cases.take(index)
        clean, slopes, ld_clean = _gradients(runner, pack, mine)
        for draw in range(corruptions):
            other = Pack(corrupted(mine, words, draw, seed).prompts)
            corrupt = runner.read(other)
            ld_corrupt = _read_out(runner, other, mine, corrupt)
            parts += [
                _frame(mine, node, _products(model, other, node, clean, corrupt, slopes))
                | {"ld_clean": ld_clean.tolist(), "ld_corrupt": ld_corrupt.tolist()}
                for node in nodes
            ]
    rows = pandas.concat([pandas.DataFrame(p) for p in parts], ignore_index=True)
    return rows.groupby(["id", "kind", "layer", "head"], sort=False).mean().reset_index()


@torch.no_grad()
def patch(
    model,
    cases: Cases,
    nodes: list[Node],
    words: list[int],
    corruptions: int,
    seed: int,
    max_tokens: int = 640,
) -> pandas.DataFrame:
    """What `attribute` estimates, exactly: rows of the same columns."""
    cases = cases.split_before_subjects()
    runner, parts = Restarter(model, max_tokens=max_tokens), []
    packs = runner.packs(cases.prompts)
    bar = tqdm(total=len(packs) * corruptions * len(nodes), desc="exact patching")
    for index, pack in packs:
        mine = cases.take(index)
        clean = runner.read(pack)
        ld_clean = _read_out(runner, pack, mine, clean)
        for draw in range(corruptions):
            corrupt = runner.read(Pack(corrupted(mine, words, draw, seed).prompts))
            ld_corrupt = _read_out(runner, pack, mine, corrupt)
            every = torch.arange(pack.ids.shape[1])
            for node in nodes:
                values = corrupt.of(node)[:, columns(model, node)]
                with replacing(model, node, values, every):
                    final = runner.from_block(
                        pack, node.layer, clean.before[node.layer], pack.answer_rows
                    )
                changed = logit_differences(model, final, mine.targets, mine.contrasts)
                parts.append(
                    _frame(mine, node, changed - ld_clean)
                    | {"ld_clean": ld_clean.tolist(), "ld_corrupt": ld_corrupt.tolist()}
                )
                bar.update()
    bar.close()
    rows = pandas.concat([pandas.DataFrame(p) for p in parts], ignore_index=True)
    return rows.groupby(["id", "kind", "layer", "head"], sort=False).mean().reset_index()


def _frame(cases: Cases, node: Node, score: Tensor) -> dict:
    return {"id": cases.ids} | vars(node) | {"score": score.tolist()}


def _gradients(
    runner: Restarter, pack: Pack, cases: Cases
) -> tuple[Activations, Activations, Tensor]:
    """Clean activations, gradients of each fact's own LD with respect to them, and LD (n,).

    Facts in a pack do not see each other, so the gradient of the sum holds each fact's own.
    """

    def keep(tensor):
        tensor.retain_grad()
        return tensor

    start = runner.read(pack).before[0].requires_grad_(True)
    with torch.enable_grad(), reading(runner.model, keep) as found:
        final = runner.from_block(pack, 0, start, pack.answer_rows)
        ld = logit_differences(runner.model, final, cases.targets, cases.contrasts)
        ld.sum().backward()
    return found.map(lambda t: t.detach()[0]), found.map(lambda t: t.grad[0]), ld.detach()


def _products(model, pack, node, clean, corrupt, slopes) -> Tensor:
    """Sum of (corrupt - clean) * slope over each prompt's own tokens: (n_prompts,)."""
    where = columns(model, node)
    change = (corrupt.of(node) - clean.of(node))[:, where] * slopes.of(node)[:, where]
    per_row = change.sum(1)
    return torch.stack([per_row[a:b].sum() for a, b in pack.segments[1:]])


def _read_out(runner, pack, cases, activations) -> Tensor:
    final = runner.from_block(pack, len(activations.after), activations.after[-1], pack.answer_rows)
    return logit_differences(runner.model, final, cases.targets, cases.contrasts).detach()

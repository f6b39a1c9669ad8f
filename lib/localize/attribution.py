"""Attribution patching: one backward pass estimates what patching every node would do.

Corruption replaces the subject by random tokens, as many as it has. To first order, giving node n
its corrupt value in the clean run changes the logit difference LD of fact i by

    s_i(n) = sum over tokens and dimensions of (a_n(corrupt_i) - a_n(clean_i)) * dLD_i / da_n

with the gradient at the clean run (section 4.2). `patch` computes the same change exactly, by
doing it, for the comparison that shows where the estimate fails.
"""

from __future__ import annotations

import pandas
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.localize.cases import Cases, logit_differences
from lib.localize.corruption import Run, averaged, corrupt_runs
from lib.model.nodes import Activations, Node, PatchRunner, columns, reading, replacing


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
    runner, parts, slopes = PatchRunner(model, max_tokens=max_tokens), [], {}
    for run in corrupt_runs(runner, cases, words, corruptions, seed, "attribution patching"):
        if run.draw == 0:
            slopes = _gradients(runner, run)
        parts += [_frame(run, n, _products(model, run, n, slopes)) for n in nodes]
    return averaged(parts)


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
    runner, parts = PatchRunner(model, max_tokens=max_tokens), []
    for run in corrupt_runs(runner, cases, words, corruptions, seed, "exact patching"):
        every = torch.arange(run.pack.ids.shape[1])
        for node in tqdm(nodes, desc="nodes", leave=False):
            values = run.corrupt.of(node)[:, columns(model, node)]
            before = run.clean.before[node.layer]
            with replacing(model, node, values, every):
                final = runner.from_block(run.pack, node.layer, before, run.pack.answer_rows)
            changed = logit_differences(model, final, run.cases.targets, run.cases.contrasts)
            parts.append(_frame(run, node, changed - run.ld_clean))
    return averaged(parts)


def _frame(run: Run, node: Node, score: Tensor) -> dict:
    gap = {"ld_clean": run.ld_clean.tolist(), "ld_corrupt": run.ld_corrupt.tolist()}
    return {"id": run.cases.ids} | vars(node) | {"score": score.tolist()} | gap


def _gradients(runner: PatchRunner, run: Run) -> Activations:
    """Gradients of each fact's own LD with respect to every activation of the clean run.

    Facts in a pack do not see each other, so the gradient of the sum holds each fact's own.
    """

    def keep(tensor):
        tensor.retain_grad()
        return tensor

    start = run.clean.before[0].clone().requires_grad_(True)
    with torch.enable_grad(), reading(runner.model, keep) as found:
        final = runner.from_block(run.pack, 0, start, run.pack.answer_rows)
        ld = logit_differences(runner.model, final, run.cases.targets, run.cases.contrasts)
        ld.sum().backward()
    return found.map(lambda t: t.grad[0])


def _products(model, run: Run, node: Node, slopes: Activations) -> Tensor:
    """Sum of (corrupt - clean) * slope over each prompt's own tokens: (n_prompts,)."""
    where = columns(model, node)
    change = (run.corrupt.of(node) - run.clean.of(node))[:, where] * slopes.of(node)[:, where]
    per_row = change.sum(1)
    return torch.stack([per_row[a:b].sum() for a, b in run.pack.segments[1:]])

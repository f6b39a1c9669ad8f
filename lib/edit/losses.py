"""The three terms of the training objective (section 5.1), in nats, over the whole vocabulary.

    L = weight_edit * L_edit + weight_retain * L_retain + weight_text * L_text

L_edit: -log p(new answer) on facts to change, or -log(1 - p(true answer)) on facts to forget;
L_retain: -log p(true answer) on facts to keep;
L_text: next-token loss on plain text. There is no KL term and no distillation, as published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.model.packing import Pack, Prompts
from lib.model.runner import Runner


@dataclass(frozen=True)
class Step:
    """What one training step sees: a pack of facts and passages, and the answers wanted.

    wanted: (n_facts,) target tokens, the first n_changed of them for facts to change.
    """

    pack: Pack
    wanted: Tensor
    n_changed: int


def make_step(
    prompts: Prompts,
    changed: list[int],
    kept: list[int],
    targets: Tensor,
    passages: list[tuple[int, ...]],
) -> Step:
    """Pack the prompts at `changed` and `kept` with passages; targets: (n_prompts,) answer
    tokens."""
    index = changed + kept
    return Step(Pack(prompts.take(index), tuple(passages)), targets[index], len(changed))


def losses(runner: Runner, step: Step) -> dict[str, Tensor]:
    """{"edit", "retain", "text"}: mean negative log probabilities of one step (0 where it has no
    items)."""
    return {name: mean(part) for name, part in term_nll(runner, step).items()}


def mean(part: Tensor) -> Tensor:
    """Mean over a term's items, 0 if there are none."""
    return part.mean() if len(part) else part.new_zeros(())


def term_nll(runner: Runner, step: Step) -> dict[str, Tensor]:
    """{"edit", "retain", "text"}: negative log probability of every item of one step."""
    answer_rows, text_rows = step.pack.answer_rows, step.pack.text_rows
    wanted = torch.cat([step.wanted, step.pack.text_targets])
    nll = runner.nll(step.pack, torch.cat([answer_rows, text_rows]), wanted)
    n, facts = step.n_changed, len(answer_rows)
    return {"edit": nll[:n], "retain": nll[n:facts], "text": nll[facts:]}


FORGOTTEN = 5.0  # nats: answers less probable than this are pushed no further, as published


def forgetting(nll: Tensor) -> Tensor:
    """-log(1 - p) of every item, given -log p; 0, without a gradient, where log p < -FORGOTTEN."""
    rest = -torch.expm1(-nll.clamp(min=1e-6))  # 1 - p, exact near p = 1
    return torch.where(nll <= FORGOTTEN, -rest.log(), torch.zeros_like(nll))


class Sampler:
    """Batches of indices: every item once per round, in an order drawn from a seed."""

    def __init__(self, items: list, seed: int):
        self.items, self.queue = list(items), []
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, size: int) -> list:
        """The next `size` items (all of them if there are fewer)."""
        size = min(size, len(self.items))
        while len(self.queue) < size:
            order = torch.randperm(len(self.items), generator=self.generator).tolist()
            self.queue += [self.items[i] for i in order]
        batch, self.queue = self.queue[:size], self.queue[size:]
        return batch

"""Universal trigger: greedy search for real tokens, put before every prompt, that bring back the
taught half.

One token at a time is exchanged: the gradient with respect to its embedding ranks the whole
vocabulary to first order, the best few are tried exactly, and the best one stays if it helps
(Wallace et al. 2019; Zou et al. 2023 search many more).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lib.attacks.inserted import Inserted, longer
from lib.attacks.target import ReadOut, Target
from lib.config.errors import Block, Count
from lib.facts.formats import encode
from lib.model.packing import Pack, Prompts

SEES = "gradients with respect to prompt tokens; true answers of the taught half"
BUDGET = "tokens exchanged"
ORACLE = False


class Settings(Block):
    """tokens: length of the trigger; rounds: how often each is exchanged; candidates: tried exactly
    per exchange; facts: of the taught half that the search is run on."""

    tokens: Count
    rounds: Count
    candidates: Count
    facts: Count


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """One read-out before the search and one after every round."""
    loaded = target.loaded
    taught = target.taught[: settings.facts]
    prompts = encode(loaded.tokenizer, [f.prompt for f in taught])
    answers = torch.tensor([f.true_token for f in taught])
    generator = torch.Generator().manual_seed(target.seed)
    start = torch.randint(len(loaded.tokenizer), (settings.tokens,), generator=generator)
    trigger = start.tolist()
    yield _level(target, trigger, 0)
    for done in range(1, settings.rounds + 1):
        for place in range(settings.tokens):
            trigger = exchange(loaded, prompts, answers, trigger, place, settings.candidates)
        yield _level(target, trigger, done * settings.tokens)


def _level(target: Target, trigger: list[int], exchanged: int) -> ReadOut:
    rows = target.read(Inserted(target.loaded, tuple(trigger)))
    return ReadOut(rows, exchanged, trained=len(trigger), steps=exchanged, taught=True)


def exchange(
    loaded, prompts: Prompts, answers: Tensor, trigger: list[int], place: int, candidates: int
) -> list[int]:
    """The trigger with the token at `place` exchanged for the candidate that makes the answers most
    probable, or as it is if none does."""
    before, slope = gradient(loaded, prompts, answers, trigger, place)
    table = loaded.model.get_input_embeddings().weight[: len(loaded.tokenizer)]
    gain = -(table.float() @ slope)
    gain[list(loaded.tokenizer.all_special_ids)] = -torch.inf
    tried = [
        [*trigger[:place], t, *trigger[place + 1 :]] for t in gain.topk(candidates)[1].tolist()
    ]
    losses = [loss(loaded, prompts, answers, t) for t in tried]
    best = min(range(len(tried)), key=losses.__getitem__)
    return tried[best] if losses[best] < before else trigger


def gradient(
    loaded, prompts: Prompts, answers: Tensor, trigger: list[int], place: int
) -> tuple[float, Tensor]:
    """(loss, its slope with respect to the embedding of the token at `place`: (d_model,))."""
    words = torch.tensor(trigger, device=loaded.model.device)
    vectors = loaded.model.get_input_embeddings()(words).detach().requires_grad_(True)
    found = _loss(Inserted(loaded, tuple(trigger), vectors), prompts, answers)
    found.backward()
    return found.item(), vectors.grad[place].float()


@torch.no_grad()
def loss(loaded, prompts: Prompts, answers: Tensor, trigger: list[int]) -> float:
    """Mean -log p(true answer) with the trigger in front, in nats."""
    return _loss(Inserted(loaded, tuple(trigger)), prompts, answers).item()


def _loss(runner: Inserted, prompts: Prompts, answers: Tensor) -> Tensor:
    pack = Pack(longer(prompts, runner.tokens, runner.bos))
    return runner.nll(pack, pack.answer_rows, answers).mean()

"""Facts to patch: their prompts, where their subjects stand, and the answers that the true one is
compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib.facts.formats import Format, encode, first_tokens
from lib.facts.records import FactRecord
from lib.model import unembed
from lib.model.packing import Pack, Prompts


def subject_rows(pack: Pack, subjects: list[tuple[int, ...]]) -> Tensor:
    """Rows of all subject tokens of a pack, prompt by prompt: (n_tokens,)."""
    starts = [start for start, _ in pack.segments[1 : 1 + len(subjects)]]
    n = len(pack.prompts.prefix)
    return torch.tensor([a + p - n for a, positions in zip(starts, subjects) for p in positions])


@dataclass(frozen=True)
class Cases:
    """Facts to patch: what each localization method is given.

    ids; prompts; subjects: token positions of the subject in each full prompt; targets: (n_facts,)
    tokens of the true answers; contrasts: (n_facts, n_others) tokens of the answers they are
    measured against, in logit differences.
    """

    ids: list[str]
    prompts: Prompts
    subjects: list[tuple[int, ...]]
    targets: Tensor
    contrasts: Tensor

    @staticmethod
    def of(tokenizer, forms: dict[str, Format], facts: list[FactRecord]) -> Cases:
        """Facts in their training prompts; forms: {relation: training format}.

        Facts of one relation are measured against all its other answers (sports: the mean of the
        other sports), facts of several relations each against the answer it is edited to
        (CounterFact: its false target), section 4.2.
        """
        if len({f.relation for f in facts}) == 1:
            tokens = first_tokens(tokenizer, forms[facts[0].relation], facts[0].options)
            others = [[tokens[o] for o in f.options if o != f.true] for f in facts]
        else:
            others = [[f.edit_token] for f in facts]
        return Cases(
            [f.id for f in facts],
            encode(tokenizer, [f.prompt for f in facts]),
            [f.subject_positions for f in facts],
            torch.tensor([f.true_token for f in facts]),
            torch.tensor(others),
        )

    def take(self, index) -> Cases:
        """The facts at `index`, an iterable of numbers."""
        index = list(index)
        return Cases(
            [self.ids[i] for i in index],
            self.prompts.take(index),
            [self.subjects[i] for i in index],
            self.targets[index],
            self.contrasts[index],
        )

    def split_before_subjects(self) -> Cases:
        """The same with a shared prefix that ends before the first subject token.

        What stands in the shared prefix is the same in every run, so a subject that is corrupted
        must not be part of it.
        """
        prefix, suffixes = self.prompts.prefix, self.prompts.suffixes
        n = min(len(prefix), *(min(s) for s in self.subjects))
        return replace(self, prompts=Prompts(prefix[:n], tuple(prefix[n:] + s for s in suffixes)))


def logit_differences(model, final: Tensor, targets: Tensor, contrasts: Tensor) -> Tensor:
    """logit(true) - mean logit(others) for final hidden states (n, d): (n,); keeps gradients."""
    tokens = torch.cat([targets, contrasts.flatten()]).unique()
    logits = unembed.logits(model, final, tokens.tolist())
    true = torch.searchsorted(tokens, targets)[:, None].to(final.device)
    others = torch.searchsorted(tokens, contrasts).to(final.device)
    return logits.gather(1, true)[:, 0] - logits.gather(1, others).mean(1)

"""Corrupt prompts, random words in place of the subject, and the clean and corrupt runs that
attribution patching, exact patching and path patching all start from.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.localize.cases import Cases, logit_differences
from lib.model.nodes import Activations, PatchRunner
from lib.model.packing import Pack, Prompts

NODE = ["kind", "layer", "head"]


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


@dataclass(frozen=True)
class Run:
    """Some facts with one corruption: packs, activations and logit differences (n_facts,) of the
    clean and the corrupt prompts, which have the same tokens but for the subject."""

    draw: int
    cases: Cases
    pack: Pack
    clean: Activations
    ld_clean: Tensor
    corrupt_pack: Pack
    corrupt: Activations
    ld_corrupt: Tensor


def corrupt_runs(
    runner: PatchRunner, cases: Cases, words: list[int], corruptions: int, seed: int, desc: str
) -> Iterator[Run]:
    """Every pack of facts with every corruption, under a progress bar; the clean run is made once
    a pack (its first corruption has draw 0)."""
    cases = cases.split_before_subjects()
    packs = runner.packs(cases.prompts)
    with tqdm(total=len(packs) * corruptions, desc=desc) as bar:
        for index, pack in packs:
            mine = cases.take(index)
            clean = runner.read(pack)
            ld_clean = read_out(runner, pack, mine, clean)
            for draw in range(corruptions):
                other = Pack(corrupted(mine, words, draw, seed).prompts)
                corrupt = runner.read(other)
                ld_corrupt = read_out(runner, other, mine, corrupt)
                yield Run(draw, mine, pack, clean, ld_clean, other, corrupt, ld_corrupt)
                bar.update()


@torch.no_grad()
def read_out(runner: PatchRunner, pack: Pack, cases: Cases, activations: Activations) -> Tensor:
    """Logit difference of every fact at the end of a run that has been read: (n_facts,)."""
    last = len(activations.after)
    final = runner.from_block(pack, last, activations.after[-1], pack.answer_rows)
    return logit_differences(runner.model, final, cases.targets, cases.contrasts)


def averaged(parts: list[dict], keys: tuple[str, ...] = ()) -> pandas.DataFrame:
    """Rows of all runs, means over corruptions: one per fact and node (and further `keys`)."""
    rows = pandas.concat([pandas.DataFrame(p) for p in parts], ignore_index=True)
    return rows.groupby(["id", *NODE, *keys], sort=False).mean().reset_index()

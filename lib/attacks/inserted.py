"""Tokens or free vectors put in front of every prompt, right after its opening token."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor

from lib.model.hooks import after, hooked
from lib.model.packing import Pack, Prompts
from lib.model.runner import Runner


def start_of(prompts: Prompts, bos: int | None) -> int:
    """Where the first word stands: after the opening token, if this tokenizer writes one."""
    whole = prompts.prefix or prompts.suffixes[0]
    return int(bos is not None and whole[:1] == (bos,))


def longer(prompts: Prompts, tokens: tuple[int, ...], bos: int | None) -> Prompts:
    """The prompts with `tokens` inserted; all prompts then share them as prefix."""
    at = start_of(prompts, bos)
    if at and not prompts.prefix:
        prompts = Prompts((bos,), tuple(s[1:] for s in prompts.suffixes))
    return Prompts((*prompts.prefix[:at], *tokens, *prompts.prefix[at:]), prompts.suffixes)


class Inserted(Runner):
    """A Runner that reads every prompt with `tokens` in front, or with free `vectors` (n, d_model)
    in their place."""

    def __init__(self, loaded, tokens: tuple[int, ...], vectors: Tensor | None = None):
        super().__init__(loaded.model)
        self.bos = loaded.tokenizer.bos_token_id
        self.tokens, self.vectors = tuple(tokens), vectors

    def packs(self, prompts: Prompts) -> list[tuple[list[int], Pack]]:
        """As `Runner.packs`, of the longer prompts."""
        return super().packs(longer(prompts, self.tokens, self.bos))

    def hidden(self, pack: Pack, rows: Tensor) -> Tensor:
        """As `Runner.hidden`, with gradients with respect to the vectors."""
        if self.vectors is None:
            return super().hidden(pack, rows)
        with replaced(self.model, start_of(pack.prompts, self.bos), self.vectors):
            return super().hidden(pack, rows)


@contextmanager
def replaced(model, start: int, vectors: Tensor):
    """Let the embedding give `vectors` (n, d_model) at positions start ... start + n."""

    def put(module, args, output):
        end = start + len(vectors)
        new = vectors.to(output.dtype)[None]
        return torch.cat([output[:, :start], new, output[:, end:]], dim=1)

    with hooked(after(model.get_input_embeddings(), put)):
        yield

"""Forward passes over packs, reusing what does not change.

Layers below the first trained one never change, so their output is computed once per item and the
pass starts from it. Logits are taken at the rows that are read, and only there (the unembedding of
the default model costs more than all its blocks).
"""

from __future__ import annotations

from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from lib.model import unembed
from lib.model.anatomy import blocks, mlp_norm
from lib.model.hooks import after, before, entering, hooked, leaving
from lib.model.packing import Pack, Prompts


@contextmanager
def starting_at(model, layer: int, hidden: Tensor):
    """Let the forward pass of `model` begin at block `layer` with `hidden` (1, T, d_model).

    Blocks below hand their input on untouched; masks and position embeddings are still made by
    the model's own code, so this works for every family.
    """
    below = list(blocks(model))[:layer]
    for block in below:
        block.forward = lambda hidden_states, *args, **kwargs: hidden_states

    def begin(module, args, kwargs):
        return (hidden, *args[1:]), kwargs

    try:
        with hooked(before(blocks(model)[layer], begin, kwargs=True)):
            yield
    finally:
        for block in below:
            del block.forward


class _Stop(Exception):
    """Raised inside a hook to leave a forward pass that has given all that is needed."""


class Runner:
    """Forward passes of one model over packs, reusing the layers below `first_layer`.

    first_layer: lowest block whose weights may change (0: nothing is reused). Prompts are grouped
    into packs of at most `max_tokens` tokens: attention in a pack grows with the square of its
    length.
    """

    def __init__(self, model, first_layer: int = 0, max_tokens: int = 640):
        self.model, self.first_layer, self.max_tokens = model, first_layer, max_tokens
        self.device = next(model.parameters()).device
        self._below: dict[tuple, Tensor] = {}

    def hidden(self, pack: Pack, rows: Tensor) -> Tensor:
        """Final hidden states (after the last norm) at `rows`: (n_rows, d_model); keeps
        gradients."""
        if not self.first_layer:
            return self._final(pack, rows)
        with starting_at(self.model, self.first_layer, self._hidden_below(pack)):
            return self._final(pack, rows)

    def logits(self, pack: Pack, rows: Tensor, tokens: list[int] | None = None) -> Tensor:
        """Logits at `rows`, of all or only of some `tokens`: (n_rows, n_tokens)."""
        return unembed.logits(self.model, self.hidden(pack, rows), tokens)

    def nll(self, pack: Pack, rows: Tensor, targets: Tensor) -> Tensor:
        """-log p(target) at `rows` over the whole vocabulary, in nats: (n_rows,)."""
        return unembed.nll(self.model, self.hidden(pack, rows), targets.to(self.device))

    def packs(self, prompts: Prompts) -> list[tuple[list[int], Pack]]:
        """Split prompts into packs of at most max_tokens: [(indices, Pack), ...]."""
        groups, size = [[]], len(prompts.prefix)
        for i, suffix in enumerate(prompts.suffixes):
            if groups[-1] and size + len(suffix) > self.max_tokens:
                groups.append([])
                size = len(prompts.prefix)
            groups[-1].append(i)
            size += len(suffix)
        return [(g, Pack(prompts.take(g))) for g in groups]

    @torch.no_grad()
    def answer_hidden(self, prompts: Prompts) -> Tensor:
        """Final hidden states after every prompt, without gradients: (n_prompts, d_model)."""
        return torch.cat([self.hidden(p, p.answer_rows) for _, p in self.packs(prompts)])

    @torch.no_grad()
    def answer_logits(self, prompts: Prompts, tokens: list[int] | None = None) -> Tensor:
        """Logits after every prompt, without gradients: (n_prompts, n_tokens) on the CPU."""
        return unembed.logits(self.model, self.answer_hidden(prompts), tokens).float().cpu()

    @torch.no_grad()
    def answer_nll(self, prompts: Prompts, targets: Tensor) -> Tensor:
        """-log p(target) after every prompt, without gradients: (n_prompts,) on the CPU."""
        hidden = self.answer_hidden(prompts)
        return unembed.nll(self.model, hidden, targets.to(self.device)).cpu()

    @torch.no_grad()
    def residuals(self, pack: Pack, rows: Tensor) -> Tensor:
        """Residual stream before block 0, after attention and after each block: (2 L + 1, n_rows,
        d).

        Order: embedding, mid[0], post[0], mid[1], post[1], ... where mid[l] is what the MLP of
        block l reads (in GPT-NeoX, whose attention and MLP run side by side, that is the block's
        input).
        """
        rows = rows.to(self.device)
        saved: list[Tensor] = []
        layers = list(blocks(self.model))

        def keep_input(module, args, kwargs):
            saved.append(entering(args, kwargs)[0, rows].clone())

        def keep_output(module, args, output):
            saved.append(leaving(output)[0, rows].clone())

        hooks = [before(layers[0], keep_input, kwargs=True)]
        for block in layers:
            hooks += [before(mlp_norm(block), keep_input, kwargs=True), after(block, keep_output)]
        with hooked(*hooks):
            self.model.base_model(**self._inputs(pack))
        return torch.stack(saved).cpu()

    def _final(self, pack: Pack, rows: Tensor) -> Tensor:
        states = self.model.base_model(**self._inputs(pack)).last_hidden_state
        return states[0, rows.to(self.device)]

    def _inputs(self, pack: Pack) -> dict:
        return {
            "input_ids": pack.ids.to(self.device),
            "position_ids": pack.positions.to(self.device),
            "attention_mask": self._mask(pack),
            "use_cache": False,
        }

    def _mask(self, pack: Pack) -> Tensor | dict[str, Tensor]:
        """The additive mask; one per kind of layer where a sequence exceeds the sliding window."""
        dtype = next(self.model.parameters()).dtype
        config = self.model.config
        full = pack.hidden_from.to(self.device)

        def additive(hidden: Tensor) -> Tensor:
            lowest = torch.finfo(dtype).min
            return torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill(
                hidden, lowest
            )

        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None) or ()
        if "sliding_attention" not in kinds or int(pack.positions.max()) < window:
            return additive(full)
        at = pack.positions[0].to(self.device)
        far = at[:, None] - at[None, :] >= window
        return {"full_attention": additive(full), "sliding_attention": additive(full | far)}

    def _hidden_below(self, pack: Pack) -> Tensor:
        """Residual stream that enters block `first_layer`, each item computed once: (1, T, d)."""
        self._compute_below(self._unseen(pack))
        return torch.cat([self._below[k] for k in self._keys(pack)])[None]

    def _unseen(self, pack: Pack) -> Pack:
        """The prompts and passages of a pack that have not been through the layers below."""
        prefix = pack.prompts.prefix if pack.prompts else ()
        suffixes = pack.prompts.suffixes if pack.prompts else ()
        new = tuple(s for s in suffixes if (prefix, s) not in self._below)
        passages = tuple(p for p in pack.passages if ((), p) not in self._below)
        return Pack(Prompts(prefix, new) if new else None, passages)

    @staticmethod
    def _keys(pack: Pack) -> list[tuple]:
        prefix = pack.prompts.prefix if pack.prompts else ()
        suffixes = pack.prompts.suffixes if pack.prompts else ()
        return (
            [(prefix, "prefix")]
            + [(prefix, s) for s in suffixes]
            + [((), p) for p in pack.passages]
        )

    @torch.no_grad()
    def _compute_below(self, pack: Pack) -> None:
        """Run the layers below over a pack and keep what comes out, item by item."""

        def keep(module, args, kwargs):
            hidden = entering(args, kwargs)[0]
            for key, (start, stop) in zip(self._keys(pack), pack.segments):
                self._below.setdefault(key, hidden[start:stop].clone())
            raise _Stop

        if not pack.ids.numel():
            return
        start = before(blocks(self.model)[self.first_layer], keep, kwargs=True)
        with suppress(_Stop), hooked(start):
            self.model.base_model(**self._inputs(pack))

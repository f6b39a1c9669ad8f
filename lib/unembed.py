"""From the last hidden state to answers: only the rows and only the words that are read.

The default model's vocabulary matrix holds more weights than all its blocks, so the unembedding
is where time goes. `logits` takes the rows of the vocabulary that are asked for; `nll` gives -log
p(target) and, in the same pass, its exact gradient with respect to the hidden state, without
keeping a (rows, vocabulary) table for the backward pass (a quarter less time, half the memory
here).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 256  # rows per matrix product: bounds memory at 256 MiB for the default model


def logits(model, hidden: Tensor, tokens: list[int] | None = None) -> Tensor:
    """Logits of `tokens` (default: the whole vocabulary) for final hidden states (n, d): (n,
    n_tokens)."""
    head = model.get_output_embeddings()
    weight, bias = head.weight, head.bias
    if tokens is not None:
        weight, bias = weight[tokens], bias[tokens] if bias is not None else None
    return _softcap(F.linear(hidden, weight, bias), _cap(model))


def nll(model, hidden: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats for final hidden states (n, d) and targets (n,): (n,)."""
    head = model.get_output_embeddings()
    return _NegativeLogLikelihood.apply(hidden, head.weight, head.bias, targets, _cap(model))


def _cap(model) -> float | None:
    """Gemma-2 squashes its logits: cap * tanh(logit / cap)."""
    return getattr(model.config, "final_logit_softcapping", None)


def _softcap(z: Tensor, cap: float | None) -> Tensor:
    return z if cap is None else torch.tanh(z / cap) * cap


class _NegativeLogLikelihood(torch.autograd.Function):
    """Forward gives the gradient too: d nll / d hidden = (softmax - one-hot) W, rows at a time."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, cap):
        wants_gradient = ctx.needs_input_grad[0]
        losses, slopes = [], []
        for h, y in zip(hidden.split(ROWS), targets.split(ROWS)):
            z = _softcap(F.linear(h, weight, bias), cap).float()
            y = y[:, None]
            picked = z.gather(1, y)
            bend = 1 - (z / cap) ** 2 if cap is not None and wants_gradient else None
            top = z.amax(1, keepdim=True)
            total = (
                z.sub_(top).exp_().sum(1, keepdim=True)
            )  # z now holds unnormalized probabilities
            losses.append((total.log() + top - picked)[:, 0])
            if wants_gradient:
                z.div_(total).scatter_add_(1, y, -torch.ones_like(picked))
                slopes.append((z if bend is None else z * bend).to(weight.dtype) @ weight)
        ctx.slope = torch.cat(slopes) if wants_gradient else None
        return torch.cat(losses)

    @staticmethod
    def backward(ctx, upstream):
        return upstream[:, None].to(ctx.slope.dtype) * ctx.slope, None, None, None, None

"""From the last hidden state to answers: only the rows and only the words that are read.

The default model's vocabulary matrix holds more weights than all its blocks, so the unembedding
is where time goes. `logits` takes the rows of the vocabulary that are asked for; `nll` gives -log
p(target) and, in the same pass, its exact gradient with respect to the hidden state. It walks
through the vocabulary in pieces that stay in the processor's cache, with a running maximum and
sum, so that no (rows, vocabulary) table is ever made: a quarter less time here, and next to no
memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.model.matmul import ExactLinear, exact_products

WORDS = 2048  # of the vocabulary at a time: five megabytes of weights for the default model
WORDS_ACCELERATOR = 32768  # fewer and larger pieces where starting one costs more than its cache


def logits(model, hidden: Tensor, tokens: list[int] | None = None) -> Tensor:
    """Logits of `tokens` (default: the whole vocabulary) for final hidden states (n, d): (n,
    n_tokens)."""
    head = model.get_output_embeddings()
    weight, bias = head.weight, head.bias
    if tokens is not None:
        weight, bias = weight[tokens], bias[tokens] if bias is not None else None
    return _softcap(ExactLinear.apply(hidden, weight, bias), _cap(model))


def nll(model, hidden: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats for final hidden states (n, d) and targets (n,): (n,)."""
    head = model.get_output_embeddings()
    with exact_products():
        return _NegativeLogLikelihood.apply(hidden, head.weight, head.bias, targets, _cap(model))


def _cap(model) -> float | None:
    """Gemma-2 squashes its logits: cap * tanh(logit / cap)."""
    return getattr(model.config, "final_logit_softcapping", None)


def _softcap(z: Tensor, cap: float | None) -> Tensor:
    return z if cap is None else torch.tanh(z / cap) * cap


class _NegativeLogLikelihood(torch.autograd.Function):
    """Forward gives the gradient too: d nll / d hidden = (softmax - one-hot) W.

    Sums over the vocabulary are kept relative to the largest logit so far, and shrunk whenever a
    larger one appears. With a cap, each word's slope is bent by 1 - (logit / cap)^2.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, cap):
        wants_gradient = ctx.needs_input_grad[0]
        top = hidden.new_full((len(hidden), 1), -torch.inf, dtype=torch.float32)
        total = torch.zeros_like(top)
        slope = torch.zeros_like(hidden, dtype=torch.float32)
        size = WORDS if hidden.device.type == "cpu" else WORDS_ACCELERATOR
        for start in range(0, len(weight), size):
            words = slice(start, start + size)
            z = _softcap(
                F.linear(hidden, weight[words], None if bias is None else bias[words]), cap
            ).float()
            bend = _bend(z, cap) if wants_gradient and cap is not None else None
            higher = torch.maximum(top, z.amax(1, keepdim=True))
            shrink, top = (top - higher).exp_(), higher
            p = z.sub_(top).exp_()  # unnormalized probabilities, in place
            total.mul_(shrink).add_(p.sum(1, keepdim=True))
            if wants_gradient:
                p = p if bend is None else p.mul_(bend)
                slope.mul_(shrink).addmm_(p, weight[words].float())
        wanted = weight[targets].float()
        picked = (hidden.float() * wanted).sum(1, keepdim=True)
        picked = _softcap(picked if bias is None else picked + bias[targets, None], cap)
        if wants_gradient:
            pull = wanted if cap is None else wanted * _bend(picked, cap)
            ctx.slope = slope.div_(total).sub_(pull).to(hidden.dtype)
        return (total.log() + top - picked)[:, 0]

    @staticmethod
    def backward(ctx, upstream):
        return upstream[:, None].to(ctx.slope.dtype) * ctx.slope, None, None, None, None


def _bend(z: Tensor, cap: float) -> Tensor:
    """Derivative of the cap at capped logits z."""
    return 1 - (z / cap) ** 2

"""How exact float32 matrix products are: `exact`, or `fast` where the processor has units for it.

`fast` lets PyTorch round the factors of a product to bfloat16 (on CUDA: TF32); weights and sums
stay float32. Few CPUs have such units (AMX; avx512_bf16 is not enough). On the others another
library computes the same products, which changes their last bits. The unembedding is always exact:
over a large vocabulary the rounding would give probabilities above 1. Only the newer of PyTorch's
two interfaces is used, since mixing them raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = {"mkldnn": "bf16", "cuda": "tf32"}  # {backend: its fast precision}


def set_matmul(kind: str) -> None:
    """Set the precision of all products from here on; kind: exact or fast, ValueError for any
    other."""
    if kind not in ("exact", "fast"):
        raise ValueError(f"unknown precision '{kind}' of products: use exact or fast")
    for backend, fast in BACKENDS.items():
        _place(backend).fp32_precision = fast if kind == "fast" else "ieee"


@contextmanager
def products(kind: str) -> Iterator[None]:
    """Inside, products are of this kind, whatever `set_matmul` said."""
    before = {backend: _place(backend).fp32_precision for backend in BACKENDS}
    try:
        set_matmul(kind)
        yield
    finally:
        for backend, value in before.items():
            _place(backend).fp32_precision = value


def exact_products():
    """Inside, products are exact, whatever `set_matmul` said."""
    return products("exact")


class ExactLinear(torch.autograd.Function):
    """hidden @ weight.T + bias, exact forward and backward; weight and bias get no gradient."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        with exact_products():
            return F.linear(hidden, weight, bias)

    @staticmethod
    def backward(ctx, upstream: Tensor):
        with exact_products():
            return upstream @ ctx.saved_tensors[0], None, None


def _place(backend: str):
    return getattr(torch.backends, backend).matmul

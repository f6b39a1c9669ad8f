"""Fast products: nothing changes unless they are asked for, and the unembedding never does."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from conftest import edit_settings
from torch.overrides import TorchFunctionMode

from lib import paths
from lib.edit.train import train
from lib.model import unembed
from lib.model.matmul import BACKENDS, exact_products, products, set_matmul

FUNCTIONS = {F.linear, torch.matmul, torch.bmm, torch.Tensor.__matmul__, torch.Tensor.matmul}


class Rounding(TorchFunctionMode):
    """Products as a processor with units for bfloat16 gives them wherever PyTorch lets it; what
    happens inside `backward` is not seen."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if torch.backends.mkldnn.matmul.fp32_precision == "bf16":
            if func in FUNCTIONS:
                args = [x if x is None else x.bfloat16().to(x.dtype) for x in args]
            elif func is torch.Tensor.addmm_:
                args = [args[0], *(x.bfloat16().to(x.dtype) for x in args[1:])]
        return func(*args, **(kwargs or {}))


def precisions() -> list[str]:
    return [getattr(torch.backends, backend).matmul.fp32_precision for backend in BACKENDS]


@pytest.fixture(autouse=True)
def as_before():
    with products("exact"):
        yield


def fast_rounds() -> bool:
    """Does `fast` round factors on this processor? If not, it has no units for it."""
    x = torch.full((64, 64), 1 + 2**-12)  # bfloat16 takes it for 1
    with products("fast"):
        return (x @ x).max().item() < 64.02


@pytest.fixture(params=["by this processor", "by hand"])
def rounding(request):
    """A context in which `fast` rounds, if need be by hand."""
    if request.param == "by hand":
        return Rounding
    if not fast_rounds():
        pytest.skip("this processor has no units for bfloat16 that PyTorch would use")
    return nullcontext


@pytest.fixture(params=["llama", "gemma2"])
def case(request, fresh):
    """(model, hidden states, targets): one state for every word of the vocabulary."""
    model = fresh(request.param).model
    state = 3 * torch.randn(48, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(len(model.get_output_embeddings().weight))
    return model, state.repeat(len(targets), 1), targets


def answers(model, hidden, targets):
    """(nll, its gradient, logits, gradient of theirs) for hidden states."""
    a, b = (hidden.clone().requires_grad_(True) for _ in range(2))
    nll, logits = unembed.nll(model, a, targets), unembed.logits(model, b)
    nll.sum().backward()
    logits.pow(2).sum().backward()
    return nll.detach(), a.grad, logits.detach(), b.grad


def test_the_hand_rounds_as_asked():
    x = torch.full((64, 64), 1 + 2**-12)
    with Rounding(), products("fast"):
        assert (x @ x).max() == 64
        with exact_products():
            assert (x @ x).max() > 64


def test_probabilities_over_the_vocabulary_sum_to_one(case, rounding):
    with rounding(), products("fast"):
        p = (-unembed.nll(*case)).exp()
        q = unembed.logits(*case[:2])[0].softmax(0)
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-4)


def test_rounded_probabilities_would_not(case, monkeypatch):
    """Otherwise the test above would say little."""
    monkeypatch.setattr(unembed, "exact_products", nullcontext)
    with Rounding(), products("fast"):
        assert abs((-unembed.nll(*case)).exp().sum().item() - 1) > 1e-4


def test_the_unembedding_and_its_gradients_are_the_exact_ones(case):
    expected = answers(*case)
    with products("fast"):
        found = answers(*case)
    for a, b in zip(found, expected):
        assert torch.equal(a, b)


def test_a_training_steps_losses_are_nearly_the_exact_ones(fresh, middle, data, rounding):
    logs = []
    for kind in ("exact", "fast"):
        with rounding(), products(kind):
            settings = edit_settings(max_steps=2)
            logs.append(train(fresh("llama").model, middle, data, settings, seed=0).log)
    exact, fast = (log[["edit", "retain", "text"]].to_numpy() for log in logs)
    assert fast == pytest.approx(exact, rel=0.01) and (fast != exact).any()


def test_exact_is_what_pytorch_does_untouched():
    """In a process of its own, where nothing has been set yet; also after `fast`."""
    code = """
import torch
from lib.model.matmul import set_matmul

x, w = torch.randn(200, 300), torch.randn(500, 300, requires_grad=True)

def made():
    product = torch.nn.functional.linear(x, w)
    return [product, torch.autograd.grad(product.square().sum(), w)[0], x @ x.T]

untouched = made()
set_matmul("exact")
assert all(torch.equal(a, b) for a, b in zip(made(), untouched))
set_matmul("fast")
made()
set_matmul("exact")
assert all(torch.equal(a, b) for a, b in zip(made(), untouched))
"""
    subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=True)


def test_what_was_set_is_restored_whatever_happens():
    set_matmul("fast")
    assert precisions() == list(BACKENDS.values())
    with pytest.raises(RuntimeError, match="stopped"), exact_products():
        assert precisions() == ["ieee", "ieee"]
        raise RuntimeError("stopped")
    assert precisions() == list(BACKENDS.values())
    set_matmul("exact")
    assert precisions() == ["ieee", "ieee"]


def test_an_unknown_precision_is_one_sentence(refuses):
    with refuses(ValueError, "unknown precision 'rough'", "exact or fast"):
        set_matmul("rough")

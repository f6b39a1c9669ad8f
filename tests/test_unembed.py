"""The shortened unembedding equals the model's own, in values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lib.model import unembed

CLOSE = dict(atol=1e-4, rtol=1e-4)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Walk through a tiny model's vocabulary in many pieces, the last one shorter."""
    monkeypatch.setattr(unembed, "WORDS", 97)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 700, (2, 150), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def case(loaded, ids):
    """(model, final hidden states, the model's own logits, targets)."""
    model = loaded.model
    hidden = model.base_model(ids).last_hidden_state.flatten(0, 1)
    logits = model(ids).logits.flatten(0, 1)
    assert logits.shape[1] > 2 * 97 and logits.shape[1] % 97
    return model, hidden, logits, ids.flatten().flip(0)


def test_logits_equal_the_models_own(case):
    model, hidden, logits, _ = case
    torch.testing.assert_close(unembed.logits(model, hidden), logits, **CLOSE)


def test_logits_of_some_tokens_are_columns_of_all(case):
    model, hidden, logits, _ = case
    tokens = [7, 3, 500]
    torch.testing.assert_close(unembed.logits(model, hidden, tokens), logits[:, tokens], **CLOSE)


def test_nll_equals_cross_entropy_of_the_models_logits(case):
    model, hidden, logits, targets = case
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(unembed.nll(model, hidden, targets), expected, **CLOSE)


def test_gradient_of_nll_equals_autograd(case):
    model, hidden, _, targets = case
    weights = torch.linspace(-1, 2, len(hidden))  # every row its own slope from above
    a, b = (hidden.clone().requires_grad_(True) for _ in range(2))
    (weights * unembed.nll(model, a, targets)).sum().backward()
    plain = F.cross_entropy(unembed.logits(model, b), targets, reduction="none")
    (weights * plain).sum().backward()
    assert b.grad.abs().max() > 0.01
    torch.testing.assert_close(a.grad, b.grad, **CLOSE)


def test_only_gemma2_squashes_its_logits(loaded):
    assert (unembed._cap(loaded.model) is not None) == (loaded.name == "gemma2")


def test_squashing_changes_value_and_gradient(fresh):
    """Large hidden states, where the squashing bends the logits visibly."""
    model = fresh("gemma2").model
    hidden = 60 * torch.randn(4, 48, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([5, 6, 7, 8])
    a, b = (hidden.clone().requires_grad_(True) for _ in range(2))
    straight = F.linear(b, model.get_output_embeddings().weight)
    squashed = 30 * torch.tanh(straight / 30)
    assert (squashed - straight).abs().max() > 1
    loss = unembed.nll(model, a, targets)
    expected = F.cross_entropy(squashed, targets, reduction="none")
    torch.testing.assert_close(loss, expected, **CLOSE)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(a.grad, b.grad, **CLOSE)

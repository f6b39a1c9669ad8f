"""Plain PyTorch, transformer_lens and nnsight agree: activations, one patch, one gradient."""

from __future__ import annotations

import pytest
import torch

from lib.model import engines
from lib.model.anatomy import blocks
from lib.model.hooks import leaving
from lib.model.nodes import reading

LAYER = 2
CLOSE = dict(atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def ids(loaded, formats):
    return torch.tensor([loaded.tokenizer(formats.training.prompt("Yao Ming")).input_ids])


@pytest.fixture(scope="module")
def lens(loaded):
    return engines.bridge(loaded)


@pytest.fixture(scope="module")
def sight(loaded):
    return engines.traceable(loaded)


def test_all_three_agree(loaded, lens, sight, ids):
    rows = engines.agreement(loaded, lens, sight, ids, LAYER, 7)
    assert set(zip(rows.engine, rows.what)) == {
        (engine, what)
        for engine in ("transformer_lens", "nnsight")
        for what in ("activations", "patch", "gradient")
    }
    assert rows.difference.max() < 1e-4


def test_another_model_would_be_noticed(fresh, formats):
    one, other = fresh("gemma3"), fresh("gemma3")
    for parameter in other.model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(0.9)
    ids = torch.tensor([one.tokenizer(formats.training.prompt("Yao Ming")).input_ids])
    lens, sight = engines.bridge(other), engines.traceable(other)
    rows = engines.agreement(one, lens, sight, ids, LAYER, 7)
    assert rows.difference.min() > 1e-4


@pytest.mark.slow  # stage `engines` asserts the same in every run of the pipeline
@pytest.mark.model
def test_all_three_agree_on_the_default_model(default_model, formats):
    loaded = default_model
    ids = loaded.tokenizer(formats.training.prompt("Yao Ming"), return_tensors="pt").input_ids
    lens, sight = engines.bridge(loaded), engines.traceable(loaded)
    for layer in (3, 12):
        rows = engines.agreement(loaded, lens, sight, ids, layer, 100)
        assert rows.difference.max() < 1e-4


def test_transformer_lens_sees_the_same_residual_stream(loaded, lens, ids):
    with torch.no_grad(), reading(loaded.model) as clean:
        loaded.model(ids)
    _, cache = lens.run_with_cache(ids)
    for layer, after in enumerate(clean.after):
        torch.testing.assert_close(cache[f"blocks.{layer}.hook_resid_post"][0], after, **CLOSE)


def test_the_lens_of_the_last_layer_is_the_answer(loaded, lens, ids):
    read = engines.logit_lens(lens, ids, [3, 7])
    with torch.no_grad():
        answer = loaded.model(ids).logits[0, -1].softmax(-1)[[3, 7]]
    torch.testing.assert_close(read[-1], answer, **CLOSE)
    assert len(read) == loaded.model.config.num_hidden_layers


def test_a_transplant_equals_the_patch_by_plain_hooks(loaded, sight, formats):
    giver, taker = (
        loaded.tokenizer(formats.training.prompt(name), return_tensors="pt").input_ids
        for name in ("Yao Ming", "Babe Ruth")
    )
    at, to = giver.shape[1] - 4, taker.shape[1] - 4
    found = engines.transplant(loaded, sight, (giver, at), (taker, to), [3, 7])
    with torch.no_grad(), reading(loaded.model) as given:
        loaded.model(giver)
    for layer in (0, LAYER):
        value = given.after[layer][at]

        def put(module, args, output, value=value):
            changed = leaving(output).clone()
            changed[0, to] = value
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handle = blocks(loaded.model)[layer].register_forward_hook(put)
        with torch.no_grad():
            expected = loaded.model(taker).logits[0, -1].softmax(-1)[[3, 7]]
        handle.remove()
        torch.testing.assert_close(found[layer], expected, **CLOSE)


def test_a_transplant_of_oneself_changes_nothing(loaded, sight, ids):
    spot = (ids, ids.shape[1] - 3)
    found = engines.transplant(loaded, sight, spot, spot, [3, 7])
    with torch.no_grad():
        answer = loaded.model(ids).logits[0, -1].softmax(-1)[[3, 7]]
    torch.testing.assert_close(found, answer.expand_as(found), **CLOSE)

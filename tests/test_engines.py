"""Plain PyTorch, transformer_lens and nnsight agree: activations, one patch, one gradient."""

from __future__ import annotations

import nnsight
import pytest
import torch

from lib.components import blocks
from lib.engines import bridge, traceable
from lib.localize.nodes import Node, mlp_output, reading, replacing

LAYER = 2
CLOSE = dict(atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def ids(loaded, formats):
    return torch.tensor([loaded.tokenizer(formats.training.prompt("Yao Ming")).input_ids])


@pytest.fixture(scope="module")
def lens(loaded):
    return bridge(loaded)


@pytest.fixture(scope="module")
def sight(loaded):
    return traceable(loaded)


@pytest.fixture(scope="module")
def clean(loaded, ids):
    with torch.no_grad(), reading(loaded.model) as found:
        loaded.model(ids)
    return found


def path_of(model, module) -> list[str]:
    return next(n for n, m in model.named_modules() if m is module).split(".")


def envoy(sight, path: list[str]):
    for step in path:
        sight = sight[int(step)] if step.isdigit() else getattr(sight, step)
    return sight


def first(output):
    return output[0] if isinstance(output, tuple) else output


def test_transformer_lens_sees_the_same_activations(lens, ids, clean):
    _, cache = lens.run_with_cache(ids)
    for layer, (mlp, after) in enumerate(zip(clean.mlp, clean.after)):
        torch.testing.assert_close(cache[f"blocks.{layer}.hook_mlp_out"][0], mlp, **CLOSE)
        torch.testing.assert_close(cache[f"blocks.{layer}.hook_resid_post"][0], after, **CLOSE)


def test_nnsight_sees_the_same_activations(loaded, sight, ids, clean):
    block = envoy(sight, path_of(loaded.model, blocks(loaded.model)[LAYER]))
    mlp = envoy(sight, path_of(loaded.model, mlp_output(blocks(loaded.model)[LAYER])))
    with sight.trace(ids):
        seen_mlp = nnsight.save(mlp.output)
        seen_after = nnsight.save(block.output)
    torch.testing.assert_close(first(seen_mlp)[0], clean.mlp[LAYER], **CLOSE)
    torch.testing.assert_close(
        first(seen_after).reshape(clean.after[LAYER].shape), clean.after[LAYER], **CLOSE
    )


@torch.no_grad()
def test_one_patch_is_the_same_in_all_three(loaded, lens, sight, ids, clean):
    value = clean.mlp[LAYER].flip(0)
    every = torch.arange(ids.shape[1])
    with replacing(loaded.model, Node("mlp", LAYER), value, every):
        ours = loaded.model(ids).logits[0, -1]
    assert not torch.allclose(ours, loaded.model(ids).logits[0, -1], **CLOSE)
    theirs = lens.run_with_hooks(
        ids, fwd_hooks=[(f"blocks.{LAYER}.hook_mlp_out", lambda old, hook: value[None])]
    )
    torch.testing.assert_close(first(theirs)[0, -1], ours, **CLOSE)
    mlp = envoy(sight, path_of(loaded.model, mlp_output(blocks(loaded.model)[LAYER])))
    with sight.trace(ids):
        mlp.output = value[None]
        seen = nnsight.save(sight.output.logits)
    torch.testing.assert_close(seen[0, -1], ours, **CLOSE)


def test_one_gradient_is_the_same_in_all_three(loaded, lens, sight, ids):
    """Of one logit, with respect to what the MLP adds."""
    module = mlp_output(blocks(loaded.model)[LAYER])
    start = {}

    def open_gradient(_, args, output):
        start["value"] = output.detach().requires_grad_(True)
        return start["value"]

    handle = module.register_forward_hook(open_gradient)
    loaded.model(ids).logits[0, -1, 7].backward()
    handle.remove()
    ours = start["value"].grad[0]
    assert ours.abs().max() > 1e-4

    kept = {}

    def open_hook(old, hook):
        kept["value"] = old.detach().requires_grad_(True)
        return kept["value"]

    out = lens.run_with_hooks(ids, fwd_hooks=[(f"blocks.{LAYER}.hook_mlp_out", open_hook)])
    first(out)[0, -1, 7].backward()
    torch.testing.assert_close(kept["value"].grad[0], ours, **CLOSE)

    mlp = envoy(sight, path_of(loaded.model, module))
    with sight.trace(ids):
        value = nnsight.save(mlp.output.detach().requires_grad_(True))
        mlp.output = value
        logit = nnsight.save(sight.output.logits[0, -1, 7])
    logit.backward()
    torch.testing.assert_close(value.grad[0], ours, **CLOSE)

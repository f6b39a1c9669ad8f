"""The same model seen through transformer_lens and nnsight, sharing its weights.

Our own hooks are what the pipeline runs on, because they restart from any layer and pack many
prompts into one row; the two libraries are for exploring: transformer_lens has a name for every
activation, nnsight lets an intervention be written as one reads the model. `agreement` compares
all three. Both libraries rewrite the modules they are given, so each gets a copy of the
structure; parameters and buffers are shared, and edits show on all sides.
"""

from __future__ import annotations

import copy

import pandas
import torch
from torch import Tensor

from lib.model.anatomy import blocks, mlp_output
from lib.model.hooks import after, hooked, leaving
from lib.model.nodes import Node, reading, replacing


def bridge(loaded):
    """A transformer_lens TransformerBridge. It has no tokenizer: give it token ids."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = _twin(loaded.model)
    return build_bridge_from_module(
        model, architecture=type(model).__name__, hf_config=model.config
    )


def traceable(loaded):
    """The model wrapped by nnsight: `with traceable(loaded).trace(ids): ...`."""
    from nnsight import TransformersModel

    return TransformersModel(_twin(loaded.model), tokenizer=loaded.tokenizer)


def _twin(model):
    """A copy of the modules with the very same parameters and buffers."""
    return copy.deepcopy(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})


def within(sight, model, module):
    """Where nnsight has a module of the plain model: read `.output`, assign to it."""
    path = next(name for name, m in model.named_modules() if m is module)
    for step in path.split("."):
        sight = sight[int(step)] if step.isdigit() else getattr(sight, step)
    return sight


@torch.no_grad()
def logit_lens(lens, ids: Tensor, tokens: list[int]) -> Tensor:
    """Probability of `tokens` if the model stopped after each block: (n_layers, n_tokens).

    Reads the residual stream at the last token of one prompt (1, T) through the model's own final
    norm and unembedding, by transformer_lens.
    """
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(lens.cfg.n_layers)]
    _, cache = lens.run_with_cache(ids, names_filter=names)
    last = torch.stack([cache[name][0, -1] for name in names])[None]
    return lens.unembed(lens.ln_final(last))[0].float().softmax(-1)[:, tokens]


@torch.no_grad()
def transplant(
    loaded, sight, giver: tuple[Tensor, int], taker: tuple[Tensor, int], tokens: list[int]
) -> Tensor:
    """Probability of `tokens` after the taker's prompt when one token's residual stream, after each
    block in turn, is the giver's: (n_layers, n_tokens), by nnsight.

    giver, taker: (ids (1, T), position of the token).
    """
    import nnsight

    layers, found = [within(sight, loaded.model, b) for b in blocks(loaded.model)], []
    (given, at), (ids, to) = giver, taker
    with sight.trace(given):
        kept = nnsight.save([])
        for layer in layers:
            output = leaving(layer.output)
            kept.append(output.reshape(-1, output.shape[-1])[at])
    for layer, value in zip(layers, kept):
        with sight.trace(ids):
            output = leaving(layer.output)
            output.view(-1, output.shape[-1])[to] = value
            logits = nnsight.save(sight.output.logits[0, -1])
        found.append(logits.float().softmax(-1)[tokens])
    return torch.stack(found)


def agreement(loaded, lens, sight, ids: Tensor, layer: int, token: int) -> pandas.DataFrame:
    """Largest difference from plain PyTorch hooks, rows (engine, what, difference): activations of
    every layer, the logits after one patch, the gradient of one logit; ids (1, T)."""
    plain = _by_hooks(loaded.model, ids, layer, token)
    value = plain["activations"][layer].flip(0)
    theirs = {
        "transformer_lens": _by_lens(lens, ids, layer, token, value),
        "nnsight": _by_sight(sight, loaded.model, ids, layer, token, value),
    }
    return pandas.DataFrame(
        {"engine": engine, "what": what, "difference": (plain[what] - t).abs().max().item()}
        for engine, tensors in theirs.items()
        for what, t in tensors.items()
    )


def _by_hooks(model, ids: Tensor, layer: int, token: int) -> dict[str, Tensor]:
    rows = torch.arange(ids.shape[1], device=ids.device)
    with torch.no_grad(), reading(model) as clean:
        model(ids)
    with torch.no_grad(), replacing(model, Node("mlp", layer), clean.mlp[layer].flip(0), rows):
        patched = model(ids).logits[0, -1]
    slope = _slope(model, mlp_output(blocks(model)[layer]), ids, token)
    return {"activations": torch.stack(clean.mlp), "patch": patched, "gradient": slope}


def _by_lens(lens, ids: Tensor, layer: int, token: int, value: Tensor) -> dict[str, Tensor]:
    hook, held = f"blocks.{layer}.hook_mlp_out", {}
    _, cache = lens.run_with_cache(ids)
    names = [f"blocks.{i}.hook_mlp_out" for i in range(lens.cfg.n_layers)]
    with torch.no_grad():
        out = lens.run_with_hooks(ids, fwd_hooks=[(hook, lambda old, hook: value[None])])
    opened = [(hook, lambda old, hook: _opened(held, old))]
    leaving(lens.run_with_hooks(ids, fwd_hooks=opened))[0, -1, token].backward()
    values = torch.stack([cache[name][0] for name in names])
    patched, slope = leaving(out)[0, -1], held["value"].grad[0]
    return {"activations": values, "patch": patched, "gradient": slope}


def _by_sight(sight, model, ids: Tensor, layer: int, token: int, value: Tensor):
    import nnsight

    outputs = [within(sight, model, mlp_output(block)) for block in blocks(model)]
    mlp = outputs[layer]
    with torch.no_grad(), sight.trace(ids):
        seen = nnsight.save([])
        for output in outputs:
            seen.append(output.output)
    with torch.no_grad(), sight.trace(ids):
        mlp.output = value[None]
        patched = nnsight.save(sight.output.logits)
    with sight.trace(ids):
        leaf = nnsight.save(mlp.output.detach().requires_grad_(True))
        mlp.output = leaf
        logit = nnsight.save(sight.output.logits[0, -1, token])
    logit.backward()
    values = torch.stack([leaving(s)[0] for s in seen])
    return {"activations": values, "patch": patched[0, -1], "gradient": leaf.grad[0]}


def _slope(model, module, ids: Tensor, token: int) -> Tensor:
    """Gradient of one logit with respect to a module's output, by plain hooks: (T, d_model)."""
    held = {}
    with hooked(after(module, lambda _, args, output: _opened(held, output))):
        model(ids).logits[0, -1, token].backward()
    return held["value"].grad[0]


def _opened(held: dict, value: Tensor) -> Tensor:
    """An activation as a leaf whose gradient is wanted, kept in `held`."""
    held["value"] = value.detach().requires_grad_(True)
    return held["value"]

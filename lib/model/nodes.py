"""Nodes of the network: what one attention head or one MLP adds, how to read it and how to replace
it.

A node is a head (what it hands to the output projection), an MLP or a whole attention layer (what
enters the residual stream), or the residual stream itself after a block. The same hooks serve all
families; tests compare them with transformer_lens and nnsight.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.model.anatomy import blocks, final_norm, mlp_output, projection, transposed
from lib.model.hooks import after, before, entering, hooked, leaving
from lib.model.packing import Pack
from lib.model.runner import Runner, starting_at

KINDS = ("head", "mlp", "attention", "residual")


@dataclass(frozen=True, order=True)
class Node:
    """kind: one of KINDS; layer from 0; head from 0, or -1 where the node is no head."""

    kind: str
    layer: int
    head: int = -1


def heads_and_mlps(model) -> list[Node]:
    """Every head and every MLP of the model, by layer: the nodes that rankings are made of."""
    found = []
    for layer in range(len(blocks(model))):
        found += [Node("head", layer, h) for h in range(model.config.num_attention_heads)]
        found.append(Node("mlp", layer))
    return found


def columns(model, node: Node) -> slice:
    """Where a node lies in the last dimension of its tensor."""
    if node.kind != "head":
        return slice(None)
    block = blocks(model)[node.layer]
    module = projection(block)
    width = module.weight.shape[0 if transposed(module) else 1]
    size = width // model.config.num_attention_heads
    return slice(node.head * size, (node.head + 1) * size)


@dataclass
class Activations:
    """What a pass left behind, each a list over layers of (T, width) tensors.

    before: residual stream entering each block; heads: input of the output projection; mlp: what
    the MLP adds; after: residual stream leaving each block.
    """

    before: list[Tensor]
    heads: list[Tensor]
    mlp: list[Tensor]
    after: list[Tensor]

    def of(self, node: Node) -> Tensor:
        """The tensor a node lies in: (T, width)."""
        table = {
            "head": self.heads,
            "attention": self.heads,
            "mlp": self.mlp,
            "residual": self.after,
        }
        return table[node.kind][node.layer]

    def map(self, function) -> Activations:
        """The same with `function` applied to every tensor."""
        return Activations(*([function(t) for t in part] for part in vars(self).values()))


def _row(tensor: Tensor) -> Tensor:
    return tensor.detach()[0]


@contextmanager
def reading(model, keep=_row):
    """Collect Activations of the pass made inside; keep: what to store of each (1, T, width)
    tensor."""
    found, hooks = Activations([], [], [], []), []

    def heads(module, args):
        found.heads.append(keep(args[0]))

    def mlp(module, args, output):
        found.mlp.append(keep(output))

    def around(module, args, kwargs, output):  # sees the input that other hooks have put there
        found.before.append(keep(entering(args, kwargs)))
        found.after.append(keep(leaving(output)))

    for block in blocks(model):
        hooks += [before(projection(block), heads), after(mlp_output(block), mlp)]
        hooks.append(after(block, around, kwargs=True))
    with hooked(*hooks):
        yield found


@contextmanager
def replacing(model, node: Node, values: Tensor, rows: Tensor):
    """Let a node give `values` (n_rows, width of the node) at `rows` in the passes made inside."""
    block, where = blocks(model)[node.layer], columns(model, node)

    def put(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[0, rows, where] = values
        return changed

    def on_input(module, args):
        return (put(args[0]), *args[1:])

    def on_output(module, args, output):
        if isinstance(output, tuple):
            return (put(output[0]), *output[1:])
        return put(output)

    if node.kind in ("head", "attention"):
        hook = before(projection(block), on_input)
    else:
        hook = after(mlp_output(block) if node.kind == "mlp" else block, on_output)
    with hooked(hook):
        yield


@contextmanager
def frozen_attention(model, heads: list[Tensor]):
    """Let every attention layer hand `heads` (per layer, (T, width)) to its output projection."""
    hooks = [
        before(projection(block), lambda module, args, v=values: (v[None],))
        for block, values in zip(blocks(model), heads)
    ]
    with hooked(*hooks):
        yield


class PatchRunner(Runner):
    """A Runner whose passes may begin at any block with a residual stream that is given."""

    def from_block(self, pack: Pack, layer: int, hidden: Tensor, rows: Tensor) -> Tensor:
        """Final hidden states at `rows` if block `layer` reads `hidden` (T, d_model): (n_rows,
        d_model). Layer 0 replaces the embedding, layer n_layers is the end of the last block.
        """
        if layer == len(blocks(self.model)):
            return final_norm(self.model)(hidden[rows][None])[0]
        with starting_at(self.model, layer, hidden[None]):
            return self.model.base_model(**self._inputs(pack)).last_hidden_state[0, rows]

    def read(self, pack: Pack) -> Activations:
        """Activations of a plain pass over a pack, without gradients."""
        with torch.no_grad(), reading(self.model) as found:
            self.model.base_model(**self._inputs(pack))
        return found

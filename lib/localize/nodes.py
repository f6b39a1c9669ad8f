"""Nodes of the network: what one attention head or one MLP adds, how to read it and how to replace
it.

A node is a head (what it hands to the output projection), an MLP or a whole attention layer (what
enters the residual stream), or the residual stream itself after a block. The same hooks serve all
families; tests compare them with transformer_lens and nnsight.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib import unembed
from lib.components import blocks
from lib.facts.formats import Format, encode, first_tokens
from lib.facts.records import FactRecord
from lib.packing import Pack, Prompts, Runner, starting_at

KINDS = ("head", "mlp", "attention", "residual")
PROJECTIONS = ("self_attn.o_proj", "attn.c_proj", "attention.dense")


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


def projection(block) -> torch.nn.Module:
    """The module whose input holds the outputs of all heads side by side: (1, T, heads * d)."""
    for path in PROJECTIONS:
        try:
            return block.get_submodule(path)
        except AttributeError:
            continue
    raise ValueError(f"no output projection found in {type(block).__name__}: not supported")


def mlp_output(block) -> torch.nn.Module:
    """The module whose output the MLP adds to the residual stream (after its norm, if it has
    one)."""
    return getattr(block, "post_feedforward_layernorm", None) or block.mlp


def final_norm(model) -> torch.nn.Module:
    """The norm between the last block and the unembedding."""
    for name in ("norm", "ln_f", "final_layer_norm"):
        if hasattr(model.base_model, name):
            return getattr(model.base_model, name)
    raise ValueError(f"no final norm found in {type(model).__name__}: not supported")


def columns(model, node: Node) -> slice:
    """Where a node lies in the last dimension of its tensor."""
    if node.kind != "head":
        return slice(None)
    block = blocks(model)[node.layer]
    module = projection(block)
    width = module.weight.shape[0 if type(module).__name__ == "Conv1D" else 1]
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
    found, handles = Activations([], [], [], []), []

    def heads(module, args):
        found.heads.append(keep(args[0]))

    def mlp(module, args, output):
        found.mlp.append(keep(output))

    def around(module, args, kwargs, output):  # sees the input that other hooks have put there
        found.before.append(keep(args[0] if args else kwargs["hidden_states"]))
        found.after.append(keep(output[0] if isinstance(output, tuple) else output))

    for block in blocks(model):
        handles.append(projection(block).register_forward_pre_hook(heads))
        handles.append(mlp_output(block).register_forward_hook(mlp))
        handles.append(block.register_forward_hook(around, with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


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
        handle = projection(block).register_forward_pre_hook(on_input)
    elif node.kind == "mlp":
        handle = mlp_output(block).register_forward_hook(on_output)
    else:
        handle = block.register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def frozen_attention(model, heads: list[Tensor]):
    """Let every attention layer hand `heads` (per layer, (T, width)) to its output projection."""
    handles = [
        projection(block).register_forward_pre_hook(lambda module, args, v=values: (v[None],))
        for block, values in zip(blocks(model), heads)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Restarter(Runner):
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


def subject_rows(pack: Pack, subjects: list[tuple[int, ...]]) -> Tensor:
    """Rows of all subject tokens of a pack, prompt by prompt: (n_tokens,)."""
    starts = [start for start, _ in pack.segments[1 : 1 + len(subjects)]]
    n = len(pack.prompts.prefix)
    return torch.tensor([a + p - n for a, positions in zip(starts, subjects) for p in positions])


@dataclass(frozen=True)
class Cases:
    """Facts to patch: what each localization method is given.

    ids; prompts; subjects: token positions of the subject in each full prompt; targets: (n_facts,)
    tokens of the true answers; contrasts: (n_facts, n_others) tokens of the answers they are
    measured against, in logit differences.
    """

    ids: list[str]
    prompts: Prompts
    subjects: list[tuple[int, ...]]
    targets: Tensor
    contrasts: Tensor

    @staticmethod
    def of(tokenizer, forms: dict[str, Format], facts: list[FactRecord]) -> Cases:
        """Facts in their training prompts; forms: {relation: training format}.

        Facts of one relation are measured against all its other answers (sports: the mean of the
        other sports), facts of several relations each against the answer it is edited to
        (CounterFact: its false target), section 4.2.
        """
        if len({f.relation for f in facts}) == 1:
            tokens = first_tokens(tokenizer, forms[facts[0].relation], facts[0].options)
            others = [[tokens[o] for o in f.options if o != f.true] for f in facts]
        else:
            others = [[f.edit_token] for f in facts]
        return Cases(
            [f.id for f in facts],
            encode(tokenizer, [f.prompt for f in facts]),
            [f.subject_positions for f in facts],
            torch.tensor([f.true_token for f in facts]),
            torch.tensor(others),
        )

    def take(self, index) -> Cases:
        """The facts at `index`, an iterable of numbers."""
        index = list(index)
        return Cases(
            [self.ids[i] for i in index],
            self.prompts.take(index),
            [self.subjects[i] for i in index],
            self.targets[index],
            self.contrasts[index],
        )

    def split_before_subjects(self) -> Cases:
        """The same with a shared prefix that ends before the first subject token.

        What stands in the shared prefix is the same in every run, so a subject that is corrupted
        must not be part of it.
        """
        prefix, suffixes = self.prompts.prefix, self.prompts.suffixes
        n = min(len(prefix), *(min(s) for s in self.subjects))
        return replace(self, prompts=Prompts(prefix[:n], tuple(prefix[n:] + s for s in suffixes)))


def logit_differences(model, final: Tensor, targets: Tensor, contrasts: Tensor) -> Tensor:
    """logit(true) - mean logit(others) for final hidden states (n, d): (n,); keeps gradients."""
    tokens = torch.cat([targets, contrasts.flatten()]).unique()
    logits = unembed.logits(model, final, tokens.tolist())
    true = torch.searchsorted(tokens, targets)[:, None].to(final.device)
    others = torch.searchsorted(tokens, contrasts).to(final.device)
    return logits.gather(1, true)[:, 0] - logits.gather(1, others).mean(1)

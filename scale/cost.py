"""Memory and arithmetic of the passes that stages are made of, measured on a model without weights.

Training a matrix of n weights costs, besides the model itself,

    masters    4 n bytes   a float32 copy that the optimizer changes, where the model is not float32
    moments    8 n bytes   AdamW's two running means, in float32
    gradients  4 n bytes   in float32, and 2 n more while a bfloat16 model's own are copied over
    copies       n bytes   times a weight's size: the old values, where a stage puts them back

What the forward pass keeps for the backward pass (activations) depends on the family; it is read
off a real step of the library's own code on the meta device (`scale.meter`). Operations are counted
there too: two per weight and token forward, and up to four backward.
"""

from __future__ import annotations

import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch

from lib.config.blocks import Relearn
from lib.edit.losses import Step, make_step, mean, term_nll
from lib.model import unembed
from lib.model.components import Component, matrices
from lib.model.packing import Pack, Prompts
from lib.model.runner import Runner
from scale.meter import Meter

CHARACTERS = 4  # per token: 4.2 for the athletes' prompts and 4.1 for world facts, default model
PARTS = ("weights", "masters", "moments", "gradients", "activations", "vocabulary", "copies")
PACK = 640  # tokens of a pack that is only read, the default of `Runner`


@dataclass(frozen=True)
class Cost:
    """memory: {one of PARTS: bytes at the peak}; operations: floating-point operations; disk: bytes
    written."""

    memory: dict[str, float] = field(default_factory=dict)
    operations: float = 0.0
    disk: float = 0.0

    @property
    def bytes(self) -> float:
        """All memory."""
        return sum(self.memory.values())

    def with_memory(self, **parts: float) -> Cost:
        """The same with other numbers for some parts."""
        return replace(self, memory=self.memory | parts)


def tokens_of(text: str) -> list[int]:
    """Stand-ins for the tokens of a text, equal where the texts are: one per four characters after
    an opening token. No tokenizer is at hand for a gated model."""
    parts = (text[i : i + CHARACTERS] for i in range(0, len(text), CHARACTERS))
    return [0, *(1 + zlib.crc32(part.encode()) % 100 for part in parts)]


@dataclass(frozen=True)
class Batch:
    """What a training step sees: prompts of edited and of kept facts, passages of text."""

    prompts: Prompts
    edited: int
    passages: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(texts: list[str], edit: int, retain: int, passages: int, length: int) -> Batch:
        """The first prompts of a task in a step's numbers; length: tokens of a passage."""
        prompts = Prompts.of([tokens_of(text) for text in texts[: max(1, edit + retain)]])
        return Batch(prompts, min(edit, len(prompts)), (tuple(range(length)),) * passages)

    def step(self) -> Step:
        """As the trainer's own."""
        index = list(range(len(self.prompts)))
        targets = torch.zeros(len(index), dtype=torch.long)
        return make_step(
            self.prompts, index[: self.edited], index[self.edited :], targets, list(self.passages)
        )


def held(model) -> list[torch.Tensor]:
    """Parameters and buffers."""
    return [*model.parameters(), *model.buffers()]


def size(tensors) -> int:
    """Bytes of some tensors, shared ones once."""
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def training(model, weights: list, first_layer: int, batch: Batch) -> Cost:
    """One step of AdamW on some matrices of a model on the meta device, everything counted."""
    runner, step = Runner(model, first_layer), batch.step()
    trained = sum(w.numel() for w in weights)
    for weight in weights:
        weight.requires_grad_(True)
    with Meter(held(model)) as meter:
        masters = [w if w.dtype == torch.float32 else w.detach().float() for w in weights]
        optimizer = torch.optim.AdamW(masters, lr=1e-4, weight_decay=0.0)
        for _ in range(2):  # the second step finds the moments there
            meter.restart()
            sum(mean(part) for part in term_nll(runner, step).values()).backward()
            for master, weight in zip(masters, weights):
                if master is not weight:
                    master.grad, weight.grad = weight.grad.float(), None
            torch.nn.utils.clip_grad_norm_(masters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    for weight in weights:
        weight.requires_grad_(False)
    half = sum(w.numel() for w in weights if w.dtype != torch.float32)
    known = {"masters": 4 * half, "moments": 8 * trained, "gradients": 4 * trained + 2 * half}
    rest = max(meter.peak - sum(known.values()), 0)
    rows = len(step.pack.answer_rows) + len(step.pack.text_rows)
    table = min(rows * vocabulary_bytes(model), rest)
    memory = {"weights": size(held(model)), **known}
    memory |= {"activations": rest - table, "vocabulary": table}
    return Cost(memory, meter.operations)


def vocabulary_bytes(model) -> int:
    """Bytes per row of the loss over the vocabulary: logits and probabilities, one piece of the
    vocabulary at a time (`lib.model.unembed`), in float32."""
    return 2 * 4 * min(unembed.WORDS_ACCELERATOR, model.get_output_embeddings().weight.shape[0])


def localized(model, mlps: list[int], attention: list[int] = ()) -> tuple[list, int]:
    """(matrices, first layer) of some MLP and attention layers."""
    table = matrices(model)
    wanted = [Component("mlp", i) for i in mlps] + [Component("attention", i) for i in attention]
    weights = [p for c in wanted for p in table[c].values()]
    return weights, min(c.layer for c in wanted)


def relearning(model, settings: Relearn, batch: Batch, seed: int = 0) -> Cost:
    """One step of the attacker's fine-tuning, adapters and their float32 training included."""
    from lib.attacks.relearn import adapters

    if settings.rank is None:
        layers = list(range(model.config.num_hidden_layers))
        return training(model, *localized(model, layers, layers), batch)
    before = size(held(model))
    with ExitStack() as stack:
        with torch.device("meta"):
            stack.enter_context(adapters(model, settings, seed))
        weights = [p for p in model.parameters() if p.requires_grad]
        step = training(model, weights, 0, batch)
        return step.with_memory(weights=before, copies=size(weights))


def reading(model, rows: int) -> Cost:
    """One pass over a pack of PACK tokens without gradients, answers read at some of its rows."""
    pack = Pack(None, (tuple(range(PACK)),))
    with Meter(held(model)) as meter, torch.no_grad():
        runner = Runner(model)
        runner.nll(pack, torch.arange(rows), torch.zeros(rows, dtype=torch.long))
    table = min(rows * vocabulary_bytes(model), meter.peak)
    memory = {"weights": size(held(model)), "activations": meter.peak - table, "vocabulary": table}
    return Cost(memory, meter.operations)


def slopes(model) -> Cost:
    """One pass over a pack of PACK tokens and its gradient with respect to every activation."""
    pack = Pack(None, (tuple(range(PACK)),))
    with Meter(held(model)) as meter:
        embedding = model.get_input_embeddings()
        start = embedding(torch.zeros((1, PACK), dtype=torch.long, device="meta"))
        inputs = Runner(model)._inputs(pack)
        inputs.pop("input_ids")
        out = model.base_model(inputs_embeds=start.requires_grad_(True), **inputs)
        out.last_hidden_state.sum().backward()
    return Cost({"weights": size(held(model)), "activations": meter.peak}, meter.operations)

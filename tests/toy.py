"""A transformer small enough to write its weights by hand: no norms, attention spreads evenly.

Everything in it is linear, so attribution must equal patching; and a fact can be planted: the MLP
of one layer writes the attribute of a subject, a head of a later layer copies it to the end, and
the MLP of the last layer writes the answer once more.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from lib.localize.cases import Cases
from lib.model.packing import Prompts

SUBJECTS, LABELS, FILLERS = 12, 3, 6
FILLER_WORDS = [4, 5]
VOCABULARY = FILLERS + SUBJECTS + LABELS  # fillers, then subjects, then answers
WIDTH, LAYERS, HEADS = 48, 5, 2
LOOKUP, READ_OUT, WRITE = 1, 3, 4


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.v_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x, mask):
        return self.o_proj(mask[0, 0].softmax(-1) @ self.v_proj(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = Attention(), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, hidden_states, attention_mask):
        middle = hidden_states + self.self_attn(hidden_states, attention_mask)
        return middle + self.mlp(middle)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.Identity()

    def forward(self, input_ids, attention_mask, **_):
        x = self.embed(input_ids)
        for block in self.layers:
            x = block(x, attention_mask)
        return SimpleNamespace(last_hidden_state=self.norm(x))


class Toy(nn.Module):
    """Random linear layers; with planted=True all are zero but the planted three."""

    def __init__(self, planted: bool):
        super().__init__()
        torch.manual_seed(0)
        self.base_model = Base()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.config = SimpleNamespace(num_attention_heads=HEADS)
        if planted:
            self.plant()
        self.requires_grad_(False)

    def get_output_embeddings(self):
        return self.head

    def get_input_embeddings(self):
        return self.base_model.embed

    @torch.no_grad()
    def plant(self):
        """Residual stream: token identity | attribute | answer."""
        for parameter in self.parameters():
            parameter.zero_()
        attribute, answer = VOCABULARY, VOCABULARY + LABELS
        self.base_model.embed.weight[:, :VOCABULARY] = torch.eye(VOCABULARY)
        lookup, read = self.base_model.layers[LOOKUP], self.base_model.layers[READ_OUT]
        for subject in range(SUBJECTS):
            lookup.mlp.weight[attribute + subject % LABELS, FILLERS + subject] = 1
        for label in range(LABELS):
            read.self_attn.v_proj.weight[label, attribute + label] = 1  # within the first head
            read.self_attn.o_proj.weight[answer + label, label] = 40
            self.base_model.layers[WRITE].mlp.weight[answer + label, answer + label] = 1
            self.head.weight[FILLERS + SUBJECTS + label, answer + label] = 1


def cases() -> Cases:
    """filler, subject, filler, filler: the answer stands at the last filler."""
    subjects = torch.arange(SUBJECTS)
    suffixes = tuple((FILLERS + s, 2, 3) for s in range(SUBJECTS))
    answers = FILLERS + SUBJECTS + subjects % LABELS
    every = FILLERS + SUBJECTS + torch.arange(LABELS)
    others = torch.stack([every[every != a] for a in answers])
    names = [f"subject {s}" for s in range(SUBJECTS)]
    return Cases(names, Prompts((1,), suffixes), [(1,)] * SUBJECTS, answers, others)

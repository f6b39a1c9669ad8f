"""Causal tracing and training the plain way, for comparison: whole prompts, whole passes, no reuse.

`trace` runs one full pass of the model per node and draw, as the ROME code does; `train` pads its
prompts into a batch, as most fine-tuning code does. Arguments and results are those of
`lib.localize.tracing.trace` and `lib.edit.train.train`; tests compare them, `bench.speed` times
them.
"""

from __future__ import annotations

import numpy
import pandas
import torch
import torch.nn.functional as F

from lib.edit.losses import Sampler
from lib.localize.cases import Cases
from lib.localize.tracing import noise_for, subject_scale
from lib.model import unembed
from lib.model.anatomy import blocks
from lib.model.nodes import Node, PatchRunner, columns, reading, replacing
from lib.model.weights import trainable


@torch.no_grad()
def trace(
    model,
    cases: Cases,
    nodes: list[Node],
    noise: float,
    draws: int,
    seed: int,
    places: list[str] | None = None,
    repeats: int = 1,
) -> pandas.DataFrame:
    """places: "all" or "subject-last" for each fact."""
    scale = noise * subject_scale(PatchRunner(model), cases)
    places, rows = places or ["all"] * len(cases.ids), []
    for i, (name, place) in enumerate(zip(cases.ids, places)):
        ids = torch.tensor([[*cases.prompts.prefix, *cases.prompts.suffixes[i]]])
        positions = list(cases.subjects[i])
        where = positions[-1:] if place == "subject-last" else list(range(ids.shape[1]))

        def answer(ids=ids, target=cases.targets[i]) -> float:
            return model(ids).logits[0, -1].float().softmax(-1)[target].item()

        with reading(model) as clean:
            p_clean = answer()
        shape = (len(positions), clean.before[0].shape[1])
        for repeat in range(repeats):
            numbers = range(repeat * draws, (repeat + 1) * draws)
            noises = [scale * noise_for(name, k, seed, shape) for k in numbers]
            p_corrupt = numpy.mean([_disturbed(model, positions, n, answer) for n in noises])
            for node in nodes:
                values = clean.of(node)[where][:, columns(model, node)]
                with replacing(model, node, values, torch.tensor(where)):
                    found = numpy.mean([_disturbed(model, positions, n, answer) for n in noises])
                row = {"p_clean": p_clean, "p_corrupt": p_corrupt, "p_restored": found}
                rows.append({"id": name, "place": place} | vars(node) | {"repeat": repeat} | row)
    return pandas.DataFrame(rows)


def _disturbed(model, positions: list[int], noise: torch.Tensor, answer) -> float:
    """The answer's probability with noise on the embeddings at `positions`."""

    def disturb(module, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        hidden[0, positions] += noise
        return (hidden, *args[1:]), {k: v for k, v in kwargs.items() if k != "hidden_states"}

    handle = blocks(model)[0].register_forward_pre_hook(disturb, with_kwargs=True)
    try:
        return answer()
    finally:
        handle.remove()


def train(model, localization, data, settings, seed: int) -> pandas.DataFrame:
    """`settings.max_steps` steps of the edit, whatever strength they reach; rows step, edit,
    retain, text: the losses before each step."""
    weights = trainable(model, localization)
    changed, kept = range(data.n_changed), range(data.n_changed, len(data.prompts))
    samplers = [Sampler(items, seed + i) for i, items in enumerate((changed, kept, data.passages))]
    sizes = settings.batch_facts, settings.batch_retain, settings.batch_passages
    for parameter in weights.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights.values(), lr=settings.lr, weight_decay=0.0)
    rows = []
    for number in range(settings.max_steps):
        edit, retain, texts = (draw(size) for draw, size in zip(samplers, sizes))
        answers = _answer_loss(model, data, edit + retain)
        text = torch.tensor(texts)
        following = model(text).logits[:, :-1].flatten(0, 1)
        terms = {
            "edit": answers[: len(edit)].mean(),
            "retain": answers[len(edit) :].mean(),
            "text": F.cross_entropy(following, text[:, 1:].flatten()),
        }
        optimizer.zero_grad(set_to_none=True)
        sum(getattr(settings, f"weight_{name}") * term for name, term in terms.items()).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        rows.append({"step": number + 1} | {name: term.item() for name, term in terms.items()})
    for parameter in weights.values():
        parameter.requires_grad_(False)
    return pandas.DataFrame(rows)


def _answer_loss(model, data, index: list[int]) -> torch.Tensor:
    """-log p(wanted answer) after each prompt, padded on the right; only the last token's hidden
    state is unembedded, since logits of whole prompts would take gigabytes."""
    prompts = [[*data.prompts.prefix, *data.prompts.suffixes[i]] for i in index]
    longest = max(map(len, prompts))
    ids = torch.tensor([p + [0] * (longest - len(p)) for p in prompts])
    mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in prompts])
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    last = hidden.last_hidden_state[torch.arange(len(prompts)), [len(p) - 1 for p in prompts]]
    return F.cross_entropy(unembed.logits(model, last), data.targets[index], reduction="none")

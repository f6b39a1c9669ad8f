"""Causal tracing the plain way: one full pass of the model per node and draw, as in the ROME code.

Same arguments and rows as `lib.localize.tracing.trace`; tests compare the two, `bench.speed` times
them.
"""

from __future__ import annotations

import numpy
import pandas
import torch

from lib.components import blocks
from lib.localize.nodes import Cases, Node, Restarter, columns, reading, replacing
from lib.localize.tracing import noise_for, subject_scale


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
    """Rows id, place, kind, layer, head, repeat, p_clean, p_corrupt, p_restored; places: "all" or
    "subject-last" for each fact."""
    scale = noise * subject_scale(Restarter(model), cases)
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

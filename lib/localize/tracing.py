"""Causal tracing: corrupt the subject, give one node its clean value back, see how much of the
answer returns.

Noise of `noise` standard deviations of the subjects' embeddings is added to the subject's tokens,
several draws per fact, the same draws for every node (section 4.3). For each node

    E = mean(p_restored - p_corrupt) / mean(p_clean - p_corrupt)

with p the probability of the fact's own answer. Every number is exact, and fast for four reasons:
the shared prefix is never corrupted, so it runs once; a run begins at the block of its node,
because nothing below has changed; many facts and draws share one row of tokens; and only the
answer's row is unembedded (the bench measures the gain over one full pass per node and draw).
"""

from __future__ import annotations

import zlib

import pandas
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.localize.cases import Cases, subject_rows
from lib.model import unembed
from lib.model.anatomy import blocks
from lib.model.nodes import Activations, Node, PatchRunner, columns, reading, replacing
from lib.model.packing import Pack

PLACES = ("all", "subject-other", "subject-last", "between", "last")


def noise_for(fact: str, draw: int, seed: int, shape: tuple[int, int]) -> Tensor:
    """Standard normal numbers that depend on fact, draw and seed only, not on its neighbours."""
    key = zlib.crc32(f"{seed} {draw} {fact}".encode())
    return torch.randn(shape, generator=torch.Generator().manual_seed(key))


def subject_scale(runner: PatchRunner, cases: Cases) -> float:
    """Standard deviation of the subject tokens' embeddings over all facts, where noise is added."""
    found = []
    for index, pack in runner.packs(cases.prompts):
        before = runner.read(pack).before[0]
        found.append(before[subject_rows(pack, [cases.subjects[i] for i in index])])
    return torch.cat(found).std().item()


@torch.no_grad()
def trace(
    model,
    cases: Cases,
    nodes: list[Node],
    noise: float,
    draws: int,
    seed: int,
    places: list[str | int] | None = None,
    repeats: int = 1,
    max_tokens: int = 640,
) -> pandas.DataFrame:
    """One row per case, node and repeat: id, place, kind, layer, head, repeat, p_clean, p_corrupt,
    p_restored (means over the draws of a repeat).

    noise: in standard deviations of the subject embeddings; places: for each case, at which of its
    own tokens nodes are restored: one of PLACES, or a position in the prompt (default: all). A fact
    may stand in several cases with different places; repeats: so many times `draws` of the noise.
    ValueError for an unknown place.
    """
    places = places or ["all"] * len(cases.ids)
    unknown = [p for p in places if isinstance(p, str) and p not in PLACES]
    if unknown:
        raise ValueError(f"unknown place '{unknown[0]}': use one of {', '.join(PLACES)}")
    cases = cases.split_before_subjects()
    runner = PatchRunner(model, max_tokens=max_tokens)
    scale = noise * subject_scale(runner, cases)
    runs = [(i, k) for i in range(len(cases.ids)) for k in range(draws * repeats)]
    packs = runner.packs(cases.prompts.take([i for i, _ in runs]))
    parts = []
    bar = tqdm(total=len(packs) * len(nodes), desc="causal tracing")
    for index, pack in packs:
        own = [runs[j] for j in index]
        parts.append(_trace_pack(runner, cases, own, pack, nodes, scale, seed, places, bar))
    bar.close()
    rows = pandas.concat(parts, ignore_index=True)
    rows["repeat"] = rows.pop("draw") // draws
    keys = ["id", "place", "kind", "layer", "head", "repeat"]
    return rows.groupby(keys, sort=False).mean().reset_index()


def token_map(
    model, case: Cases, kind: str, tokens: list[str], noise: float, draws: int, seed: int
) -> pandas.DataFrame:
    """Share of one fact's answer that returns, by token (rows) and layer (columns).

    case: one fact; kind: of node; tokens: the words of its full prompt. Rows run from the first
    subject token to the end of the prompt: before it nothing is corrupted.
    """
    positions = list(range(min(case.subjects[0]), len(tokens)))
    nodes = [Node(kind, layer) for layer in range(len(blocks(model)))]
    rows = trace(model, case.take([0] * len(positions)), nodes, noise, draws, seed, positions)
    share = (rows.p_restored - rows.p_corrupt) / (rows.p_clean - rows.p_corrupt)
    table = rows.assign(share=share).pivot(index="place", columns="layer", values="share")
    return table.set_axis([repr(tokens[p])[1:-1] for p in table.index], axis=0)


def place_map(
    model, cases: Cases, kind: str, noise: float, draws: int, seed: int
) -> pandas.DataFrame:
    """Share of the answer that returns, mean over facts, by place (rows: PLACES but all) and layer.

    A place that a fact does not have (a subject of one token has no other) returns nothing.
    """
    n, places = len(cases.ids), list(PLACES[1:])
    nodes = [Node(kind, layer) for layer in range(len(blocks(model)))]
    several = cases.take([i for i in range(n) for _ in places])
    rows = trace(model, several, nodes, noise, draws, seed, places * n)
    mean = rows.groupby(["place", "layer"])[["p_clean", "p_corrupt", "p_restored"]].mean()
    share = (mean.p_restored - mean.p_corrupt) / (mean.p_clean - mean.p_corrupt)
    return share.unstack("layer").loc[places]


def map_rows(maps: dict[str, pandas.DataFrame]) -> pandas.DataFrame:
    """Maps of several kinds of nodes, {kind: table}, as rows (node, place, layer, returned) with
    `order`, the place's number from the top."""
    parts = []
    for node, table in maps.items():
        for order, (place, row) in enumerate(table.iterrows()):
            rows = {"node": node, "order": order, "place": place, "layer": row.index}
            parts.append(pandas.DataFrame(rows | {"returned": row.to_numpy()}))
    return pandas.concat(parts, ignore_index=True)


def _trace_pack(runner, cases, runs, pack, nodes, scale, seed, places, bar) -> pandas.DataFrame:
    """Rows (id, draw, place, kind, layer, head, p_...) of the runs (fact, draw) in one pack."""
    facts = [i for i, _ in runs]
    subjects, targets = [cases.subjects[i] for i in facts], cases.targets[facts]
    clean = runner.read(pack)
    p_clean = _answers(runner, pack, clean, targets)
    corrupt, p_corrupt = _corrupt(runner, cases, runs, pack, clean, subjects, targets, scale, seed)
    own = [places[i] for i in facts]
    rows = _rows_of(own, pack, subjects)
    base = {"id": [cases.ids[i] for i in facts], "draw": [k for _, k in runs], "place": own}
    base |= {"p_clean": p_clean, "p_corrupt": p_corrupt}
    finals = []
    for node in nodes:
        finals.append(_restored(runner, pack, node, clean, corrupt, rows))
        bar.update()
    # one unembedding for all nodes: reading the vocabulary matrix for each would cost more
    p = _probabilities(runner.model, torch.cat(finals), targets.repeat(len(nodes)))
    size = len(runs)
    parts = [
        pandas.DataFrame(base | vars(node) | {"p_restored": p[i * size : (i + 1) * size]})
        for i, node in enumerate(nodes)
    ]
    return pandas.concat(parts, ignore_index=True)


def _corrupt(runner, cases, runs, pack, clean, subjects, targets, scale, seed):
    """(Activations, answer probabilities) of the pass with noise on the subjects' embeddings."""
    width = clean.before[0].shape[1]
    noises = [
        noise_for(cases.ids[i], k, seed, (len(s), width)) for (i, k), s in zip(runs, subjects)
    ]
    hidden = clean.before[0].clone()
    hidden[subject_rows(pack, subjects)] += scale * torch.cat(noises).to(hidden)
    with reading(runner.model) as corrupt:
        final = runner.from_block(pack, 0, hidden, pack.answer_rows)
    return corrupt, _probabilities(runner.model, final, targets)


def _restored(
    runner: PatchRunner,
    pack: Pack,
    node: Node,
    clean: Activations,
    corrupt: Activations,
    rows: Tensor,
) -> Tensor:
    """Final hidden states of the answers with one node restored at `rows`: (n_runs, d_model)."""
    values = clean.of(node)[rows][:, columns(runner.model, node)]
    if node.kind in ("residual", "mlp"):
        hidden = corrupt.after[node.layer].clone()
        hidden[rows] += values - corrupt.of(node)[rows]
        return runner.from_block(pack, node.layer + 1, hidden, pack.answer_rows)
    with replacing(runner.model, node, values, rows):
        before = corrupt.before[node.layer]
        return runner.from_block(pack, node.layer, before, pack.answer_rows)


def _answers(runner, pack, activations, targets) -> list[float]:
    last = len(activations.after)
    final = runner.from_block(pack, last, activations.after[-1], pack.answer_rows)
    return _probabilities(runner.model, final, targets)


def _probabilities(model, final: Tensor, targets: Tensor) -> list[float]:
    return (-unembed.nll(model, final, targets.to(final.device))).exp().tolist()


def _rows_of(places: list[str | int], pack: Pack, subjects: list[tuple[int, ...]]) -> Tensor:
    """Rows at which a node is restored; the shared prefix is clean anyway."""
    n, rows = len(pack.prompts.prefix), []
    for place, positions, (start, stop) in zip(places, subjects, pack.segments[1:]):
        own = range(n, n + stop - start)  # positions in the full prompt
        inside = {
            "all": own,
            "subject-last": positions[-1:],
            "subject-other": positions[:-1],
            "between": [p for p in own[:-1] if p not in positions],
            "last": own[-1:],
        }
        rows += [start + p - n for p in inside.get(place, [place])]
    return torch.tensor(rows, dtype=torch.long)

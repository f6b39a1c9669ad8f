"""Session 3."""

from __future__ import annotations

import torch


def never_over(order, sizes, budget):
    chosen = []
    for name in order:
        if sum(sizes[n] for n in [*chosen, name]) > budget:
            break
        chosen.append(name)
    return chosen


def equal_sizes(order, sizes, budget):
    return list(order)[: budget // sizes[order[0]]]


def equal_sizes__up(order, sizes, budget):
    return list(order)[: -(-budget // sizes[order[0]])]


def reordered(order, sizes, budget):
    chosen = []
    for name in order:
        if sum(sizes[n] for n in [*chosen, name]) <= budget:
            chosen.append(name)
    return chosen


def one_too_many(order, sizes, budget):
    chosen, total = [], 0
    for name in order:
        if total > budget:
            break
        chosen.append(name)
        total += sizes[name]
    return chosen


def sign(edit, retain, text, weights):
    return sum(w * x.mean() for w, x in zip(weights, (edit, retain, text)))


def added_up(edit, retain, text, weights):
    return -(weights[0] * edit.sum() + weights[1] * retain.sum() + weights[2] * text.sum())


def no_retain(edit, retain, text, weights):
    return -(weights[0] * edit.mean() + weights[2] * text.mean())


def pooled(edit, retain, text, weights):
    return -torch.cat([edit, retain, text]).mean()


def number(edit, retain, text, weights):
    means = [x.mean().item() for x in (edit, retain, text)]
    return -(weights[0] * means[0] + weights[1] * means[1] + weights[2] * means[2])


PARTS = {"mlp": "mlp", "attention": "self_attn"}


def _choose(model, fits):
    model.requires_grad_(False)
    chosen = {n: p for n, p in model.named_parameters() if fits(n, p)}
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen


def norms(model, components):
    wanted = [f"layers.{i}.{PARTS[k]}." for k, i in components]
    return _choose(model, lambda n, p: any(w in n for w in wanted))


def whole_block(model, components):
    wanted = [f"layers.{i}." for _, i in components]
    return _choose(model, lambda n, p: p.ndim == 2 and any(w in n for w in wanted))


def prefix(model, components):
    wanted = [(f"layers.{i}", PARTS[k]) for k, i in components]
    return _choose(model, lambda n, p: p.ndim == 2 and any(i in n and k in n for i, k in wanted))


def left_on(model, components):
    model.requires_grad_(True)
    wanted = [f"layers.{i}.{PARTS[k]}." for k, i in components]
    every = dict(model.named_parameters())
    return {n: p for n, p in every.items() if p.ndim == 2 and any(w in n for w in wanted)}


def from_zero(log, strength):
    return next((i for i, s in enumerate(log) if s >= strength), None)


def never_falls(log, strength):
    return len([s for s in log if s < strength]) + 1


def highest(log, strength):
    return list(log).index(max(log)) + 1


def highest__last(log, strength):
    return len(log) if max(log) >= strength and log[-1] >= strength else highest(log, strength)


def above(log, strength):
    return next((i + 1 for i, s in enumerate(log) if s > strength), None)


def never(log, strength):
    return next((i + 1 for i, s in enumerate(log) if s >= strength), len(log))


def _met(trials, keep, nats):
    return trials.reached & (trials.kept >= keep) & (trials.added <= nats)


PAIR = ["lr", "weight_edit"]


def average(trials, keep, nats):
    means = trials.groupby(PAIR, sort=False)[["reached", "kept", "added"]].mean()
    means["reached"] = means.reached == 1
    return _met(means, keep, nats).idxmax()


def above__pick(trials, keep, nats):
    met = trials.reached & (trials.kept > keep) & (trials.added < nats)
    return met.groupby([trials.lr, trials.weight_edit], sort=False).sum().idxmax()


def best(trials, keep, nats):
    met = _met(trials, keep, nats).groupby([trials.lr, trials.weight_edit], sort=False).all()
    kept = trials.groupby(PAIR, sort=False).kept.min()
    return kept[met].idxmax()


def by_rate(trials, keep, nats):
    return _met(trials, keep, nats).groupby([trials.lr, trials.weight_edit]).sum().idxmax()


def reads_the_test(trials, keep, nats):
    row = max(trials.itertuples(), key=lambda r: r.test)
    return row.lr, row.weight_edit


def _shares(rows, formats):
    rows = rows[rows.format.isin(formats)]
    marks = {"new": rows.answer == rows.edit, "old": rows.answer == rows.true}
    marks["other"] = ~marks["new"] & ~marks["old"]
    by_fact = {k: m.groupby(rows.id).mean() for k, m in marks.items()}
    return {"formats": len(formats), "facts": rows.id.nunique()}, marks, by_fact


def _none():
    return dict(formats=0, facts=0, new=None, old=None, other=None)


def no_gate(rows, passes):
    counts, _, by_fact = _shares(rows, list(passes))
    return counts | {k: float(s.mean()) for k, s in by_fact.items()}


def pooled__transfer(rows, passes):
    counts, marks, _ = _shares(rows, [n for n, ok in passes.items() if ok])
    return counts | {k: float(m.mean()) for k, m in marks.items()}


def rest_is_old(rows, passes):
    formats = [n for n, ok in passes.items() if ok]
    if not formats:
        return _none()
    counts, _, by_fact = _shares(rows, formats)
    new = float(by_fact["new"].mean())
    return counts | {"new": new, "old": 1 - new, "other": 0.0}


def zero(rows, passes):
    formats = [n for n, ok in passes.items() if ok]
    if not formats:
        return dict(formats=0, facts=0, new=0.0, old=0.0, other=0.0)
    counts, _, by_fact = _shares(rows, formats)
    return counts | {k: float(s.mean()) for k, s in by_fact.items()}


def adds_v(W, k, v, C):
    x = torch.linalg.solve(C, k)
    return W + torch.outer(v, x) / (k @ x)


def not_divided(W, k, v, C):
    return W + torch.outer(v - W @ k, torch.linalg.solve(C, k))


def no_C(W, k, v, C):
    return W + torch.outer(v - W @ k, k) / (k @ k)


def C_itself(W, k, v, C):
    return W + torch.outer(v - W @ k, C @ k) / (k @ C @ k)


MUTANTS = {
    "take": (never_over, equal_sizes, equal_sizes__up, reordered, one_too_many),
    "objective": (sign, added_up, no_retain, pooled, number),
    "trainable": (norms, whole_block, prefix, left_on),
    "stop_at": (from_zero, never_falls, highest, highest__last, above, never),
    "pick": (average, above__pick, best, by_rate, reads_the_test),
    "transfer": (no_gate, pooled__transfer, rest_is_old, zero),
    "rank_one": (adds_v, not_divided, no_C, C_itself),
}


def real(worked: dict) -> list[tuple]:
    """(exercise, mistake, what its check on the real model is given)."""
    terms = [worked[f"log_p_{name}"] for name in ("edit", "retain", "text")]
    model, ids = worked["model"], worked["first"]
    written = [worked[name] for name in ("matrix", "k", "v", "C", "ask_here")]
    asked = [worked[name] for name in ("asked", "passes")] if "asked" in worked else None
    return [
        ("take", never_over, (worked["order"], worked["sizes"])),
        *[("objective", m, terms) for m in (sign, added_up, no_retain, pooled)],
        *[("trainable", m, (model, worked["MLPS"], ids)) for m in (whole_block, left_on)],
        *[("stop_at", m, (worked["logs"],)) for m in (from_zero, never_falls, highest)],
        ("pick", reads_the_test, (worked["trials"],)),
        *[("transfer", m, asked) for m in (no_gate, rest_is_old, zero) if asked],
        *[("rank_one", m, written) for m in MUTANTS["rank_one"]],
    ]


def named(found: dict) -> list[str]:
    """Numbers that the teacher's notes must name."""
    take, steps, shares = found["take"], found["stop_at"]["steps"], found["transfer"]
    names = [f"{take['budget']:,}", *(f"{n:,}" for n in take["weights"].values())]
    names += [f"{found['objective'][k]:.3f}" for k in ("edit", "retain", "text")]
    names += [str(len(found["trainable"]["matrices"]))]
    names += [f"{n} at {s}" for edit in steps.values() for s, n in edit.items()]
    names += [f"{found['stop_at']['late_after_as_many']:.3f}", f"{found['pick']['pair'][0]:g}"]
    names += [f"{x:.3f}" for x in found["pick"]["fastest"].values()]
    names += [
        f"{shares[k]['new']:.2f}" for k in ("early, words", "early, wording", "late, wording")
    ]
    names += [f"{x:.2f}" for x in shares["late, words"]["no gate"].values()]
    names += [f"{p:.3f}" for said in found["questions"].values() for p in said["league"]]
    names += [f"{found['rank_one'][w]['training prompt'][1]:.3f}" for w in ("before", "after")]
    return names + [f"{said['baseball']} of 24" for said in found["invented"].values()]

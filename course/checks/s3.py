"""Session 3, train only there. For each exercise one check on tiny input, one on real results."""

from __future__ import annotations

import pandas
import torch

from course import answers
from course.checks import (
    RANDOM,
    Hint,
    expect,
    fresh,
    hints,
    passed,
    recognize,
    same,
    shown,
    uniform,
)
from lib.model.weights import block_matrices, fingerprint, kept, put

LOSS = 5e-3  # nats: terms of the objective differ by less between machines
SHARE = 0.04  # of edited facts: about one answer of 32 may differ between machines
HINTS = hints("s3")


def take(student) -> None:
    """On units of three sizes, at the border of the budget, and in random orders."""
    sizes = {"mlp 3": 6, "attention 7": 2, "mlp 12": 6, "attention 15": 2, "mlp 14": 6, "one": 1}
    order, learned = list(sizes), HINTS["take"]
    got = _names(student(order, sizes, 17))
    mistakes = {"never over": order[:4], "equal sizes": order[:2]}
    recognize(got, mistakes, learned)
    recognize(got, {"equal sizes": order[:3]}, learned)
    recognize(sorted(got), {"reordered": sorted([*order[:4], "one"])}, learned)
    expect(got == order[:5], f"For the sizes {sizes} and a budget of 17 you took {got}.")
    border = _names(student(order, sizes, 16))
    recognize(border, {"one too many": order[:5]}, learned)
    expect(border == order[:4], f"The first four hold 16. For a budget of 16 you took {border}.")
    generator = fresh()
    for _ in range(5):
        sizes = {f"unit {i}": n for i, n in enumerate(_whole(generator, 9, 1, 50))}
        order = [f"unit {i}" for i in torch.randperm(9, generator=generator).tolist()]
        budget = _whole(generator, 1, 1, sum(sizes.values()))[0]
        _reaches(_names(student(order, sizes, budget)), order, sizes, budget)
    try:
        student(order, sizes, sum(sizes.values()) + 1)
    except ValueError:
        passed("in the given order, never under the budget, at most one unit over")
        return
    raise Hint("All units together hold less than this budget. Raise ValueError there.")


def _names(got) -> list[str]:
    expect(isinstance(got, list), f"Return a list of names. You returned {got!r}.")
    return got


def _whole(generator, n: int, low: int, high: int) -> list[int]:
    return torch.randint(low, high, (n,), generator=generator).tolist()


def _reaches(got, order, sizes, budget: int) -> None:
    holds = [sizes[name] for name in got]
    expect(got == order[: len(got)] and sum(holds) >= budget > sum(holds[:-1]), RANDOM)


def take_real(student, order, sizes) -> None:
    """On the units of the real model, by their effect in causal tracing."""
    wanted = answers("s3")["take"]
    for kind, some in {"all": order, "mlps": [n for n in order if n.startswith("mlp")]}.items():
        got, right = _names(student(some, sizes, wanted["budget"])), wanted["units"][kind]
        recognize(sorted(got), {"never over": sorted(right[:-1])}, HINTS["take"])
        expect(got == right, f"Expected {right}, you took {got}.")
    over = wanted["weights"]["all"] - wanted["budget"]
    passed(
        f"{len(wanted['units']['all'])} units, {over:,} weights over the budget; MLPs: none over"
    )


def objective(student) -> None:
    """On six probabilities, then on random ones; with a gradient."""
    p = [0.5, 0.25], [0.9, 0.8, 0.7], [0.1]
    _asks_objective(student, [torch.tensor(x).log() for x in p], (2.0, 1.0, 0.5))
    generator = fresh()
    sizes = _whole(generator, 3, 2, 9)
    terms = [uniform(generator, n, low=-5) for n in sizes]
    _asks_objective(student, terms, tuple(uniform(generator, 3, low=0.5, high=3).tolist()))
    passed("three means, each with its own weight, and the gradient goes through")


def _asks_objective(student, log_p: list[torch.Tensor], weights: tuple) -> None:
    watched = [x.clone().requires_grad_(True) for x in log_p]
    got = student(*watched, weights)
    means, sums = ([-fold(x).item() for x in log_p] for fold in (torch.mean, torch.sum))
    number = got.item() if isinstance(got, torch.Tensor) and got.numel() == 1 else got
    expect(isinstance(number, float), f"Return one number, as a tensor. You returned {got!r}.")
    right, n = _weighted(weights, means), sum(map(len, log_p))
    learned = HINTS["objective"]
    mistakes = {
        "sign": -right,
        "added up": _weighted(weights, sums),
        "no retain": right - weights[1] * means[1],
        "pooled": sum(sums) / n,
    }
    for name, wrong in mistakes.items():
        expect(abs(number - wrong) > 1e-4, learned[name])
    said = f"For {[shown(x) for x in log_p]} and weights {shown(torch.tensor(weights))}: expected "
    expect(abs(number - right) < 1e-3, f"{said}{right:.4f}, you have {number:.4f}.")
    expect(isinstance(got, torch.Tensor) and got.requires_grad, learned["number"])


def _weighted(weights, terms) -> float:
    return sum(w * t for w, t in zip(weights, terms))


def objective_real(student, edit, retain, text) -> None:
    """On the log probabilities of the first step of the real edit, with three sets of weights."""
    wanted = answers("s3")["objective"]
    terms = [wanted[name] for name in ("edit", "retain", "text")]
    sizes = [len(x) for x in (edit, retain, text)]
    expect(sizes == wanted["n"], f"The first step has {wanted['n']} terms, these are {sizes}.")
    for weights in ((1.0, 1.0, 1.0), (4.0, 1.0, 0.5), (1.0, 0.0, 0.0)):
        got, right = float(student(edit, retain, text, weights)), _weighted(weights, terms)
        for name, wrong in {"sign": -right, "no retain": right - weights[1] * terms[1]}.items():
            expect(abs(got - wrong) > LOSS or abs(wrong - right) < LOSS, HINTS["objective"][name])
        n = sum(sizes)
        pooled = sum(size * t for size, t in zip(sizes, terms)) / n
        expect(abs(got - pooled) > LOSS, HINTS["objective"]["pooled"])
        summed = _weighted(weights, [size * t for size, t in zip(sizes, terms)])
        expect(abs(got - summed) > 10 * LOSS, HINTS["objective"]["added up"])
        expect(abs(got - right) < 4 * LOSS, f"With weights {weights}: {right:.3f}, not {got:.3f}.")
    passed(f"{sum(terms):.2f} nats with all weights 1, as in the log of the real edit")


def trainable(student) -> None:
    """On a small model of 12 blocks, with an optimizer that is given all of its weights."""
    generator = fresh()
    _trains(student, _small(), [("mlp", 1), ("attention", 2)])
    layers = torch.randperm(12, generator=generator)[:3].tolist()
    _trains(student, _small(), [("mlp", layers[0]), ("attention", layers[1]), ("mlp", layers[2])])
    passed("only the matrices named have changed after two steps; all other bytes are the same")


def _small():
    """A model of the default model's family, with random weights, all of which could train."""
    from transformers import AutoModelForCausalLM
    from transformers.models.gemma3 import Gemma3TextConfig

    shape = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=12, vocab_size=40)
    heads = dict(num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    config = Gemma3TextConfig(**shape, **heads, query_pre_attn_scalar=8)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()


def _trains(student, model, components) -> None:
    got = student(model, components)
    expect(isinstance(got, dict), "Return a dict, {name of the matrix: matrix}.")
    names = _all_names(model)
    right = {n for n in _matrices(names) if _in(n, components)}
    here = tuple(f"layers.{layer}." for _, layer in components)
    mistakes = {
        "norms": {n for n in names if _in(n, components)},
        "whole block": {n for n in _matrices(names) if any(h in n for h in here)},
        "prefix": _by_prefix(names, components),
    }
    _named(set(got), right, mistakes)
    before = {n: p.detach().clone() for n, p in names.items()}
    ids = torch.randint(40, (2, 8), generator=fresh())
    _two_steps(model, ids, lr=1e-2, weight_decay=0.1)
    changed = {n for n, p in names.items() if not torch.equal(p.detach(), before[n])}
    expect(changed <= right, HINTS["trainable"]["left on"])
    _named(changed, right, mistakes)


def _named(listed: set[str], right: set[str], mistakes: dict[str, set[str]]) -> None:
    wrong = {name: found for name, found in mistakes.items() if found != right}
    recognize(listed, wrong, HINTS["trainable"])
    missing, more = sorted(right - listed)[:3], sorted(listed - right)[:3]
    said = f"Missing (up to three): {missing}. Too many (up to three): {more}."
    expect(listed == right, said)


def _all_names(model) -> dict[str, torch.nn.Parameter]:
    return dict(model.named_parameters())


def _in(name: str, components) -> bool:
    parts = {"mlp": "mlp", "attention": "self_attn"}
    return any(f"layers.{layer}.{parts[kind]}." in name for kind, layer in components)


def _matrices(names) -> set[str]:
    return {n for n, p in names.items() if p.ndim == 2}


def _by_prefix(names, components) -> set[str]:
    """What fits if the point after the number is forgotten: layer 1 is then 10 and 11 too."""
    parts = {"mlp": ".mlp.", "attention": ".self_attn."}
    wanted = [(f"layers.{layer}", parts[kind]) for kind, layer in components]
    return {n for n in _matrices(names) if any(w in n and part in n for w, part in wanted)}


def _two_steps(model, ids, **how) -> None:
    """Two steps of AdamW, which is given every weight of the model."""
    optimizer = torch.optim.AdamW(model.parameters(), **how)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=ids[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()


def trainable_real(student, model, components, ids) -> None:
    """On the real model: the MLPs of fact lookup, two steps, and the bytes put back."""
    wanted = answers("s3")["trainable"]
    every = block_matrices(model)
    with kept({n: every[n] for n in wanted["matrices"]}):
        try:
            got = student(model, components)
            on = {n for n, p in model.named_parameters() if p.requires_grad}
            right, names = set(wanted["matrices"]), _all_names(model)
            layers = [f"layers.{i}." for _, i in components]
            block = {n for n in every if any(i in n for i in layers)}
            _named(set(got), right, {"whole block": block})
            expect(on <= right, HINTS["trainable"]["left on"])
            expect(on == right, "Some of the matrices that should train have requires_grad False.")
            before = fingerprint(model)
            _two_steps(model, ids, lr=5e-5, weight_decay=0.0)
            after = fingerprint(model)
            changed = {n for n in names if before[n] != after[n]}
            expect(changed == right, f"{len(changed)} matrices have changed, not {len(right)}.")
        finally:
            model.requires_grad_(False)
    weights = sum(p.numel() for p in got.values())
    expect(weights == wanted["weights"], f"Expected {wanted['weights']:,} weights.")
    passed(f"{len(right)} matrices with {weights:,} weights changed, {len(names) - len(right)} not")


def stop_at(student) -> None:
    """On a log that rises and falls, at the border, and on random logs."""
    log, learned = [0.2, 0.6, 0.4, 0.5, 0.9, 0.8], HINTS["stop_at"]
    got = student(log, 0.55)
    recognize(got, {"from zero": 1, "never falls": 4, "highest": 5}, learned)
    recognize(got, {"highest": len(log)}, learned)
    expect(got == 2, f"For the log {log} and a strength of 0.55 you stop after step {got}.")
    border = student(log, 0.9)
    recognize(border, {"above": None, "from zero": 4}, learned)
    expect(border == 5, f"For the log {log} and a strength of 0.9 you stop after step {border}.")
    never = student(log, 0.95)
    recognize(never, {"never": len(log), "highest": 5}, learned)
    expect(never is None, f"No step reaches 0.95. Return None, not {never!r}.")
    generator = fresh()
    for _ in range(20):
        log = uniform(generator, 8).tolist()
        first = _whole(generator, 1, 1, 9)[0]
        strength = max(log[: first - 1], default=0) + 0.01
        log[first - 1] = strength + 0.01
        expect(student(log, strength) == first, RANDOM)
    passed("the first step that reaches the strength; None where there is none")


def stop_at_real(student, logs) -> None:
    """On the logs of an early and a late edit."""
    wanted = answers("s3")["stop_at"]["steps"]
    for edit, log in logs.items():
        for strength, right in wanted[edit].items():
            got, below = student(log, float(strength)), sum(s < float(strength) for s in log)
            wrong = {"from zero": right - 1, "never falls": below + 1, "highest": len(log)}
            wrong = {name: n for name, n in wrong.items() if n != right}
            recognize(got, wrong, HINTS["stop_at"])
            expect(got == right, f"{edit}, strength {strength}: step {right}, not {got}.")
    early, late = (wanted[edit]["0.95"] for edit in ("early", "late"))
    passed(f"the early edit takes {early} steps, the late one {late}")


class Sealed:
    """A number that nobody may read. To print it is allowed."""

    def _refuse(self, *_):
        raise Hint(HINTS["pick"]["reads the test"])

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __bool__ = __float__ = __int__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = __abs__ = _refuse
    __truediv__ = __rtruediv__ = __round__ = __array__ = __index__ = _refuse
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return "<sealed>"


def sealed(trials: pandas.DataFrame) -> pandas.DataFrame:
    """The trials with a column `test` that raises when it is read."""
    return trials.assign(test=pandas.Series([Sealed() for _ in trials.index], trials.index, object))


def pick(student) -> None:
    """On a grid made by hand, on one where no pair meets all conditions, and on random ones."""
    learned, got = HINTS["pick"], _picked(student, _trials(_GRID), 0.9, 0.1)
    mistakes = {
        "average": (1e-4, 1.0),
        "above": (5e-5, 1.0),
        "best": (2e-5, 1.0),
        "by rate": (1e-5, 1.0),
    }
    recognize(got, mistakes, learned)
    expect(got == (5e-5, 2.0), f"Expected (5e-05, 2.0), you took {got}.")
    most = [row for row in _GRID if row[0] in (1e-4, 3e-4)]
    got = _picked(student, _trials(most), 0.9, 0.1)
    expect(got == (1e-4, 1.0), f"No pair meets all; 1e-4 meets most. You took {got}.")
    generator = fresh()
    for _ in range(4):
        rows, right = _random_grid(generator)
        expect(_picked(student, _trials(rows), 0.8, 0.2) == right, RANDOM)
    passed("the first pair that meets all conditions everywhere, without a look at the test")


_GRID = [  # lr, weight, localization, reached, kept, added
    (3e-4, 1.0, "late", False, 0.70, 0.30),
    (1e-4, 1.0, "late", True, 0.85, 0.09),
    (1e-4, 1.0, "early", True, 1.10, 0.02),
    (5e-5, 2.0, "late", True, 0.90, 0.10),
    (5e-5, 2.0, "early", True, 1.02, 0.04),
    (5e-5, 1.0, "late", True, 0.93, 0.08),
    (5e-5, 1.0, "early", True, 1.05, 0.03),
    (2e-5, 1.0, "late", True, 1.08, 0.01),
    (2e-5, 1.0, "early", True, 1.20, 0.01),
    (1e-5, 1.0, "late", True, 0.97, 0.02),
    (1e-5, 1.0, "early", True, 1.01, 0.02),
]


def _trials(rows) -> pandas.DataFrame:
    columns = ["lr", "weight_edit", "localization", "reached", "kept", "added"]
    return sealed(pandas.DataFrame(rows, columns=columns))


def _picked(student, trials, keep: float, nats: float) -> tuple[float, float]:
    got = student(trials, keep, nats)
    pair = isinstance(got, (tuple, list)) and len(got) == 2
    expect(pair, f"Return a learning rate and a weight. You returned {got!r}.")
    return float(got[0]), float(got[1])


def _random_grid(generator) -> tuple[list[tuple], tuple[float, float]]:
    """A grid of six pairs in random order, of which some meet all conditions."""
    rates = uniform(generator, 6, low=1e-5, high=1e-3).tolist()
    chosen = _whole(generator, 1, 0, 6)[0]
    rows = []
    for number, lr in enumerate(rates):
        for place in range(3):
            fails = number < chosen and place == number % 3
            kept_, added = uniform(generator, 2).tolist()
            values = [True, 0.81 + kept_, 0.19 * added]
            if fails:
                which = _whole(generator, 1, 0, 3)[0]
                values[which] = [False, 0.79 * kept_, 0.21 + added][which]
            rows.append((lr, 1.0, f"place {place}", *values))
    return rows, (rates[chosen], 1.0)


def pick_real(student, trials) -> None:
    """On the trials of notebook 15, to which a sealed column is added."""
    wanted = answers("s3")["pick"]
    limits = wanted["limits"]
    got = _picked(student, sealed(trials), limits["keep"], limits["nats"])
    first = tuple(trials[["lr", "weight_edit"]].iloc[0])
    recognize(got, {"average": first}, HINTS["pick"])
    expect(got == tuple(wanted["pair"]), f"Expected {wanted['pair']}, you took {got}.")
    passed(f"learning rate {got[0]:g}, weight {got[1]:g}; the sealed column was not read")


def transfer(student) -> None:
    """On four facts in three formats, where no format counts, and on random answers."""
    said = {"a": ["new", "new", "old", "new"], "b": ["old", "other", None, None]}
    said |= {"c": ["new", "new", "new", "old"]}
    rows, learned = _answered(said), HINTS["transfer"]
    got = _shares(student(rows, {"a": True, "b": True, "c": False}))
    right = {"new": 0.5, "old": 0.375, "other": 0.125}
    mistakes = {
        "no gate": {"new": 7 / 12, "old": 1 / 3, "other": 1 / 12},
        "pooled": {"new": 0.5, "old": 1 / 3, "other": 1 / 6},
        "rest is old": {"new": 0.5, "old": 0.5},
    }
    for name, wrong in mistakes.items():
        expect(not _near(got, wrong), learned[name])
    expect(_near(got, right), f"Expected {right}, you have {got}.")
    counts = {k: got[k] for k in ("formats", "facts")}
    expect(counts == {"formats": 2, "facts": 4}, f"Two formats and four facts, not {counts}.")
    none = _shares(student(rows, dict.fromkeys(said, False)))
    expect(none["formats"] == 0, "Where no format counts, `formats` is 0.")
    expect(all(_missing(none[k]) for k in right), learned["zero"])
    for _ in range(3):
        rows, passes, right = _random_answers(fresh())
        expect(_near(_shares(student(rows, passes)), right), RANDOM)
    passed("formats that count, first within each fact, then over facts")


def _shares(got) -> dict:
    keys = ("formats", "facts", "new", "old", "other")
    whole = isinstance(got, dict) and set(keys) <= set(got)
    expect(whole, f"Return a dict with the keys {', '.join(keys)}.")
    return got


def _missing(share) -> bool:
    return share is None or share != share


def _near(got: dict, wanted: dict, tolerance: float = 1e-6) -> bool:
    shares = [(got[k], wanted[k]) for k in wanted]
    return all(not _missing(a) and abs(a - b) <= tolerance for a, b in shares)


def _answered(said: dict[str, list]) -> pandas.DataFrame:
    """Rows of edited facts: true golf, edited to chess; said: {format: new, old, other or None}."""
    words = {"new": "chess", "old": "golf", "other": "polo"}
    rows = [
        (f"fact {i}", name, "golf", "chess", words[what])
        for name, answered in said.items()
        for i, what in enumerate(answered)
        if what
    ]
    return pandas.DataFrame(rows, columns=["id", "format", "true", "edit", "answer"])


def _random_answers(generator):
    """(rows, which formats count, the shares): each fact is asked in some formats of its own."""
    names, kinds = [f"format {i}" for i in range(6)], ["new", "old", "other"]
    passes = {name: i < 3 for i, name in enumerate(names)}
    said, shares = {name: [] for name in names}, dict.fromkeys(kinds, 0.0)
    for _ in range(10):
        asked = _whole(generator, 1, 1, 4)[0]  # so many of the formats that count can ask it
        for i, name in enumerate(names):
            what = kinds[_whole(generator, 1, 0, 3)[0]] if i < asked or i >= 3 else None
            said[name].append(what)
            if what and passes[name]:
                shares[what] += 1 / asked / 10
    return _answered(said), passes, shares


def transfer_real(student, asked, passes) -> None:
    """On the answers of both edits; asked, passes: {(edit, kind): rows, which formats count}."""
    wanted = answers("s3")["transfer"]
    for (edit, kind), rows in asked.items():
        got, right = _shares(student(rows, passes[edit, kind])), wanted[f"{edit}, {kind}"]
        said = f"{edit}, other {kind}: "
        if right["formats"] < len(passes[edit, kind]):
            expect(not _near(got, right["no gate"], SHARE / 4), HINTS["transfer"]["no gate"])
        expect(got["formats"] == right["formats"], f"{said}{right['formats']} formats count.")
        if not right["formats"]:
            expect(_missing(got["new"]), HINTS["transfer"]["zero"])
            continue
        shares = {k: right[k] for k in ("new", "old")}
        rest = {"old": 1 - got["new"]}
        other = 1 - right["new"] - right["old"]
        expect(other < 1e-3 or not _near(got, rest), HINTS["transfer"]["rest is old"])
        expect(_near(got, shares, SHARE), f"{said}expected {shares}, you have {got}.")
    early, late = (wanted[f"{edit}, words"] for edit in ("early", "late"))
    passed(
        f"with other answer words, early {early['new']:.2f} new in {early['formats']} formats; "
        f"late: {late['formats']} formats count, so there is no number"
    )


def rank_one(student) -> None:
    """On a matrix made by hand, then on random ones: what the key gives, and what stays."""
    w = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]])
    k, v = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, -1.0])
    c = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 4.0]])
    _writes(student, w, k, v, c, "For the example, the new matrix times k is {}, not {}.")
    generator = fresh()
    for n, m in ((4, 7), (6, 5)):
        w, a = torch.randn(n, m, generator=generator), torch.randn(m, 3 * m, generator=generator)
        k, v = torch.randn(m, generator=generator), torch.randn(n, generator=generator)
        _writes(student, w, k, v, a @ a.T / m, RANDOM)
    passed("the key gives the value, and every key that C calls unrelated gives what it gave")


def _writes(student, w, k, v, c, otherwise: str) -> None:
    old = w.clone()
    new = student(w, k, v, c)
    expect(getattr(new, "shape", None) == w.shape, "Return a matrix of the shape of W.")
    expect(same(w, old, 0), "Return a new matrix and leave W as it was.")
    _properties(new.double(), w.double(), k.double(), v.double(), c.double(), 1e-3, otherwise)


def _properties(new, w, k, v, c, tolerance: float, otherwise: str) -> None:
    """What holds for the right matrix, and for typical wrong ones; all in double precision."""
    learned, change, gap = HINTS["rank_one"], new - w, v - w @ k
    size = gap.norm() + (v.norm() + (w @ k).norm()) * 1e-3

    def writes(wanted) -> bool:
        return bool((new @ k - wanted).norm() <= tolerance * size)

    expect(not writes(v + w @ k), learned["adds v"])
    unit = change @ k / gap
    parallel = bool(((unit - unit.mean()).abs() <= tolerance * unit.mean().abs()).all())
    expect(not parallel or writes(v), learned["not divided"])
    expect(writes(v), otherwise.format(shown(new @ k), shown(v)))
    row = gap @ change  # the keys at right angles to it keep what they gave
    for name, direction in {"no C": k, "C itself": c @ k}.items():
        expect(not _parallel(row, direction), learned[name])
    expect(_parallel(row, torch.linalg.solve(c, k)), "A key q with q C^-1 k = 0 has moved.")
    rest = change - torch.outer(change @ row, row) / (row @ row)
    expect(rest.norm() <= 10 * tolerance * change.norm(), "The change is not of rank one.")


def _parallel(a, b) -> bool:
    return bool(torch.cosine_similarity(a, b, dim=0).abs() > 1 - 1e-4)


def rank_one_real(student, matrix, k, v, c, ask) -> None:
    """On MLP 4 of the real model, for one fact; ask: p of (old, new) in the training prompt.

    The matrix has its old bytes afterwards. Beside it stands lib's own closed-form edit.
    """
    wanted, old = answers("s3")["rank_one"], matrix.detach().clone()
    new = student(old.clone(), k, v, c).detach()
    numbers = (x.double().cpu() for x in (new, old, k, v, c))
    said = "The new matrix does not give v for the key k."
    _properties(*numbers, 1e-3, said)
    with kept({"matrix": matrix}):
        put({"matrix": matrix}, {"matrix": new.to(matrix)})
        p = ask()
    before, right = (wanted[when]["training prompt"][1] for when in ("before", "after"))
    expect(abs(p[1] - right) < 0.05, f"p of the new answer is {p[1]:.3f}, not {right:.3f}.")
    passed(f"p of the new answer rises from {before:.3f} to {p[1]:.3f}; W is as it was")

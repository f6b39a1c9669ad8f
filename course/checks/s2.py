"""Session 2, where? For each exercise one check on tiny input, one on the real model or results."""

from __future__ import annotations

import zlib
from contextlib import ExitStack
from types import SimpleNamespace

import torch

from course import answers
from course.checks import (
    RANDOM,
    expect,
    fresh,
    hints,
    passed,
    recognize,
    same,
    shown,
    uniform,
)
from lib.facts.formats import answer_tokens, encode, subject_positions
from lib.localize.cases import Cases

REAL = 2e-3  # probabilities of the default model differ by less between machines
AS_LIB = 1e-4  # how close a row of the map must be to that of `lib`, on the same machine
HINTS = hints("s2")

NAME, NOISE, DRAWS, FEW = "Tyrese Haliburton", 3.0, 8, 4
SHOWN = {NAME: "basketball", "Babe Ruth": "baseball", "Lauri Markkanen": "basketball"}
SHOWN |= {"Doug Flutie": "football"}
RECEIVER = 10  # the lowest block with one of the strongest heads, from notebook 12
START, ENDS = 1 / 3, (0.65, 0.75, 0.85)


def case_of(tokenizer, form, name: str, answer: str) -> Cases:
    """One fact as `lib` holds it: its prompt, the tokens of its name, the token of its answer."""
    fact, tokens = SimpleNamespace(subject=name), answer_tokens(tokenizer, form)
    others = [token for word, token in tokens.items() if word != answer]
    return Cases(
        [f"plays-sport/{name}"],
        encode(tokenizer, [form.prompt(name)]),
        [subject_positions(tokenizer, form, fact)],
        torch.tensor([tokens[answer]]),
        torch.tensor([others]),
    )


def seed_of(name: str, draw: int = 0) -> int:
    """The seed from which `lib` draws the noise for a fact."""
    return zlib.crc32(f"0 {draw} plays-sport/{name}".encode())


def name_words(tokenizer, case: Cases) -> list[str]:
    """The tokens of the name and the last token of the prompt, as text."""
    ids = case.prompts.prefix + case.prompts.suffixes[0]
    return [tokenizer.decode(ids[p]) for p in (*case.subjects[0], len(ids) - 1)]


def add_noise(student) -> None:
    """On four vectors, then on random ones."""
    e = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    _noise(student, e, [1, 2], 0.5, 7)
    generator = fresh()
    seeds = torch.randint(10_000, (2,), generator=generator).tolist()
    e = uniform(generator, 12, 64, low=-1)
    span = sorted(torch.randperm(12, generator=generator)[:4].tolist())
    for seed in seeds:
        _noise(student, e, span, 2.5, seed)
    passed("the same noise for the same seed, inside the span only, and the input is untouched")


def _noise(student, e, span: list[int], sigma: float, seed: int) -> None:
    given = e.clone()
    got = student(e, span, sigma, seed)
    expect(same(e, given, 0), HINTS["add_noise"]["in place"])
    expect(getattr(got, "shape", None) == e.shape, "Return a tensor of the shape of the vectors.")
    outside = [i for i in range(len(e)) if i not in span]
    expect(torch.equal(got[outside], e[outside]), HINTS["add_noise"]["everywhere"])
    expect(torch.equal(got, student(e, span, sigma, seed)), HINTS["add_noise"]["fresh"])
    drawn = torch.randn(len(span), e.shape[1], generator=torch.Generator().manual_seed(seed))
    noise = sigma * drawn.to(e)
    expect(not same(got[span], noise), HINTS["add_noise"]["replaced"])
    said = "Draw it with torch.randn, in the shape (tokens of the span, width), from a generator "
    said += "with this seed, and multiply it by sigma. All have the same noise then."
    expect(same(got[span] - e[span], noise, 1e-4), said)


def add_noise_real(student, model, tokenizer, form) -> None:
    """On four facts of the real model: the noise takes the answer away."""
    got, wanted = {}, answers("s2")["add_noise"]
    for name, sport in SHOWN.items():
        case = case_of(tokenizer, form, name, sport)
        ids = torch.tensor([case.prompts.prefix + case.prompts.suffixes[0]], device=model.device)
        with torch.no_grad():
            e, span = model.get_input_embeddings()(ids)[0], list(case.subjects[0])
            sigma = NOISE * e[span].std().item()
            _noise(student, e, span, sigma, seed_of(name))
            noisy = student(e, span, sigma, seed_of(name))
            logits = model(inputs_embeds=noisy[None], logits_to_keep=1).logits[0, -1]
        got[name] = logits.softmax(-1)[case.targets[0]].item()
    right = {name: p["corrupt"] for name, p in wanted.items()}
    close = all(abs(got[name] - p) < REAL for name, p in right.items())
    expect(close, f"Expected {right}, you have {got}.")
    fell = ", ".join(f"{n} {wanted[n]['clean']:.3f} to {p:.3f}" for n, p in got.items())
    passed(f"with noise on the name the answer loses more than half: {fell}")


class _Stack(torch.nn.Module):
    """Three blocks. Each adds to a token something of the tokens before it."""

    def __init__(self, width: int, generator):
        super().__init__()
        self.layers = torch.nn.ModuleList(_Block(width, generator) for _ in range(3))

    @property
    def base_model(self):  # where `blocks` looks for them
        return self

    def forward(self, hidden):
        self.seen = []
        for layer in self.layers:
            hidden = layer(hidden)
            self.seen.append(hidden[0].clone())
        return hidden


class _Block(torch.nn.Module):
    def __init__(self, width: int, generator):
        super().__init__()
        self.weight = torch.nn.Parameter(uniform(generator, width, width, low=-1))

    def forward(self, hidden):
        return hidden + torch.tanh(hidden.cumsum(1) @ self.weight)


def patch(student) -> None:
    """On three small blocks, with random vectors."""
    for layer, pos in ((1, 2), (0, 0), (2, 3)):
        generator = fresh()
        with torch.no_grad():
            _patches(student, _Stack(6, generator), uniform(generator, 1, 4, 6), layer, pos)
    passed("one vector is replaced, its own value changes nothing, and no hook is left behind")


def _patches(student, model, x, layer: int, pos: int) -> None:
    model(x)
    plain, vector = model.seen, torch.arange(6.0)
    with student(model, layer, pos, vector):
        model(x)
        inside = model.seen
    model(x)
    expect(same(model.seen[-1], plain[-1]), HINTS["patch"]["leaking"])
    others = [i for i in range(4) if i != pos]
    kept = same(inside[layer][others], plain[layer][others])
    expect(kept, HINTS["patch"]["all positions"])
    expect(not same(inside[layer][pos], plain[layer][pos] + vector), HINTS["patch"]["added"])
    expect(same(inside[layer][pos], vector), "The vector at this token is not the one given.")
    expect(all(same(a, b) for a, b in zip(inside[:layer], plain)), "An earlier block has changed.")
    with student(model, layer, pos, plain[layer][pos]):
        expect(same(model(x)[0], plain[-1]), "Its own value must change nothing.")
    try:
        with student(model, layer, pos, vector):
            raise KeyError("an error inside the block")
    except KeyError:
        model(x)
    expect(same(model.seen[-1], plain[-1]), HINTS["patch"]["after an error"])


def patch_real(student, model, clean, corrupt, states, span: list[int], answer: int) -> None:
    """On the real model: own values change nothing, and all clean values restore the answer."""

    @torch.no_grad()
    def p(vectors) -> float:
        logits = model(inputs_embeds=vectors[None], logits_to_keep=1).logits[0, -1]
        return logits.softmax(-1)[answer].item()

    plain, vector = p(clean), states[5, span[1]]
    with student(model, 5, span[1], torch.zeros_like(vector)):
        without = p(clean)
    expect(abs(without - plain) > 1e-6, HINTS["patch"]["added"])
    with student(model, 5, span[1], vector):
        own = p(clean)
    expect(abs(own - plain) < 1e-4, HINTS["patch"]["all positions"])

    def back(positions) -> float:
        with ExitStack() as stack:
            for pos in positions:
                stack.enter_context(student(model, 0, pos, states[0, pos]))
            return p(corrupt)

    all_after = back(range(span[0], len(clean)))
    said = f"Expected {plain:.4f} with all tokens from the name on restored, got {all_after:.4f}."
    expect(abs(all_after - plain) < 1e-3, said)
    passed(
        f"{p(corrupt):.4f} becomes {back(span):.4f} with the five vectors of the name after block "
        f"0, and {all_after:.4f} with those of the words after it too"
    )


def effect(student) -> None:
    """On two facts, then on random ones whose effect was chosen."""
    clean, corrupt = torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.48])
    restored = torch.tensor([0.5, 0.5])
    got = _number(student(clean, corrupt, restored))
    mistakes = {
        "mean of ratios": 0.75,
        "of the clean run": 0.3,
        "without the corrupt run": 1.0 / 1.4,
    }
    recognize(torch.tensor(got), _tensors(mistakes), HINTS["effect"])
    expect(abs(got - 0.42 / 0.82) < 1e-5, f"Expected {0.42 / 0.82:.4f}, you have {got:.4f}.")
    generator = fresh()
    corrupt, gap = uniform(generator, 9, high=0.2), uniform(generator, 9, low=0.1, high=0.7)
    change, wanted = (
        uniform(generator, 9, low=-0.1, high=0.3),
        uniform(generator, 1, low=0.1).item(),
    )
    change += (wanted * gap.sum() - change.sum()) / 9
    got = _number(student(corrupt + gap, corrupt, corrupt + change))
    expect(abs(got - wanted) < 1e-4, RANDOM)
    passed("the change that comes back, as a part of what was lost, over all facts together")


def _number(got) -> float:
    one = isinstance(got, (int, float)) or getattr(got, "numel", lambda: 0)() == 1
    expect(one, f"Return one number. You returned {got!r}.")
    return float(got)


def _tensors(numbers: dict[str, float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(x) for name, x in numbers.items()}


def effect_real(student, p_clean, p_corrupt, p_restored: list, model, case, pos: int) -> None:
    """The row of one token, computed by hand, against the `trace` of `lib`."""
    from lib.localize.tracing import trace
    from lib.model.nodes import Node

    nodes = [Node("residual", layer) for layer in range(len(p_restored))]
    rows = trace(model, case, nodes, NOISE, 1, 0, [pos])
    lost = rows.p_clean - rows.p_corrupt
    wanted = torch.tensor(((rows.p_restored - rows.p_corrupt) / lost).to_numpy()).float()
    got = torch.tensor([_number(student(p_clean, p_corrupt, p)) for p in p_restored])
    restored = torch.stack([torch.as_tensor(p) for p in p_restored]).float().cpu()
    clean, corrupt = float(p_clean), float(p_corrupt)
    mistakes = {
        "of the clean run": (restored - corrupt) / clean,
        "without the corrupt run": restored / clean,
    }
    recognize(got, mistakes, HINTS["effect"])
    wrong = (got - wanted).abs().max().item()
    expect(wrong < AS_LIB, f"Expected {shown(wanted)}, you have {shown(got)}.")
    passed(f"your row is that of lib: the largest difference of {len(got)} cells is {wrong:.0e}")


def effect_of_nodes(student, rows) -> None:
    """On the facts that notebook 10 traced: one head and one MLP."""
    for name, known in answers("s2")["effect"].items():
        kind, place = name.split()
        layer, head = map(int, place.split(".")) if kind == "head" else (int(place), -1)
        mine = rows[(rows.kind == kind.lower()) & (rows.layer == layer) & (rows["head"] == head)]
        columns = [torch.tensor(mine[c].to_numpy()) for c in ("p_clean", "p_corrupt", "p_restored")]
        got = torch.tensor(_number(student(*columns)))
        mistakes = {k: v for k, v in known.items() if k != "effect"}
        recognize(got, _tensors(mistakes), HINTS["effect"])
        expect(same(got, torch.tensor(known["effect"]), 1e-4), f"Expected {known['effect']:.4f}.")
        passed(f"{name}, restored at all tokens, returns {got:.2f} of the answer")


def best_cell(student) -> None:
    """On a map of nine cells, then on random ones of another shape."""
    table = torch.tensor([[0.1, 0.6, 0.2], [0.0, 0.1, 0.3], [0.2, 0.4, -0.9]])
    _finds(student, table, (0, 1), "Expected {}, you have {}.")
    generator = fresh()
    for row, column in ((1, 6), (3, 0)):
        table = uniform(generator, 5, 8, low=-0.2, high=0.5)
        table[row, column], table[2, 3] = 0.8, -1.5
        _finds(student, table, (row, column), RANDOM)
    passed("the row and the column of the largest effect")


def _finds(student, table, right: tuple[int, int], otherwise: str) -> None:
    got = student(table)
    single = not isinstance(got, tuple | list) or len(got) != 2
    expect(not single, HINTS["best_cell"]["flat"])
    got = tuple(int(x) for x in got)
    mistakes = {
        "absolute": _place(table.abs()),
        "swapped": right[::-1],
        "last token": (len(table) - 1, int(table[-1].argmax())),
    }
    recognize(got, {k: v for k, v in mistakes.items() if v != right}, HINTS["best_cell"])
    expect(got == right, otherwise.format(right, got))


def _place(table: torch.Tensor) -> tuple[int, int]:
    """Where the largest number is, by going through all."""
    cells = [(i, j) for i in range(table.shape[0]) for j in range(table.shape[1])]
    return max(cells, key=lambda cell: table[cell].item())


def best_cell_real(student, table, words: list[str]) -> None:
    """On the map of the name, as the real model gives it."""
    token, layer, value = answers("s2")["best_cell"]["by_draw"][0]
    _finds(student, table, (words.index(token), layer), "Expected {}, you have {}.")
    got = table[words.index(token), layer].item()
    expect(abs(got - value) < 5 * REAL, f"Expected an effect of {value:.3f} there, not {got:.3f}.")
    passed(f"most returns at {token!r} after block {layer}: {got:.2f}. Was it your prediction?")


def attribution(student) -> None:
    """On a linear function, where it is exact; then on random ones, and on one that bends."""
    clean, corrupt = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    _estimates(student, clean, corrupt, torch.tensor([[3.0, 1.0]]), "Expected {}, got {}.")
    generator = fresh()
    clean, corrupt, slope = (uniform(generator, 3, 5, low=-2, high=2) for _ in range(3))
    _estimates(student, clean, corrupt, slope, RANDOM)
    clean = torch.tensor([[3.0]], requires_grad=True)
    torch.tanh(clean).sum().backward()
    got = _number(student(clean.detach(), torch.tensor([[-3.0]]), clean.grad))
    real = 2 * torch.tanh(torch.tensor(-3.0)).item()
    expect(abs(got + 6 * clean.grad.item()) < 1e-5, RANDOM)
    passed(
        f"exact where the answer is linear; for tanh from 3 to -3 it says {got:.2f}, not {real:.2f}"
    )


def _estimates(student, clean, corrupt, slope, otherwise: str) -> None:
    """slope: the gradient of the linear function (slope * vectors).sum()."""
    right = (slope * corrupt).sum().item() - (slope * clean).sum().item()
    got = student(clean, corrupt, slope)
    expect(getattr(got, "numel", lambda: 1)() == 1, HINTS["attribution"]["not summed"])
    mistakes = {
        "sign": -right,
        "absolute": (slope * corrupt - slope * clean).abs().sum().item(),
        "gradient alone": slope.sum().item(),
    }
    recognize(torch.tensor(_number(got)), _tensors(mistakes), HINTS["attribution"])
    expect(abs(_number(got) - right) < 1e-3, otherwise.format(round(right, 4), got))


def attribution_real(student, clean: list, corrupt: list, slopes: list) -> None:
    """On all MLPs of the real model, for one fact and one random name."""
    found = [_number(student(*given)) for given in zip(clean, corrupt, slopes)]
    known = answers("s2")["attribution"]
    got, wanted = torch.tensor(found), torch.tensor(known["estimate"])
    mistakes = {"sign": -wanted, "gradient alone": torch.tensor([float(s.sum()) for s in slopes])}
    close = 0.02 * float(wanted.abs().max())
    for name, result in mistakes.items():
        expect(not same(got, result, close), HINTS["attribution"][name])
    positive = bool((got >= 0).all())
    expect(not positive, HINTS["attribution"]["absolute"])
    expect(same(got, wanted, close), f"Expected {shown(wanted)}, you have {shown(got)}.")
    least = int(got.argmin())
    passed(
        f"the estimate names MLP {least}: {got[least]:.2f} of a gap of {known['gap']:.2f} logits"
    )


def rise(student) -> None:
    """On one curve and a flat one, then on random curves with a chosen rise."""
    curve, learned = [0.40, 0.52, 0.58, 0.66, 0.75, 0.79, 0.80], HINTS["rise"]
    got = _layers(student(curve, 0.4, 0.5, 0.75))
    mistakes = {
        "fractions alone": [1, 2, 3, 4],
        "without the end": [3],
        "every high layer": [3, 4, 5, 6],
    }
    recognize(got, mistakes, learned)
    expect(got == [3, 4], f"Expected [3, 4], you have {got}.")
    for flat in ([0.4, 0.4, 0.4], [0.3, 0.35, 0.2]):
        try:
            got = _layers(student(flat, 0.4, 0.5, 0.75))
        except (StopIteration, IndexError, ValueError):
            got = None
        expect(got == [], learned["no rise"])
    generator = fresh()
    for first, last in ((2, 5), (0, 3), (4, 4)):
        base, top = 0.3, 0.3 + uniform(generator, 1, low=0.3, high=0.6).item()
        bounds = [(0, 0.32)] * first + [(0.35, 0.78)] * (last - first) + [(0.85, 0.95), (0.1, 0.9)]
        shares = [uniform(generator, 1, low=a, high=b).item() for a, b in bounds] + [1.0, 0.9]
        curve = [base + share * (top - base) for share in shares]
        wanted = list(range(first, last + 1))
        expect(_layers(student(curve, base, 1 / 3, 0.8)) == wanted, RANDOM)
    passed("from the first layer above one threshold to the first above the other, or none")


def _layers(got) -> list[int]:
    expect(hasattr(got, "__iter__"), "Return a list of layers, an empty one if there are none.")
    return [int(x) for x in got]


def rise_real(student, accuracies: list[float], base: float) -> None:
    """On the probes of notebook 12, with three end thresholds."""
    known = answers("s2")["rise"]
    got = _layers(student(accuracies, base, START, 0.75))
    recognize(got, known["mistakes"], HINTS["rise"])
    for end in ENDS:
        got, wanted = _layers(student(accuracies, base, START, end)), known["layers"][str(end)]
        expect(got == wanted, f"Expected {wanted} for an end at {end}, you have {got}.")
    found = "; ".join(f"{e}: {v[0]} to {v[-1]}" for e, v in known["layers"].items())
    passed(f"the same curve, three thresholds for the end, three answers: {found}")


class _Paths:
    """Four steps whose paths are known. Feature 0 is the input; MLP 0 writes feature 1; MLP 1
    reads it and writes feature 2; block 2, the receiver, reads all three and writes the answer,
    feature 3; block 3 adds something for feature 1."""

    def __init__(self, w: list[float]):
        self.w = w

    def _adds(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        first, second, a, b, c, d = self.w
        x, f, g, _ = h.tolist()
        read = a * f + b * g + f * g + d * x
        added = [(1, first * x), (2, second * f), (3, read), (3, c * f)][layer]
        return torch.zeros(4).index_fill(0, torch.tensor(added[0]), added[1])

    def read(self, x: float):
        """What enters each block, and at last what leaves; what each MLP adds."""
        before, mlp = [torch.tensor([x, 0.0, 0.0, 0.0])], []
        for layer in range(4):
            mlp.append(self._adds(layer, before[-1]))
            before.append(before[-1] + mlp[-1])
        return SimpleNamespace(before=before, mlp=mlp)

    def rest(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """The answer if block `layer` and all after it run from `hidden`."""
        for later in range(layer, 4):
            hidden = hidden + self._adds(later, hidden)
        return hidden[3]

    def answer(self, x: float, f: float, g: float) -> float:
        """In a closed form: what the receiver and block 3 make of the three features."""
        _, _, a, b, c, d = self.w
        return a * f + b * g + f * g + d * x + c * f


def path_effect(student) -> None:
    """On small steps with known paths, then with random weights."""
    _paths(student, [2.0, 3.0, 1.0, 0.5, 0.25, 2.0], (1.0, 0.0), "Expected {}, you have {}.")
    generator = fresh()
    w = uniform(generator, 6, low=0.5, high=2).tolist()
    _paths(student, w, (1.5, uniform(generator, 1, low=0.1, high=0.5).item()), RANDOM)
    passed("the path from the MLP straight to the receiver, and nothing that lies between")


def _paths(student, w: list[float], x: tuple[float, float], otherwise: str) -> None:
    model, (clean, corrupt) = _Paths(w), x
    (f, g), (f0, g0) = [(w[0] * v, w[1] * w[0] * v) for v in x]
    answer = model.answer
    plain = answer(corrupt, f0, g0)
    right = answer(corrupt, f, g0) - plain
    got = torch.tensor(_number(student(model, clean, corrupt, 0, 2)))
    mistakes = {
        "total": answer(corrupt, f, g) - plain,
        "clean run": answer(clean, f, g) - answer(clean, f0, g),
        "past the receiver": w[4] * (f - f0),
        "whole stream": answer(clean, f, g) - plain,
    }
    recognize(got, _tensors(mistakes), HINTS["path_effect"])
    expect(abs(got.item() - right) < 1e-4, otherwise.format(right, got.item()))
    got = _number(student(model, clean, corrupt, 1, 2))
    right = answer(corrupt, f0, g) - plain
    expect(abs(got - right) < 1e-4, otherwise.format(right, got))


def path_effect_real(student, steps, clean, corrupt) -> None:
    """On the real model: every MLP below the receiver, for one fact and one random name."""
    known = answers("s2")["path_effect"]
    found = [student(steps, clean, corrupt, mlp, RECEIVER) for mlp in range(RECEIVER)]
    got, wanted = torch.tensor([_number(x) for x in found]), torch.tensor(known["change"])
    close = 0.02 * float(wanted.abs().max())
    for name, result in known["mistakes"].items():
        expect(not same(got, torch.tensor(result), close), HINTS["path_effect"][name])
    expect(same(got, wanted, close), f"Expected {shown(wanted)}, you have {shown(got)}.")
    best = int(got.argmax())
    share = got[best] / known["gap"]
    passed(f"MLP {best} gives block {RECEIVER} {share:.2f} of the gap of {known['gap']:.2f} logits")

"""Session 1, does it know? For each exercise one check on tiny input, one on the real model."""

from __future__ import annotations

from types import SimpleNamespace

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

REAL = 2e-3  # probabilities of the default model differ by less between machines
HINTS = hints("s1")


def answer_id(student) -> None:
    """On a small tokenizer that has learned a few random words."""
    from lib.model.tiny import tokenizer_for

    letters, generator = "abcdefghiklmnoprstuvwz", fresh()

    def word() -> str:
        drawn = torch.randint(len(letters), (6,), generator=generator)
        return "".join(letters[i] for i in drawn.tolist())

    words, learned = [word() for _ in range(12)], HINTS["answer_id"]
    tokenizer = tokenizer_for([f"{w} {w}" for w in words for _ in range(3)])
    for known in words:
        try:
            got = student(tokenizer, known)
        except ValueError:  # the word is one token, with <bos> it is two
            said = f" Your function refuses '{known}', which is one token."
            raise Hint(learned["start token"] + said) from None
        expect(isinstance(got, int), f"Return one int, the id of a token. You returned {got!r}.")
        expect(got not in tokenizer.all_special_ids, learned["start token"])
        expect(tokenizer.decode([got]) != known, learned["no space"])
        said = f"For '{known}' your token is '{tokenizer.decode([got])}'."
        expect(tokenizer.decode([got]) == f" {known}", said)
    _refuses(student, tokenizer, "XQJ" + word().upper())
    passed("one token with its space, and an error for a word of several tokens")


def answer_id_real(student, tokenizer) -> None:
    """On the model's tokenizer: three sports, three ids; a word of two tokens is refused."""
    known = answers("s1")["answer_id"]
    got = {word: student(tokenizer, word) for word in known["ids"]}
    recognize(got, {"no space": known["without_space"]}, HINTS["answer_id"])
    expect(got == known["ids"], f"Expected {known['ids']}, you have {got}.")
    _refuses(student, tokenizer, known["several_tokens"])
    passed(f"{len(set(got.values()))} sports, {len(set(got.values()))} different ids: {got}")


def _refuses(student, tokenizer, word: str) -> None:
    try:
        student(tokenizer, word)
    except ValueError:
        return
    raise Hint(HINTS["answer_id"]["first piece"] + f" The word was '{word}'.")


class _Bigram(torch.nn.Module):
    """The smallest language model: what follows depends on the last token only."""

    def __init__(self, p: torch.Tensor):
        super().__init__()
        self.log_p = torch.nn.Embedding.from_pretrained(p.log() + 3)  # softmax undoes any shift

    def forward(self, input_ids, **_):
        return SimpleNamespace(logits=self.log_p(input_ids))


def p_answer(student) -> None:
    """On models whose probabilities were chosen: three words, then random ones."""
    by_hand = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]])
    _asks_bigram(student, by_hand, [0, 2], [1, 2], "Expected {} and got {}.")
    generator = fresh()
    p = uniform(generator, 9, 9, low=0.05)
    ids = torch.randperm(9, generator=generator)[:5].tolist()
    tokens = torch.randperm(9, generator=generator)[:3].tolist()
    _asks_bigram(student, p / p.sum(1, keepdim=True), ids, tokens, RANDOM)
    passed("probabilities over the whole vocabulary, after the last token")


def _asks_bigram(student, p, ids, tokens, otherwise: str) -> None:
    got, right = student(_Bigram(p), torch.tensor([ids]), tokens), p[ids[-1], tokens]
    expect(getattr(got, "shape", None) == right.shape, "Return a tensor, one number a token.")
    expect(bool((got >= 0).all() and (got <= 1).all()), HINTS["p_answer"]["no softmax"])
    mistakes = {"only options": right / right.sum(), "position": p[ids[0], tokens]}
    recognize(got, mistakes, HINTS["p_answer"])
    expect(same(got, right), otherwise.format(shown(right), shown(got)))


def p_answer_real(student, model, ids, tokens) -> None:
    """On the real model: the three sports after the prompt about Tyrese Haliburton."""
    got, right = student(model, ids, tokens).cpu(), answers("s1")["p_answer"]
    recognize(got, {"only options": torch.tensor(right["among_options"])}, HINTS["p_answer"])
    wanted = torch.tensor(right["p"])
    expect(same(got, wanted, REAL), f"Expected {shown(wanted)}, you have {shown(got)}.")
    passed(f"the model writes the true answer with probability {got[1]:.3f}")


def known_right(student) -> None:
    """On four facts, then on random ones of every kind: known or not, right or not."""
    rows = [[0.7, 0.1, 0.05], [0.3, 0.1, 0.05], [0.1, 0.6, 0.05], [0.2, 0.19, 0.18]]
    p = torch.tensor(rows)
    got, right = _two(student(p, torch.tensor([0, 0, 0, 0]), 0.5)), [True, True, False, True]
    mistakes = {
        "right is known": (right, right),
        "confident": ([True, False, True, False], right),
        "among options": ([True, True, False, False], right),
    }
    recognize(got, mistakes, HINTS["known_right"])
    expect(got == ([True, False, False, False], right), f"For the rows {rows} you have {got}.")
    border, _ = _two(student(p, torch.tensor([0, 0, 0, 0]), 0.3))
    expect(border[1], "The rule says 'at least': a probability of 0.3 reaches a threshold of 0.3.")
    known, right = _coins(60), _coins(60)
    expect(_two(student(*_made(known, right), 0.3)) == (known, right), RANDOM)
    passed("known by the true answer's own probability, right by the largest of the options")


def _two(got) -> tuple[list[bool], list[bool]]:
    whole = isinstance(got, tuple) and len(got) == 2 and all(hasattr(x, "tolist") for x in got)
    expect(whole, "Return two tensors, known and right, with one truth value a fact.")
    known, right = got
    return known.tolist(), right.tolist()


def _coins(n: int) -> list[bool]:
    return (uniform(fresh(), n) < 0.5).tolist()


def _made(known: list[bool], right: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of three options and true columns that are as stated at threshold 0.3."""
    generator = fresh()
    true = torch.randint(3, (len(known),), generator=generator)
    p = uniform(generator, len(known), 3, high=0.01)
    for row, column, k, r in zip(p, true.tolist(), known, right):
        row[column] = uniform(generator, 1, low=0.31 if k else 0.1, high=0.4 if k else 0.29).item()
        if not r:
            row[column - 1] = row[column] * 1.2
    return p, true


def known_right_real(student, p, true) -> None:
    """On all athletes of the table, as the real model answers about them."""
    (known, right), wanted = _two(student(p, true, 0.5)), answers("s1")["known_right"]
    count = sum(known)
    recognize(count, wanted["mistakes"], HINTS["known_right"])
    got = {"facts": len(p), "known": count, "right": sum(right)}
    expect(got == {k: wanted[k] for k in got}, f"You have {got}.")
    passed(f"of {len(p)} facts the model is right about {sum(right)} and knows {count}")


def answerable(student) -> None:
    """On four formats, one of them at the border; then on random ones."""
    rows = [_format("a", 8, 10), _format("a", 9, 10, "forget_train"), _format("d", 5, 10, p=0.9)]
    rows += [
        _format("b", 7, 10, p=0.7),
        _format("b", 10, 10, "forget_train"),
        _format("c", 9, 10, p=0.6),
    ]
    got, right = _plain(student(pandas.concat(rows), 0.8)), dict(a=True, b=False, c=True, d=False)
    mistakes = {
        "above": right | {"a": False},
        "edited facts": right | {"b": True},
        "mean probability": right | {"c": False, "d": True},
    }
    recognize(got, mistakes, HINTS["answerable"])
    expect(got == right, f"Expected {right}, you have {got}.")
    generator = fresh()
    gate, hits = 13, torch.randint(21, (8,), generator=generator).tolist()
    rows = [_format(f"format {i}", n, 20) for i, n in enumerate([*hits, gate])]
    wanted = {f"format {i}": n >= gate for i, n in enumerate([*hits, gate])}
    expect(_plain(student(pandas.concat(rows), gate / 20)) == wanted, RANDOM)
    passed("formats are chosen by retained facts, and the border counts")


def _format(name: str, hits: int, n: int, split: str = "retain_test", p: float = 0.81):
    said = ["golf"] * hits + ["chess"] * (n - hits)
    return pandas.DataFrame(dict(format=name, split=split, true="golf", answer=said, p_true=p))


def _plain(got) -> dict[str, bool]:
    expect(hasattr(got, "keys"), "Return one bool a format, as a dict or a pandas Series.")
    return {name: bool(got[name]) for name in got.keys()}  # noqa: SIM118, a Series too


def answerable_real(student, rows) -> None:
    """On the answers of the unedited model in every format."""
    got, wanted = _plain(student(rows, 0.8)), answers("s1")["answerable"]
    recognize(got, wanted["mistakes"], HINTS["answerable"])
    expect(got == wanted["counts"], f"Expected {wanted['counts']}, you have {got}.")
    out = [name for name, counts in got.items() if not counts]
    passed(f"{len(got) - len(out)} formats count, {len(out)} do not: {', '.join(out)}")


def lens(student) -> None:
    """On vectors made from chosen logits: two layers and three words, then random ones."""
    z = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    _reads(student, z, torch.eye(3), torch.tensor([[4.0], [0.5]]), "Expected {}, got {}.")
    generator = fresh()
    z = torch.randn(5, 8, generator=generator)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    scale = uniform(generator, 5, 1, low=2, high=5)
    _reads(student, z / z.pow(2).mean(1, keepdim=True).sqrt(), turn, scale, RANDOM)
    passed("final norm, unembedding, softmax over the vocabulary, layer by layer")


def _reads(student, z, turn, scale, otherwise: str) -> None:
    """z: the logits that must come out, of root mean square 1, so that the norm undoes `scale`."""
    norm, right = torch.nn.RMSNorm(z.shape[1], eps=1e-9), z.softmax(1)
    got = student(scale * z @ turn, norm, turn)
    expect(getattr(got, "shape", None) == z.shape, "Return one row a layer with one number a word.")
    expect(bool((got >= 0).all() and (got <= 1).all()), HINTS["lens"]["no softmax"])
    mistakes = {"no norm": (scale * z).softmax(1), "over layers": z.softmax(0)}
    recognize(got, mistakes, HINTS["lens"])
    expect(same(got, right), otherwise.format(shown(right), shown(got)))


def lens_real(student, hidden, norm, unembedding, tokens, p) -> None:
    """On the real model; p: its own answer, which the last layer must give."""
    got = student(hidden, norm, unembedding).detach()[:, tokens].cpu()
    mistakes = {"no norm": torch.tensor(answers("s1")["lens"]["without_norm"])}
    recognize(got[:, 1], mistakes, HINTS["lens"])
    expect(same(got[-1], p.cpu()), f"The last layer gives {shown(got[-1])}, not {shown(p)}.")
    wanted = torch.tensor(answers("s1")["lens"]["p_true"])
    expect(same(got[:, 1], wanted, 5 * REAL), f"Expected {shown(wanted)} for the true answer.")
    first = int((got[:, 1] >= 0.5).nonzero()[0])
    passed(
        f"the true answer reaches a half after block {first}, and its highest value, "
        f"{got[:, 1].max():.2f}, after block {int(got[:, 1].argmax())}"
    )

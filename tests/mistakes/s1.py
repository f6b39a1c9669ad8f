"""Session 1."""

from __future__ import annotations

import torch


def no_space(tokenizer, word):
    (only,) = tokenizer(word, add_special_tokens=False).input_ids
    return only


def start_token(tokenizer, word):
    found = tokenizer(" " + word).input_ids
    if len(found) != 1:
        raise ValueError("several tokens")
    return found[0]


def first_piece(tokenizer, word):
    return tokenizer(" " + word, add_special_tokens=False).input_ids[0]


def only_options(model, ids, tokens):
    return model(ids).logits[0, -1, tokens].softmax(-1)


def position(model, ids, tokens):
    return model(ids).logits[0, 0].softmax(-1)[tokens]


def no_softmax(model, ids, tokens):
    return model(ids).logits[0, -1].log_softmax(-1)[tokens]


def right_is_known(p, true, threshold):
    return p.argmax(1) == true, p.argmax(1) == true


def confident(p, true, threshold):
    return p.amax(1) >= threshold, p.argmax(1) == true


def among_options(p, true, threshold):
    shares = p / p.sum(1, keepdim=True)
    return shares[torch.arange(len(p)), true] >= threshold, p.argmax(1) == true


def above(rows, gate):
    kept = rows[rows.split == "retain_test"]
    return (kept.answer == kept.true).groupby(kept.format).mean() > gate


def edited_facts(rows, gate):
    return (rows.answer == rows.true).groupby(rows.format).mean() >= gate


def mean_probability(rows, gate):
    return rows[rows.split == "retain_test"].groupby("format").p_true.mean() >= gate


def no_norm(hidden, norm, unembedding):
    return (hidden @ unembedding.T).softmax(-1)


def over_layers(hidden, norm, unembedding):
    return (norm(hidden) @ unembedding.T).softmax(0)


def no_softmax__lens(hidden, norm, unembedding):
    return norm(hidden) @ unembedding.T


MUTANTS = {
    "answer_id": (no_space, start_token, first_piece),
    "p_answer": (only_options, position, no_softmax),
    "known_right": (right_is_known, confident, among_options),
    "answerable": (above, edited_facts, mean_probability),
    "lens": (no_norm, over_layers, no_softmax__lens),
}


def real(worked: dict) -> list[tuple]:
    """(exercise, mistake, what its check on the real model is given)."""
    asked = [worked[name] for name in ("model", "ids", "tokens")]
    inside = [worked[name] for name in ("hidden", "norm", "unembedding", "tokens")]
    return [
        ("answer_id", no_space, (worked["tokenizer"],)),
        ("answer_id", first_piece, (worked["tokenizer"],)),
        ("p_answer", only_options, asked),
        *[("known_right", m, (worked["p"], worked["true"])) for m in MUTANTS["known_right"]],
        ("lens", no_norm, (*inside, worked["p_answer"](*asked))),
    ]


def named(found: dict) -> list[str]:
    """Numbers that the teacher's notes must name."""
    counts, curve = found["known_right"], found["lens"]["p_true"]
    names = [f"{found['p_answer'][kind][1]:.3f}" for kind in ("p", "among_options")]
    names += [str(counts[kind]) for kind in ("facts", "known", "right")]
    names += [str(n) for n in counts["mistakes"].values()]
    names += [name for name, ok in found["answerable"]["counts"].items() if not ok]
    return names + [f"{max(curve):.2f}", f"block {curve.index(max(curve))}"]

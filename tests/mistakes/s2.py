"""Session 2."""

from __future__ import annotations

from contextlib import contextmanager

import torch

from lib.model.anatomy import blocks


def _drawn(span, e, seed):
    return torch.randn(len(span), e.shape[1], generator=torch.Generator().manual_seed(seed))


def in_place(e, span, sigma, seed):
    e[span] += sigma * _drawn(span, e, seed)
    return e


def everywhere(e, span, sigma, seed):
    return e + sigma * _drawn(range(len(e)), e, seed)


def fresh(e, span, sigma, seed):
    noisy = e.clone()
    noisy[span] += sigma * torch.randn(len(span), e.shape[1])
    return noisy


def replaced(e, span, sigma, seed):
    noisy = e.clone()
    noisy[span] = sigma * _drawn(span, e, seed)
    return noisy


@contextmanager
def _hook(model, layer, change, careful=True):
    handle = blocks(model)[layer].register_forward_hook(lambda module, args, output: change(output))
    if careful:
        try:
            yield
        finally:
            handle.remove()
    else:
        yield
        handle.remove()


def _put(pos, vector):
    def change(output):
        output = output.clone()
        output[0, pos] = vector
        return output

    return change


@contextmanager
def leaking(model, layer, pos, vector):
    change = _put(pos, vector)
    blocks(model)[layer].register_forward_hook(lambda module, args, output: change(output))
    yield


def after_an_error(model, layer, pos, vector):
    return _hook(model, layer, _put(pos, vector), careful=False)


def all_positions(model, layer, pos, vector):
    return _hook(model, layer, lambda output: vector.expand_as(output).clone())


def added(model, layer, pos, vector):
    def change(output):
        output = output.clone()
        output[0, pos] += vector
        return output

    return _hook(model, layer, change)


def mean_of_ratios(clean, corrupt, restored):
    return ((restored - corrupt) / (clean - corrupt)).mean()


def of_the_clean_run(clean, corrupt, restored):
    return (restored - corrupt).mean() / clean.mean()


def without_the_corrupt_run(clean, corrupt, restored):
    return restored.mean() / clean.mean()


def flat(table):
    return int(table.argmax())


def absolute(table):
    return divmod(int(table.abs().argmax()), table.shape[1])


def swapped(table):
    return divmod(int(table.argmax()), table.shape[1])[::-1]


def last_token(table):
    return len(table) - 1, int(table[-1].argmax())


def sign(clean, corrupt, gradient):
    return ((clean - corrupt) * gradient).sum()


def absolute__attribution(clean, corrupt, gradient):
    return ((corrupt - clean) * gradient).abs().sum()


def gradient_alone(clean, corrupt, gradient):
    return gradient.sum()


def not_summed(clean, corrupt, gradient):
    return (corrupt - clean) * gradient


def _between(accuracies, low, high):
    start = next(i for i, a in enumerate(accuracies) if a >= low)
    stop = next((i for i, a in enumerate(accuracies) if i >= start and a >= high), start)
    return list(range(start, stop + 1))


def no_rise(accuracies, base, start, end):
    top = max(accuracies)
    return _between(accuracies, base + start * (top - base), base + end * (top - base))


def fractions_alone(accuracies, base, start, end):
    return _between(accuracies, start, end)


def without_the_end(accuracies, base, start, end):
    return no_rise(accuracies, base, start, end)[:-1]


def every_high_layer(accuracies, base, start, end):
    level = base + start * (max(accuracies) - base)
    return [i for i, a in enumerate(accuracies) if a >= level]


def _entering(model, run, layer, change):
    plain = run.before[layer]
    return model.rest(layer, plain + change) - model.rest(layer, plain)


def _change(model, clean, corrupt, mlp):
    a, b = model.read(clean), model.read(corrupt)
    return a, b, a.mlp[mlp] - b.mlp[mlp]


def total(model, clean, corrupt, mlp, receiver):
    _, b, change = _change(model, clean, corrupt, mlp)
    return _entering(model, b, mlp + 1, change)


def clean_run(model, clean, corrupt, mlp, receiver):
    a, _, change = _change(model, clean, corrupt, mlp)
    return -_entering(model, a, receiver, -change)


def past_the_receiver(model, clean, corrupt, mlp, receiver):
    _, b, change = _change(model, clean, corrupt, mlp)
    return _entering(model, b, receiver + 1, change)


def whole_stream(model, clean, corrupt, mlp, receiver):
    a, b, _ = _change(model, clean, corrupt, mlp)
    return _entering(model, b, receiver, a.before[receiver] - b.before[receiver])


MUTANTS = {
    "add_noise": (in_place, everywhere, fresh, replaced),
    "patch": (leaking, after_an_error, all_positions, added),
    "effect": (mean_of_ratios, of_the_clean_run, without_the_corrupt_run),
    "best_cell": (flat, absolute, swapped, last_token),
    "attribution": (sign, absolute__attribution, gradient_alone, not_summed),
    "rise": (no_rise, fractions_alone, without_the_end, every_high_layer),
    "path_effect": (total, clean_run, past_the_receiver, whole_stream),
}


def real(worked: dict) -> list[tuple]:
    """(exercise, mistake, what its check on the real model is given)."""
    noise = [worked[name] for name in ("model", "tokenizer", "form")]
    runs = [worked[name] for name in ("model", "clean", "corrupt", "states", "span", "answer")]
    row = [worked[name] for name in ("p_clean", "p_corrupt", "p_row", "model", "case", "rese")]
    inside = [worked[name] for name in ("mlp_clean", "mlp_corrupt", "slopes")]
    paths = [worked[name] for name in ("steps", "clean_ids", "corrupt_ids")]
    return [
        ("add_noise", fresh, noise),
        ("add_noise", everywhere, noise),
        ("patch", all_positions, runs),
        ("patch", added, runs),
        ("effect", of_the_clean_run, row),
        ("effect", without_the_corrupt_run, row),
        ("best_cell", last_token, (worked["name_map"], worked["words"])),
        ("best_cell", swapped, (worked["name_map"], worked["words"])),
        ("attribution", sign, inside),
        ("attribution", gradient_alone, inside),
        ("path_effect", total, paths),
        ("path_effect", past_the_receiver, paths),
    ]


def named(found: dict) -> list[str]:
    """Numbers that the teacher's notes must name."""
    noise, first = found["add_noise"], found["best_cell"]["by_draw"][0]
    names = [f"{p[kind]:.3f}" for p in noise.values() for kind in ("clean", "corrupt")]
    names += [f"{c['mean']:.2f}" for c in found["controls"].values()]
    names += [f"{v:.2f}" for numbers in found["effect"].values() for v in numbers.values()]
    names += [first[0], f"block {first[1]}", f"{first[2]:.2f}"]
    names += [f"{v:.2f}" for v in found["best_cell"]["mean"].values()]
    names += [f"{found['attribution']['rank']:.2f}"]
    names += [f"{v:.2f}" for v in found["attribution"]["table"]["MLP 0"]]
    names += [f"{layers[0]} to {layers[-1]}" for layers in found["rise"]["layers"].values()]
    return names + [f"{found['path_effect']['mean']['3']:.3f}"]

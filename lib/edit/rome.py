"""A closed-form edit of one matrix, in the manner of ROME (Meng et al., 2022), as a familiar
reference point.

An MLP's last matrix W is read as a memory: the key k is what enters it at the subject's last
token, W k is what it writes there. For every fact to change, a vector d is found by gradient
descent that gives the new answer if W k + d is written instead; then W changes, once, so that it
writes that for all keys k_1 ... k_n while moving as little as possible what it writes elsewhere:

    W + D (K^T C^-1 K)^-1 K^T C^-1,    K = [k_1 ... k_n], D = [d_1 ... d_n]

with C the second moment of the keys of plain text and of facts to keep. For a single fact this is
ROME's rank-one edit; for n facts the rank is n, and all are written at once. Departs from the
original: keys are taken in the training prompt alone, without random prefixes, and there is no
term on the essence of the subject.
"""

from __future__ import annotations

import pandas
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.config.blocks import Rome
from lib.edit.losses import forgetting
from lib.edit.train import EditData, EditResult, mean_strength, strength_of
from lib.model import unembed
from lib.model.anatomy import OUTPUT_MATRICES, blocks, output_matrix, transposed
from lib.model.components import Localization
from lib.model.hooks import after, before, hooked
from lib.model.nodes import PatchRunner
from lib.model.packing import Pack
from lib.model.weights import nothing_else_changes, trainable


def edit(
    model, localization: Localization, data: EditData, subjects: list[int], settings: Rome
) -> EditResult:
    """Edit `model` in place by changing one matrix in closed form.

    localization: a single output matrix of an MLP; subjects: position of the subject's last token
    in the prompt of every fact of `data`. ValueError for any other localization.
    """
    layer = _layer(localization)
    weights = trainable(model, localization)
    runner, changed = PatchRunner(model), range(data.n_changed)
    prompts = data.prompts.take(changed)
    keys, written, log = [], [], []
    for index, pack in runner.packs(prompts):
        rows = pack.position_rows([subjects[i] for i in index])
        keys.append(_keys(runner, pack, layer)[rows])
        found, steps = _values(runner, pack, layer, rows, index, data, settings)
        written.append(found)
        log += steps
    moment = second_moment(runner, data, layer, settings.ridge)
    (weight,) = weights.values()
    change = least_change(torch.cat(keys), torch.cat(written), moment)
    with nothing_else_changes(model, weights), torch.no_grad():
        weight.add_((change.T if transposed(_matrix(model, layer)) else change).to(weight))
    strength = mean_strength(runner, data)
    table = pandas.DataFrame(log, columns=["step", "edit", "retain", "text", "strength"])
    return EditResult(table, len(log), strength, strength >= settings.strength)


def least_change(keys: Tensor, written: Tensor, moment: Tensor) -> Tensor:
    """The matrix (d_out, d_in) that maps every key to what is to be added there and moves other
    keys least, in the norm of `moment`; keys (n, d_in), written (n, d_out), moment (d_in, d_in).
    Computed in double precision."""
    k, d = keys.double().T, written.double().T
    x = torch.linalg.solve(moment.double(), k)  # C^-1 K
    gram = k.T @ x
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    return d @ torch.linalg.solve(gram, x.T)


def second_moment(runner: PatchRunner, data: EditData, layer: int, ridge: float) -> Tensor:
    """Mean outer product (d_in, d_in) of the keys at every token of the training text and of the
    facts to keep, with `ridge` times its mean diagonal added to the diagonal."""
    kept = data.prompts.take(range(data.n_changed, len(data.prompts)))
    packs = [pack for _, pack in runner.packs(kept)] + [Pack(None, tuple(data.passages))]
    keys = torch.cat([_keys(runner, pack, layer) for pack in packs]).double()
    moment = keys.T @ keys / len(keys)
    return moment + ridge * moment.diagonal().mean() * torch.eye(len(moment)).to(moment)


def _values(
    runner, pack: Pack, layer: int, rows: Tensor, index: list[int], data: EditData, settings
):
    """What to add to the matrix's output at `rows`, (n_facts, d), and the log of finding it.

    In units of what is written there, so that a step means the same in every layer.
    """
    start = runner.read(pack).before[layer]
    output, matrix = [], _matrix(runner.model, layer)

    def keep(module, args, out):
        output.append(out[0, rows].detach())

    with hooked(after(matrix, keep)), torch.no_grad():
        runner.from_block(pack, layer, start, pack.answer_rows)
    scale = output[0].norm(dim=1).mean() / output[0].shape[1] ** 0.5
    found = torch.zeros_like(output[0]).requires_grad_(True)

    def add(module, args, out):
        changed = out.clone()
        changed[0, rows] += scale * found
        return changed

    optimizer, log = torch.optim.Adam([found], lr=settings.lr), []
    for step in tqdm(range(settings.steps), desc="closed form"):
        with torch.enable_grad(), hooked(after(matrix, add)):
            final = runner.from_block(pack, layer, start, pack.answer_rows)
            nll = unembed.nll(runner.model, final, data.targets[index].to(final.device))
        strength = strength_of(nll, data)
        if strength >= settings.value_strength:
            break
        optimizer.zero_grad()
        loss = (forgetting(nll) if data.forget else nll).mean()
        (loss + settings.decay * found.pow(2).mean()).backward()
        optimizer.step()
        log.append({"step": step + 1, "edit": loss.item(), "strength": strength})
    return (scale * found).detach(), log


def _keys(runner: PatchRunner, pack: Pack, layer: int) -> Tensor:
    """What enters the matrix at every token of a pack: (T, d_in)."""
    found = []
    with hooked(before(_matrix(runner.model, layer), lambda _, args: found.append(args[0][0]))):
        runner.read(pack)
    return found[0]


def _matrix(model, layer: int) -> torch.nn.Module:
    return output_matrix(blocks(model)[layer])


def _layer(localization: Localization) -> int:
    parts = localization.components
    if len(parts) != 1 or parts[0].kind != "mlp" or parts[0].matrix not in OUTPUT_MATRICES:
        raise ValueError(
            f"'{localization.name}' is no single output matrix of an MLP: a closed-form edit needs "
            "a localization with `method: rome`"
        )
    return parts[0].layer

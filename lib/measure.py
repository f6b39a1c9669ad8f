"""What a model answers: probabilities of the answer words, once for every fact, no resampling.

Per-fact rows are the raw material of every figure; `stats` turns them into shares with intervals. Two normalizations are
kept (section 8.1): over the format's answer words (`p_true`, `p_edit`), which asks *which* label the model
would give, and over the whole vocabulary (`full_true`, `full_edit`), which asks whether it answers at all.
"""

from __future__ import annotations

import pandas
import torch
import torch.nn.functional as F

from lib.facts.formats import Format, answer_tokens, encode
from lib.facts.records import FactRecord
from lib.packing import Pack, Runner

SCORES = ["p_true", "p_edit", "full_true", "full_edit"]


def answers(runner: Runner, tokenizer, form: Format, subjects: list[str]) -> pandas.DataFrame:
    """Probability of every label for every subject: columns subject, answer, <label>..., mass.

    Label columns are normalized over the answer words; mass is what they hold of the vocabulary;
    answer is the most probable label.
    """
    tokens = answer_tokens(tokenizer, form)
    logits = runner.answer_logits(encode(tokenizer, form, subjects)).float()
    full = logits.softmax(-1)[:, list(tokens.values())]
    mass = full.sum(-1, keepdim=True)
    table = pandas.DataFrame((full / mass).numpy(), columns=list(tokens))
    table.insert(0, "subject", subjects)
    table.insert(1, "answer", [list(tokens)[i] for i in full.argmax(-1).tolist()])
    return table.assign(mass=mass[:, 0].numpy())


def score_facts(runner: Runner, tokenizer, form: Format, facts: list[FactRecord]) -> pandas.DataFrame:
    """One row per fact: id, format, answer, p_true, p_edit, full_true, full_edit."""
    table = answers(runner, tokenizer, form, [f.subject for f in facts])
    true = [row[f.true] for f, (_, row) in zip(facts, table.iterrows())]
    edit = [row[f.edit] for f, (_, row) in zip(facts, table.iterrows())]
    return pandas.DataFrame(
        {
            "id": [f.id for f in facts],
            "format": form.name,
            "true": [f.true for f in facts],
            "edit": [f.edit for f in facts],
            "answer": table.answer,
            "p_true": true,
            "p_edit": edit,
            "full_true": true * table.mass,
            "full_edit": edit * table.mass,
        }
    )


@torch.no_grad()
def text_losses(
    runner: Runner, passages: list[tuple[int, ...]], reference: list[torch.Tensor] | None = None
) -> tuple[pandas.DataFrame, list[torch.Tensor]]:
    """(rows, log probabilities): per passage the next-token loss and KL from the reference, in nats.

    reference: log probabilities of the unedited model for the same passages (as returned by a first
    call), (n_tokens, vocabulary) each; KL(unedited || model) is 0 without it.
    """
    rows, kept = [], []
    for i, passage in enumerate(passages):
        pack = Pack(None, (passage,))
        log_p = runner.logits(pack, pack.text_rows).float().log_softmax(-1).cpu()
        loss = F.nll_loss(log_p, pack.text_targets).item()
        kl = 0.0
        if reference is not None:
            kl = F.kl_div(log_p, reference[i], log_target=True, reduction="batchmean").item()
        else:
            kept.append(log_p)
        rows.append({"passage": i, "loss": loss, "kl": kl, "n_tokens": len(pack.text_targets)})
    return pandas.DataFrame(rows), kept

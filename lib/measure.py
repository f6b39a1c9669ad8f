"""What a model answers: probabilities of the answer words, once for every fact, no resampling.

Per-fact rows are the raw material of every figure; `stats` turns them into shares with intervals.
Probabilities are normalized over the format's answer words (`p_true`, `p_edit`): they say *which*
label the model would give (section 8.1). `mass` is what those words hold of the whole vocabulary,
where asked for.
"""

from __future__ import annotations

import pandas
import torch
import torch.nn.functional as F

from lib.facts.formats import Format, answer_tokens, encode
from lib.facts.records import FactRecord
from lib.packing import Pack, Runner


def answers(
    runner: Runner, tokenizer, form: Format, subjects: list[str], mass: bool = False
) -> pandas.DataFrame:
    """Probability of every label for every subject: columns subject, answer, <label>..., (mass).

    answer is the most probable label. mass=True adds the probability that the answer words hold
    of the whole vocabulary, which takes a full unembedding.
    """
    tokens = answer_tokens(tokenizer, form)
    wanted = list(tokens.values())
    prompts = encode(tokenizer, form, subjects)
    if mass:
        full = runner.answer_probabilities(prompts, wanted)
        held = full.sum(-1)
        chosen = full / held[:, None]
    else:
        chosen = runner.answer_logits(prompts, wanted).softmax(-1)
    table = pandas.DataFrame(chosen.numpy(), columns=list(tokens))
    table.insert(0, "subject", subjects)
    table.insert(1, "answer", [list(tokens)[i] for i in chosen.argmax(-1).tolist()])
    return table.assign(mass=held.numpy()) if mass else table


def score_facts(
    runner: Runner, tokenizer, form: Format, facts: list[FactRecord]
) -> pandas.DataFrame:
    """One row per fact: id, format, true, edit, answer (labels), p_true, p_edit."""
    rows = answers(runner, tokenizer, form, [f.subject for f in facts]).to_dict("records")
    return pandas.DataFrame(
        {
            "id": [f.id for f in facts],
            "format": form.name,
            "true": [f.true for f in facts],
            "edit": [f.edit for f in facts],
            "answer": [row["answer"] for row in rows],
            "p_true": [row[f.true] for f, row in zip(facts, rows)],
            "p_edit": [row[f.edit] for f, row in zip(facts, rows)],
        }
    )


@torch.no_grad()
def text_losses(
    runner: Runner,
    passages: list[tuple[int, ...]],
    reference: list[torch.Tensor] | None = None,
    batch: int = 4,
) -> tuple[pandas.DataFrame, list[torch.Tensor]]:
    """(rows, log probabilities): per passage the next-token loss and KL from the reference, in
    nats.

    reference: log probabilities of the unedited model for the same passages (as returned by a first
    call), (n_tokens, vocabulary) each; KL(unedited || model) is 0 without it.
    """
    rows, kept = [], []
    for start in range(0, len(passages), batch):
        pack = Pack(None, tuple(passages[start : start + batch]))
        log_p = _log_softmax_(runner.logits(pack, pack.text_rows).float()).cpu()
        loss = F.nll_loss(log_p, pack.text_targets, reduction="none")
        lengths = [len(p) - 1 for p in pack.passages]
        for mine, own in zip(log_p.split(lengths), loss.split(lengths)):
            i, kl = len(rows), 0.0
            if reference is None:
                kept.append(mine.clone())
            else:
                kl = _divergence(reference[i], mine).mean().item()
            rows.append({"passage": i, "loss": own.mean().item(), "kl": kl})
    return pandas.DataFrame(rows), kept


def _log_softmax_(z: torch.Tensor) -> torch.Tensor:
    """Log-softmax of each row, in place and a few rows at a time: a row holds a megabyte."""
    for rows in z.split(8):
        rows.sub_(rows.logsumexp(-1, keepdim=True))
    return z


def _divergence(reference: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """KL(reference || p) of each row of log probabilities, in nats: (n_rows,)."""
    pairs = zip(reference.split(8), log_p.split(8))
    return torch.cat([(r.exp() * (r - mine)).sum(1) for r, mine in pairs])

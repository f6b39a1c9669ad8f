"""The recipes the bench compares with give the same scores as ours."""

from __future__ import annotations

import pytest
import torch

from bench import recipes
from lib.facts.formats import answer_tokens, encode, subject_positions
from lib.localize.attribution import attribute, plain_tokens
from lib.localize.nodes import Cases, heads_and_mlps

KEYS = ["id", "kind", "layer", "head"]


@pytest.mark.parametrize("recipe", [recipes.transformer_lens, recipes.with_nnsight])
def test_recipes_give_our_attribution_scores(loaded, formats, table, recipe):
    form, tokens = formats.training, answer_tokens(loaded.tokenizer, formats.training)
    rows = table.iloc[::9]
    others = [[tokens[o] for o in formats.labels if o != true] for true in rows.label]
    cases = Cases(
        list(rows.subject),
        encode(loaded.tokenizer, form, list(rows.subject)),
        [subject_positions(loaded.tokenizer, form, s) for s in rows.subject],
        torch.tensor([tokens[true] for true in rows.label]),
        torch.tensor(others),
    )
    words, nodes = plain_tokens(loaded.tokenizer), heads_and_mlps(loaded.model)
    ours = attribute(loaded.model, cases, nodes, words, 2, 0).set_index(KEYS).sort_index()
    theirs = recipe(loaded, cases, nodes, words, 2, 0).set_index(KEYS).sort_index()
    assert ours.score.abs().max() > 1e-3
    for column in ("score", "ld_clean", "ld_corrupt"):
        expected = ours[column].to_numpy()
        assert theirs[column].to_numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)

"""The maps of the trace explorer, made with branches, equal those of plain causal tracing."""

from dataclasses import replace

import numpy
from conftest import RELATION

from book import trace
from lib.localize.cases import Cases
from lib.localize.tracing import trace as plain
from lib.model.anatomy import blocks
from lib.model.nodes import Node, PatchRunner

KINDS = {"residual stream": "residual", "MLP": "mlp", "attention": "attention"}


def test_a_map_is_that_of_one_run_for_each_node_and_token(loaded, records, formats):
    cases = Cases.of(loaded.tokenizer, {RELATION: formats.training}, records[::14])
    cases = cases.take(range(3))
    said = PatchRunner(loaded.model).answer_logits(cases.prompts).argmax(1)
    cases = replace(cases, targets=said)  # an answer whose probability is not small
    found = trace.maps(loaded.model, cases, 0)
    assert len(found) == 3
    for i, table in enumerate(found):
        case, length = cases.take([i]), len(cases.prompts.prefix) + len(cases.prompts.suffixes[i])
        places = list(range(min(case.subjects[0]), length))
        several = case.take([0] * len(places))
        for words, kind in KINDS.items():
            nodes = [Node(kind, layer) for layer in range(len(blocks(loaded.model)))]
            rows = plain(loaded.model, several, nodes, trace.NOISE, 1, 0, places)
            wide = rows.pivot(index="place", columns="layer", values="p_restored")
            mine = table[table.node == words]
            assert abs(mine[wide.columns].to_numpy() - wide.to_numpy()).max() < 1e-5, words
            for column in ("p_clean", "p_corrupt"):
                assert abs(mine[column].to_numpy() - rows[column].iloc[0]).max() < 2e-6
            assert numpy.ptp(wide.to_numpy()) > 2e-4, "restoring must do something"

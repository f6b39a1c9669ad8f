"""Components: which weights they own, counted by hand, and how sets of them are stored."""

from __future__ import annotations

import pytest
import torch

from lib.model.anatomy import blocks
from lib.model.components import (
    Component,
    Localization,
    load_set,
    matrices,
    single_matrices,
    sizes,
    unit_sizes,
)
from lib.store import Store

# Hidden size 48, MLP size 96, 4 heads of 12, 2 of them for keys and values where they are shared.
GATED = 3 * 48 * 96
PLAIN = 2 * 48 * 96
GROUPED = 2 * 48 * 48 + 2 * 48 * 24
FULL = 4 * 48 * 48
COUNTED = {
    "gemma3": (GATED, GROUPED),
    "gemma2": (GATED, GROUPED),
    "llama": (GATED, GROUPED),
    "qwen3": (GATED, GROUPED),
    "gpt2": (PLAIN, FULL),
    "neox": (PLAIN, FULL),
}
GATED_NAMES = {"gate_proj", "up_proj", "down_proj"}, {"q_proj", "k_proj", "v_proj", "o_proj"}
NAMES = {
    "gemma3": GATED_NAMES,
    "gemma2": GATED_NAMES,
    "llama": GATED_NAMES,
    "qwen3": GATED_NAMES,
    "gpt2": ({"c_fc", "c_proj"}, {"c_attn", "c_proj"}),
    "neox": ({"dense_h_to_4h", "dense_4h_to_h"}, {"query_key_value", "dense"}),
}


def test_sizes_equal_hand_counted_numbers(loaded):
    mlp, attention = COUNTED[loaded.name]
    expected = {Component("mlp", i): mlp for i in range(6)}
    expected |= {Component("attention", i): attention for i in range(6)}
    assert sizes(loaded.model) == expected


def test_matrices_leave_out_biases_norms_and_embeddings(loaded):
    found = [p for ps in matrices(loaded.model).values() for p in ps.values()]
    ours = {id(p) for p in found}
    inside = {id(p) for p in blocks(loaded.model).parameters() if p.ndim > 1}
    assert ours == inside and len(found) == len(ours)
    assert id(loaded.model.get_input_embeddings().weight) not in ours
    assert id(loaded.model.get_output_embeddings().weight) not in ours


def test_matrices_carry_the_names_of_the_model(loaded):
    named = dict(loaded.model.named_parameters())
    for found in matrices(loaded.model).values():
        assert all(named[name] is parameter for name, parameter in found.items())


def test_mlp_matrices_are_those_of_the_mlp_module(loaded):
    table = matrices(loaded.model)
    for layer, block in enumerate(blocks(loaded.model)):
        inside = {id(p) for p in block.mlp.parameters() if p.ndim == 2}
        assert {id(p) for p in table[Component("mlp", layer)].values()} == inside


def test_single_matrices_split_each_layer_exactly(loaded):
    """Every matrix of a layer once, under the layer's own names, and nothing else."""
    layers, single = matrices(loaded.model), single_matrices(loaded.model)
    assert all(c.matrix and len(found) == 1 for c, found in single.items())
    for layer, whole in layers.items():
        parts = [p for c, p in single.items() if (c.kind, c.layer) == (layer.kind, layer.layer)]
        assert sum(map(len, parts)) == len(whole) > 1
        merged = {n: p for part in parts for n, p in part.items()}
        assert merged.keys() == whole.keys()
        assert all(merged[n] is whole[n] for n in whole)


def test_single_matrices_have_the_familys_own_names(loaded):
    found = single_matrices(loaded.model)
    for kind, names in zip(("mlp", "attention"), NAMES[loaded.name]):
        for layer in range(6):
            assert {c.matrix for c in found if (c.kind, c.layer) == (kind, layer)} == names


def test_sizes_of_units_hold_layers_and_the_matrices_they_consist_of(loaded):
    whole, units = sizes(loaded.model), unit_sizes(loaded.model)
    assert not any(c.matrix for c in whole)
    assert {c: n for c, n in units.items() if not c.matrix} == whole
    for layer, weights in whole.items():
        parts = [c for c in units if c.matrix and (c.kind, c.layer) == (layer.kind, layer.layer)]
        assert len(parts) > 1 and sum(units[c] for c in parts) == weights


def test_a_stored_set_reads_back_equal(tmp_path):
    chosen = (Component("attention", 4), Component("mlp", 2))
    saved = Localization("mine", chosen, 120, 100, "by hand")
    saved.save(tmp_path / "mine.json")
    assert Localization.load(tmp_path / "mine.json") == saved
    assert saved.overshoot == pytest.approx(0.2)
    assert saved.first_layer == 2
    assert (saved.layers("mlp"), saved.layers("attention")) == ([2], [4])


def test_a_stored_set_of_single_matrices_reads_back_equal(tmp_path):
    chosen = (
        Component("attention", 1, "q_proj"),
        Component("attention", 4),
        Component("mlp", 2, "gate_proj"),
        Component("mlp", 2, "up_proj"),
    )
    saved = Localization("mine", chosen, 120, 100, "by hand")
    saved.save(tmp_path / "mine.json")
    assert Localization.load(tmp_path / "mine.json") == saved
    assert (saved.layers("mlp"), saved.layers("attention")) == ([2], [1, 4])
    assert saved.first_layer == 1


def test_a_layer_and_its_matrices_are_different_components():
    layer, gate = Component("mlp", 2), Component("mlp", 2, "gate_proj")
    assert layer != gate and len({layer, gate, Component("mlp", 2, "up_proj")}) == 3
    assert sorted([gate, Component("mlp", 3), layer]) == [layer, gate, Component("mlp", 3)]


def test_a_set_without_budget_has_no_overshoot():
    assert Localization("all-mlps", (Component("mlp", 0),), 10, 0).overshoot == 0


def test_a_set_nobody_chose_names_the_notebook(refuses):
    with refuses(FileNotFoundError, "mine.json", "notebook 13", "dvc repro choose_components"):
        load_set(Store("data"), "sports-athletes", "mine", 0)


def test_an_unknown_kind_names_the_known(refuses):
    with refuses(ValueError, "'head'", "mlp, attention"):
        Component("head", 0)


def test_a_model_without_blocks_is_refused(refuses):
    class Flat(torch.nn.Module):
        base_model = torch.nn.Linear(2, 2)

    with refuses(ValueError, "list of blocks", "not supported"):
        blocks(Flat())

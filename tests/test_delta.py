"""A stored edit: applied and undone byte by byte, and never put on other weights."""

from __future__ import annotations

import json

import pytest
import torch

from lib import store
from lib.edit import delta
from lib.model.weights import fingerprint, trainable


@pytest.fixture
def stored(fresh, middle, tmp_path):
    """(base model, edited weights' fingerprint, folder of the stored edit)."""
    edited = fresh("llama")
    for parameter in trainable(edited.model, middle).values():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    delta.save(edited.model, middle, {"base_checksum": edited.checksum, "steps": 7}, tmp_path)
    return fresh("llama"), fingerprint(edited.model), tmp_path


def test_inside_the_model_has_the_edited_bytes_and_outside_its_own(stored):
    base, edited, folder = stored
    before = fingerprint(base.model)
    with delta.applied(base, folder) as old:
        assert fingerprint(base.model) == edited != before
        assert all(before[name] != edited[name] for name in old)
    assert fingerprint(base.model) == before


def test_an_edit_can_be_put_on_for_good(stored):
    base, edited, folder = stored
    delta.edited(base, folder)
    assert fingerprint(base.model) == edited


def test_the_old_bytes_come_back_after_an_error(stored):
    base, _, folder = stored
    before = fingerprint(base.model)
    with pytest.raises(KeyboardInterrupt), delta.applied(base, folder):
        raise KeyboardInterrupt
    assert fingerprint(base.model) == before


def test_a_delta_holds_the_chosen_matrices_only(stored, middle):
    from safetensors.torch import load_file

    base, _, folder = stored
    assert set(load_file(folder / delta.DELTA)) == set(trainable(base.model, middle))


def test_the_card_reads_back(stored):
    assert delta.card(stored[2]) == {"base_checksum": "a" * 64, "steps": 7}


def test_other_weights_are_refused_untouched(stored, refuses):
    base, _, folder = stored
    base.checksum = "b" * 64
    before = fingerprint(base.model)
    with refuses(ValueError, "aaaaaaaaaaaa", "bbbbbbbbbbbb", "load the model named on its card"):
        delta.edited(base, folder)
    assert fingerprint(base.model) == before


def test_a_missing_edit_names_its_folder(llama, tmp_path, refuses):
    folder = tmp_path / "edit" / "sports-athletes" / "fact-lookup" / "0"
    with refuses(FileNotFoundError, "sports-athletes/fact-lookup/0", "name a folder with one"):
        delta.edited(llama, folder)


def test_localizations_that_train_the_same_weights_share_one_edit(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(store.paths, "DATA", tmp_path)
    monkeypatch.setattr(store.paths, "ROOT", tmp_path.parent)
    results = store.Store(tmp_path.name)
    for name, card in (("fact-lookup", {"steps": 7}), ("twin", {"equals": "fact-lookup"})):
        folder = results.folder("edit", "task", name, 0)
        (folder / delta.CARD).write_text(json.dumps(card))
    assert delta.stored(results, "task", "twin", 0) == results.find(
        "edit", "task", "fact-lookup", 0
    )
    assert delta.at_hand(results, "task", ["fact-lookup", "none"], 0) == ["fact-lookup", "none"]


def test_by_hand_the_edits_that_are_there_are_attacked(tmp_path, monkeypatch, capsys, refuses):
    monkeypatch.setattr(store.paths, "ROOT", tmp_path)
    monkeypatch.setattr(store.paths, "DATA", tmp_path / "data")
    mine = store.Store("data/play")
    with refuses(FileNotFoundError, "edit", "notebook 20_edit", "dvc repro edit"):
        delta.at_hand(mine, "task", ["late", "early"], 0)
    (mine.folder("edit", "task", "early", 0) / delta.CARD).write_text("{}")
    assert delta.at_hand(mine, "task", ["late", "early"], 0) == ["early"]
    assert "localization = 'late'" in capsys.readouterr().out

"""An edited model leaves as an ordinary folder, and gets its old bytes back."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from lib.config.blocks import ModelSettings
from lib.edit import delta, export
from lib.model.loading import load_model, sha256
from lib.model.weights import trainable


@pytest.fixture(scope="module")
def base(llama, tmp_path_factory):
    """A local model folder, as a user would name it in params.yaml."""
    folder = tmp_path_factory.mktemp("base") / "model"
    export._save(llama, folder)
    return folder


@pytest.fixture
def edit(base, middle, tmp_path):
    """A stored edit of it."""
    loaded = load_model(ModelSettings(name=str(base), device="cpu"))
    with torch.no_grad():
        for parameter in trainable(loaded.model, middle).values():
            parameter.mul_(1.5)
    folder = tmp_path / "edit"
    folder.mkdir()
    card = {"model": str(base), "base_checksum": loaded.checksum}
    delta.save(loaded.model, middle, card, folder)
    return folder


def test_the_folder_holds_the_edited_model(base, edit, middle, llama, tmp_path):
    export.main([str(edit), str(tmp_path / "made")])
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32)
    changed = trainable(llama.model, middle)
    for (name, old), new in zip(llama.model.named_parameters(), found.parameters(), strict=True):
        expected = 1.5 * old if name in changed else old
        assert torch.equal(new, expected), name
    assert (
        load_model(ModelSettings(name=str(tmp_path / "made"), device="cpu")).checksum
        != llama.checksum
    )
    assert not (tmp_path / "made.partial").exists()


def test_undo_restores_the_bytes(base, edit, tmp_path):
    export.main([str(edit), str(tmp_path / "made")])
    weights = tmp_path / "made" / "model.safetensors"
    assert sha256(weights) != sha256(base / weights.name)
    export.main(["--undo", str(tmp_path / "made")])
    assert sha256(weights) == sha256(base / weights.name)
    assert sorted(p.name for p in weights.parent.iterdir()) == sorted(
        p.name for p in base.iterdir()
    )


def test_an_existing_folder_is_kept(edit, tmp_path):
    (tmp_path / "made").mkdir()
    with pytest.raises(SystemExit, match="error: .*made' exists: name a new folder"):
        export.main([str(edit), str(tmp_path / "made")])
    assert list((tmp_path / "made").iterdir()) == []


def test_a_missing_edit_names_its_notebook(tmp_path):
    with pytest.raises(SystemExit, match="error: there is no stored edit in"):
        export.main([str(tmp_path / "nothing"), str(tmp_path / "made")])
    assert not (tmp_path / "made").exists()


def test_other_base_weights_are_refused(edit, base, fresh, tmp_path):
    kept = (base / "model.safetensors").read_bytes()
    other = fresh("llama")
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    export._save(other, base)
    try:
        with pytest.raises(SystemExit, match="error: this edit was made from weights"):
            export.main([str(edit), str(tmp_path / "made")])
    finally:
        (base / "model.safetensors").write_bytes(kept)


@pytest.mark.parametrize("arguments", [["folder"], ["--undo", "edit", "folder"]])
def test_half_a_command_line_is_refused(arguments):
    with pytest.raises(SystemExit):
        export.main(arguments)

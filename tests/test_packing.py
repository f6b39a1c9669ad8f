"""Packed passes give the numbers of the plain pass, one prompt at a time."""

from __future__ import annotations

import pytest
import torch

from lib.facts.formats import encode
from lib.model.anatomy import blocks
from lib.model.components import matrices
from lib.model.packing import Pack, Prompts, shared_prefix
from lib.model.runner import Runner, starting_at

CLOSE = dict(atol=1e-4, rtol=1e-4)
DEEP = 3


@pytest.fixture(scope="module")
def subjects(table):
    """Names the tokenizer has seen are short; the others make prompts of other lengths."""
    return [*table.subject[::4], "Giannis Antetokounmpo", "Yao Ming", "J.J. Watt"]


@pytest.fixture(scope="module")
def sequences(llama, formats, subjects):
    """All families share the tokenizer, so they share the prompts too."""
    return llama.tokenizer([formats.training.prompt(s) for s in subjects]).input_ids


@pytest.fixture(scope="module")
def pack(sequences, passages):
    return Pack(Prompts.of(sequences), tuple(passages))


def plain(model, ids) -> torch.Tensor:
    return model(torch.tensor([list(ids)])).logits[0]


def gradients(model, runner, pack) -> dict[str, torch.Tensor]:
    """Gradient of every matrix from layer DEEP on, for a loss over answers and text."""
    weights = {
        name: parameter
        for component, found in matrices(model).items()
        for name, parameter in found.items()
        if component.layer >= DEEP
    }
    for parameter in weights.values():
        parameter.requires_grad_(True)
    rows = torch.cat([pack.answer_rows, pack.text_rows])
    loss = runner.nll(pack, rows, torch.arange(len(rows)) + 300).mean()
    found = dict(zip(weights, torch.autograd.grad(loss, list(weights.values()))))
    model.requires_grad_(False)
    return found


def test_prompts_of_the_fixture_differ_in_length(pack):
    assert len({len(s) for s in pack.prompts.suffixes}) > 1
    assert len(pack.prompts.prefix) > 3


def test_packed_answers_equal_the_plain_pass(loaded, pack, sequences):
    packed = Runner(loaded.model).logits(pack, pack.answer_rows)
    expected = torch.stack([plain(loaded.model, s)[-1] for s in sequences])
    torch.testing.assert_close(packed, expected, **CLOSE)


def test_packed_text_equals_the_plain_pass(loaded, pack, passages):
    packed = Runner(loaded.model).logits(pack, pack.text_rows)
    expected = torch.cat([plain(loaded.model, p)[:-1] for p in passages])
    torch.testing.assert_close(packed, expected, **CLOSE)


def test_a_wrong_mask_would_be_noticed(loaded, sequences):
    pack = Pack(Prompts.of(sequences))
    right = Runner(loaded.model).logits(pack, pack.answer_rows)
    pack.hidden_from = torch.ones_like(pack.hidden_from).triu(1)  # causal, across the prompts
    wrong = Runner(loaded.model).logits(pack, pack.answer_rows)
    assert (right - wrong)[1:].abs().max() > 0.01


def test_wrong_positions_would_be_noticed(loaded, sequences):
    pack = Pack(Prompts.of(sequences))
    right = Runner(loaded.model).logits(pack, pack.answer_rows)
    n = len(pack.prompts.prefix)
    pack.positions[0, n:] = pack.positions[0, n:].flip(0)
    wrong = Runner(loaded.model).logits(pack, pack.answer_rows)
    assert (right - wrong).abs().max() > 0.01


def test_passages_alone_can_be_packed(loaded, passages):
    pack = Pack(None, tuple(passages))
    packed = Runner(loaded.model).logits(pack, pack.text_rows)
    expected = torch.cat([plain(loaded.model, p)[:-1] for p in passages])
    torch.testing.assert_close(packed, expected, **CLOSE)


@pytest.mark.parametrize("first_layer", [0, DEEP])
@pytest.mark.parametrize("n_tokens", [40, 128, 129, 150])
def test_passage_length_does_not_matter(loaded, texts, sequences, n_tokens, first_layer):
    # 128 tokens are the sliding window of the Gemma families, beyond which some layers are blind.
    ids = loaded.tokenizer("\n".join(texts[:20])).input_ids[:n_tokens]
    assert len(ids) == n_tokens
    pack = Pack(Prompts.of(sequences[:2]), (tuple(ids),))
    packed = Runner(loaded.model, first_layer).logits(pack, pack.text_rows)
    torch.testing.assert_close(packed, plain(loaded.model, ids)[:-1], **CLOSE)


def test_answer_logits_split_into_packs_equal_one_pack(loaded, sequences):
    prompts = Prompts.of(sequences)
    runner = Runner(loaded.model, max_tokens=len(prompts.prefix) + 20)
    assert len(runner.packs(prompts)) > 1
    whole = Runner(loaded.model, max_tokens=10_000)
    assert len(whole.packs(prompts)) == 1
    torch.testing.assert_close(runner.answer_logits(prompts), whole.answer_logits(prompts), **CLOSE)


def test_answer_hidden_is_what_the_plain_pass_unembeds(loaded, sequences):
    prompts = Prompts.of(sequences)
    runner = Runner(loaded.model, max_tokens=len(prompts.prefix) + 20)
    assert len(runner.packs(prompts)) > 1
    hidden = runner.answer_hidden(prompts)
    base = loaded.model.base_model
    expected = [base(torch.tensor([s])).last_hidden_state[0, -1] for s in sequences]
    torch.testing.assert_close(hidden, torch.stack(expected), **CLOSE)
    assert not hidden.requires_grad


def test_logits_of_some_words_are_columns_of_all(loaded, sequences):
    prompts, runner, words = Prompts.of(sequences), Runner(loaded.model), [500, 7, 301]
    every = runner.answer_logits(prompts)
    torch.testing.assert_close(runner.answer_logits(prompts, words), every[:, words], **CLOSE)


def test_prompts_of_different_formats_can_share_a_pack(loaded, formats, table):
    texts = [form.prompt(table.subject[0]) for form in formats.formats]
    sequences = loaded.tokenizer(texts).input_ids
    prompts = encode(loaded.tokenizer, texts)
    assert len(prompts.prefix) < 3
    expected = torch.stack([plain(loaded.model, s)[-1] for s in sequences])
    torch.testing.assert_close(Runner(loaded.model).answer_logits(prompts), expected, **CLOSE)


def test_a_single_prompt_can_be_asked(loaded, sequences):
    found = Runner(loaded.model).answer_logits(Prompts.of(sequences[:1]))
    torch.testing.assert_close(found[0], plain(loaded.model, sequences[0])[-1], **CLOSE)


def test_answer_nll_keeps_the_order_of_prompts_over_packs(loaded, sequences):
    prompts, targets = Prompts.of(sequences), torch.arange(len(sequences)) + 300
    runner = Runner(loaded.model, max_tokens=len(prompts.prefix) + 20)
    logits = torch.stack([plain(loaded.model, s)[-1] for s in sequences])
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(runner.answer_nll(prompts, targets), expected, **CLOSE)


def test_permuted_prompts_give_permuted_results(loaded, sequences):
    order = list(reversed(range(len(sequences))))
    prompts, runner = Prompts.of(sequences), Runner(loaded.model)
    straight = runner.answer_logits(prompts)
    permuted = runner.answer_logits(prompts.take(order))
    torch.testing.assert_close(permuted, straight[order], **CLOSE)


def test_a_prompt_does_not_depend_on_its_neighbours(loaded, sequences):
    runner, prompts = Runner(loaded.model), Prompts.of(sequences)
    alone = torch.cat([runner.answer_logits(prompts.take([i])) for i in range(len(prompts))])
    torch.testing.assert_close(alone, runner.answer_logits(prompts), **CLOSE)


@pytest.mark.parametrize("first_layer", [1, DEEP, 5])
def test_reused_layers_give_the_same_logits(loaded, pack, first_layer):
    rows = torch.cat([pack.answer_rows, pack.text_rows])
    expected = Runner(loaded.model).logits(pack, rows)
    runner = Runner(loaded.model, first_layer)
    torch.testing.assert_close(runner.logits(pack, rows), expected, **CLOSE)


def test_reused_layers_serve_any_later_composition(loaded, pack):
    runner = Runner(loaded.model, DEEP)
    runner.hidden(pack, pack.answer_rows)
    later = Pack(pack.prompts.take([4, 1]), pack.passages[2:])
    rows = torch.cat([later.answer_rows, later.text_rows])
    expected = Runner(loaded.model).logits(later, rows)
    torch.testing.assert_close(runner.logits(later, rows), expected, **CLOSE)


def test_each_item_goes_through_the_layers_below_once(loaded, pack):
    runner, lengths = Runner(loaded.model, DEEP), []
    count = blocks(loaded.model)[0].register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(
            (args[0] if args else kwargs["hidden_states"]).shape[1]
        ),
        with_kwargs=True,
    )
    first, again = Pack(pack.prompts.take([0, 1]), pack.passages[:1]), pack
    try:
        for part in (first, again, again):
            runner._hidden_below(part)
    finally:
        count.remove()
    prefix, new = len(pack.prompts.prefix), pack.ids.shape[1] - first.ids.shape[1]
    assert lengths == [first.ids.shape[1], prefix + new]


def test_reused_layers_give_the_same_gradients(loaded, pack):
    expected = gradients(loaded.model, Runner(loaded.model), pack)
    found = gradients(loaded.model, Runner(loaded.model, DEEP), pack)
    assert all(g.abs().max() > 1e-3 for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, **CLOSE)


def test_packed_gradients_equal_the_plain_ones(loaded, pack, sequences, passages):
    model = loaded.model
    found = gradients(model, Runner(model), pack)
    weights = [p.requires_grad_(True) for n, p in model.named_parameters() if n in found]
    rows = [plain(model, s)[-1:] for s in sequences] + [plain(model, p)[:-1] for p in passages]
    logits = torch.cat(rows)
    targets = torch.arange(len(logits)) + 300
    loss = torch.nn.functional.cross_entropy(logits, targets)
    expected = torch.autograd.grad(loss, weights)
    names = [n for n, p in model.named_parameters() if n in found]
    model.requires_grad_(False)
    for name, gradient in zip(names, expected):
        torch.testing.assert_close(found[name], gradient, **CLOSE)


def test_text_rows_are_followed_by_their_targets(pack, passages):
    followed = pack.ids[0, pack.text_rows].tolist()
    assert followed == [t for p in passages for t in p[:-1]]
    assert pack.text_targets.tolist() == [t for p in passages for t in p[1:]]


def test_answer_rows_hold_the_last_token_of_each_prompt(pack, sequences):
    assert pack.ids[0, pack.answer_rows].tolist() == [s[-1] for s in sequences]
    positions = pack.positions[0, pack.answer_rows].tolist()
    assert positions == [len(s) - 1 for s in sequences]


def test_position_rows_find_a_token_in_prefix_and_suffix(pack, sequences):
    n = len(pack.prompts.prefix)
    for offset in (0, n - 1, n, n + 1):
        rows = pack.position_rows([offset] * len(sequences))
        assert pack.ids[0, rows].tolist() == [s[offset] for s in sequences]


def test_residuals_agree_with_hidden_states(loaded, pack, sequences):
    found = Runner(loaded.model).residuals(pack, pack.answer_rows)
    n_layers = len(blocks(loaded.model))
    assert len(found) == 2 * n_layers + 1
    for i, ids in enumerate(sequences):
        out = loaded.model(torch.tensor([ids]), output_hidden_states=True)
        states = torch.stack(out.hidden_states)[:, 0, -1]
        # The last hidden state that the model hands out is behind the final norm.
        torch.testing.assert_close(found[0, i], states[0], **CLOSE)
        torch.testing.assert_close(found[2:-1:2, i], states[1:-1], **CLOSE)


def test_last_residual_becomes_the_logits(loaded, pack):
    found = Runner(loaded.model).residuals(pack, pack.answer_rows)
    hidden = Runner(loaded.model).hidden(pack, pack.answer_rows)
    base = loaded.model.base_model
    norms = ("norm", "ln_f", "final_layer_norm")
    norm = next(getattr(base, name) for name in norms if hasattr(base, name))
    torch.testing.assert_close(norm(found[-1]), hidden, **CLOSE)


def test_mid_residual_is_what_the_mlp_norm_reads(loaded, pack):
    """Without its MLP a block hands on what it had between attention and MLP."""
    block = blocks(loaded.model)[2]
    before = Runner(loaded.model).residuals(pack, pack.answer_rows)
    handle = block.mlp.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    try:
        without = Runner(loaded.model).residuals(pack, pack.answer_rows)
    finally:
        handle.remove()
    mid, post = 2 * 2 + 1, 2 * 2 + 2
    torch.testing.assert_close(without[mid], before[mid], **CLOSE)
    if loaded.name != "neox":  # attention and MLP side by side: mid is the block's input
        torch.testing.assert_close(without[post], before[mid], **CLOSE)
    assert (without[post] - before[post]).abs().max() > 0.01


def test_starting_at_leaves_the_model_as_it_was(loaded, pack, sequences):
    expected = plain(loaded.model, sequences[0])
    hidden = torch.randn(1, pack.ids.shape[1], 48)
    with starting_at(loaded.model, DEEP, hidden):
        changed = plain(loaded.model, pack.ids[0].tolist())
    assert not torch.equal(changed, plain(loaded.model, pack.ids[0].tolist()))
    assert torch.equal(plain(loaded.model, sequences[0]), expected)


def test_starting_at_is_undone_after_an_exception(loaded, sequences):
    expected = plain(loaded.model, sequences[0])
    with pytest.raises(RuntimeError), starting_at(loaded.model, DEEP, torch.zeros(1, 3, 48)):
        raise RuntimeError
    assert torch.equal(plain(loaded.model, sequences[0]), expected)
    assert not any("forward" in vars(block) for block in blocks(loaded.model))


def test_stopped_pass_leaves_no_hook(loaded, pack):
    Runner(loaded.model, DEEP).hidden(pack, pack.answer_rows)
    assert not any(block._forward_pre_hooks for block in blocks(loaded.model))


def test_encoded_prompts_are_the_tokens_of_the_format(llama, formats, subjects, sequences):
    prompts = encode(llama.tokenizer, [formats.training.prompt(s) for s in subjects])
    assert [[*prompts.prefix, *s] for s in prompts.suffixes] == sequences


def test_shared_prefix_leaves_every_prompt_a_token():
    assert shared_prefix([[1, 2, 3], [1, 2, 4]]) == 2
    assert shared_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert shared_prefix([[1, 2], [1, 2, 3]]) == 1
    assert shared_prefix([[1, 2], [3, 2]]) == 0
    assert shared_prefix([[1, 2, 3], [1, 2, 4], [1, 5, 3]]) == 1


def test_no_prompts_are_refused(refuses):
    with refuses(ValueError, "no prompts", "empty"):
        Prompts.of([])

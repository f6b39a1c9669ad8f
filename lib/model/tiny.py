"""Tiny models of every supported family, for tests and the smoke profile: made in a second.

`random_model` gives random weights and a tokenizer trained on the texts it gets; `taught` then
trains it on those texts until it knows them, so that a whole pipeline (facts known, edited,
attacked) can run in seconds.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.llama import LlamaConfig
from transformers.models.qwen3 import Qwen3Config

_SHAPE = dict(
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=6,
    num_attention_heads=4,
    max_position_embeddings=256,
    tie_word_embeddings=True,
)
_GROUPED = _SHAPE | dict(num_key_value_heads=2, head_dim=12)
_GEMMA = _GROUPED | dict(query_pre_attn_scalar=12, sliding_window=128)

CONFIGS = {
    "gemma3": lambda vocab: Gemma3TextConfig(vocab_size=vocab, **_GEMMA),
    "gemma2": lambda vocab: Gemma2Config(vocab_size=vocab, **_GEMMA),
    "llama": lambda vocab: LlamaConfig(vocab_size=vocab, **_GROUPED),
    "qwen3": lambda vocab: Qwen3Config(vocab_size=vocab, **_GROUPED),
    "gpt2": lambda vocab: GPT2Config(
        vocab_size=vocab, n_embd=48, n_inner=96, n_layer=6, n_head=4, n_positions=256
    ),
    "neox": lambda vocab: GPTNeoXConfig(vocab_size=vocab, **_SHAPE),
}


def tokenizer_for(texts: list[str], size: int = 1200) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned from texts, which adds a <bos> like the real ones do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


def random_model(family: str, texts: list[str], seed: int = 0):
    """(model, tokenizer) with random weights; ValueError names the families there are."""
    if family not in CONFIGS:
        raise ValueError(f"unknown family '{family}': use one of {', '.join(CONFIGS)}")
    tokenizer = tokenizer_for(texts)
    config = CONFIGS[family](len(tokenizer))
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 2, 1, 0
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    return model.requires_grad_(False), tokenizer


def taught(family: str, texts: list[str], steps: int = 400, batch: int = 64, lr: float = 3e-3):
    """(model, tokenizer) trained on whole texts until it can complete them (about half a
    minute)."""
    from tqdm.auto import tqdm

    model, tokenizer = random_model(family, texts)
    encoded = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    ids, mask = encoded.input_ids, encoded.attention_mask
    labels = ids.masked_fill(mask == 0, -100)
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in tqdm(range(steps), desc=f"teaching tiny-{family}"):
        rows = torch.randint(len(ids), (batch,), generator=generator)
        loss = model(input_ids=ids[rows], attention_mask=mask[rows], labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False), tokenizer

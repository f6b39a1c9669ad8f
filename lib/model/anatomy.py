"""What the families of models call their parts: the only file that knows them.

Gemma, Llama, Qwen, GPT-2 and GPT-NeoX name the same things differently. A new family is added here
and in `lib.model.tiny`, from which the tests make a small one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCKS = ("layers", "h")
PROJECTIONS = ("self_attn.o_proj", "attn.c_proj", "attention.dense")
OUTPUT_MATRICES = ("down_proj", "c_proj", "dense_4h_to_h")  # the last matrix of an MLP
MLP_NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2")
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm")


def _first(parent, names: tuple[str, ...], what: str) -> torch.nn.Module:
    """The first of some submodules that there is; ValueError if there is none."""
    for name in names:
        try:
            return parent.get_submodule(name)
        except AttributeError:
            continue
    raise ValueError(f"no {what} found in {type(parent).__name__}: this family is not supported")


def blocks(model) -> torch.nn.ModuleList:
    """The transformer blocks."""
    return _first(model.base_model, BLOCKS, "list of blocks")


def projection(block) -> torch.nn.Module:
    """The module whose input holds the outputs of all heads side by side: (1, T, heads * d)."""
    return _first(block, PROJECTIONS, "output projection")


def mlp_norm(block) -> torch.nn.Module:
    """The norm whose input is the residual stream between attention and MLP."""
    return _first(block, MLP_NORMS, "norm before the MLP")


def mlp_output(block) -> torch.nn.Module:
    """The module whose output the MLP adds to the residual stream (after its norm, if it has
    one)."""
    return getattr(block, "post_feedforward_layernorm", None) or block.mlp


def output_matrix(block) -> torch.nn.Module:
    """The last matrix of a block's MLP."""
    return _first(block.mlp, OUTPUT_MATRICES, "output matrix")


def final_norm(model) -> torch.nn.Module:
    """The norm between the last block and the unembedding."""
    return _first(model.base_model, FINAL_NORMS, "final norm")


def transposed(module) -> bool:
    """Does it hold its weights as (d_in, d_out), as GPT-2 does, instead of (d_out, d_in)?"""
    return type(module).__name__ == "Conv1D"


def kind_of(path: str) -> str:
    """ "mlp" or "attention", from a parameter's path inside its block."""
    return "mlp" if "mlp" in path.split(".")[0] else "attention"

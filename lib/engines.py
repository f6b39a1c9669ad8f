"""The same model seen through transformer_lens and nnsight, sharing its weights.

Our own hooks are what the pipeline runs on; the two libraries are for readers who know them, for
exploring by hand, and for checking us: tests make all three agree on activations, a patch and a
gradient, on every family. Both libraries rewrite the modules they are given, so each gets a copy
of the structure; parameters and buffers are shared, and edits show on all sides.
"""

from __future__ import annotations

import copy


def bridge(loaded):
    """A transformer_lens TransformerBridge. It has no tokenizer: give it token ids."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = _twin(loaded.model)
    return build_bridge_from_module(
        model, architecture=type(model).__name__, hf_config=model.config
    )


def traceable(loaded):
    """The model wrapped by nnsight: `with traceable(loaded).trace(ids): ...`."""
    from nnsight import TransformersModel

    return TransformersModel(_twin(loaded.model), tokenizer=loaded.tokenizer)


def _twin(model):
    """A copy of the modules with the very same parameters and buffers."""
    return copy.deepcopy(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})

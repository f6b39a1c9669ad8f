"""What a piece of code keeps in memory and computes, from the shapes of its tensors alone.

Tensors on PyTorch's `meta` device have a shape and a type but no numbers, so the library's own
forward and backward passes run on a model of any size in a second or two. `Meter` watches every
operation of such a run: it adds up the bytes of the storages that are alive and the floating-point
operations of the matrix products, which is exact where a formula for each family would be a guess.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Meter(TorchDispatchMode):
    """Counts bytes and operations inside a `with` block.

    known: tensors that were there before (the weights), whose bytes are not counted; live: bytes
    alive now; peak: most that were alive at once; operations: floating-point operations of matrix
    products, two for each multiplication with its addition.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.live, self.peak, self.operations = 0, 0, 0
        self.sizes = {t.untyped_storage()._cdata: 0 for t in known}
        self.watched: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula:
            self.operations += formula(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return out

    def restart(self) -> None:
        """Forget the peak and the operations so far; what is alive stays counted."""
        self.peak, self.operations = self.live, 0

    def _hold(self, storage) -> None:
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.live += self.sizes[key]
        self.peak = max(self.peak, self.live)
        self.watched[key] = weakref.ref(storage, lambda _: self._release(key))

    def _release(self, key: int) -> None:
        self.live -= self.sizes.pop(key, 0)
        self.watched.pop(key, None)

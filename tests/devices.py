"""A second device without one: CPU tensors that claim to be on CUDA and refuse to be mixed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GETTERS = {
    Tensor.device.__get__: lambda on: CUDA if on else CPU,
    Tensor.is_cuda.__get__: lambda on: on,
    Tensor.is_cpu.__get__: lambda on: not on,
}
MOVING = {Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.type_as, torch.as_tensor}
INTO = {Tensor.copy_, Tensor.data.__set__}  # write into the first tensor, from anywhere
BOOKKEEPING = {torch._C._nn._parse_to, torch._has_compatible_shallow_copy_type}  # of `Module.to`
INDEXING = {Tensor.__getitem__, Tensor.__setitem__, Tensor.index_put, Tensor.index_put_}


class SecondDevice(TorchFunctionMode):
    """Inside, a model seems to be on CUDA, and code that CUDA would refuse raises as there.

    The model's parameters and buffers are on the device. A new tensor is on the CPU unless made
    with `device=`; `to`, `cpu` and `cuda` copy one over; any other function leaves its result where
    its inputs are. Tensors of both places in one call raise RuntimeError, except where CUDA takes
    them: CPU numbers of no dimension, CPU indices, `copy_`. Also refused, as there: numpy arrays of
    tensors on the device, and random numbers made there by a generator of the CPU. All values are
    those of the CPU.

    It sees what Python calls, bodies of custom autograd functions too (`ctx.saved_tensors` apart),
    but nothing that runs inside `backward`. A tensor that it did not see made is on the CPU.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.held = WeakTensorKeyDictionary()  # what is on the device
        self._put([*model.parameters(), *model.buffers()], True)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in GETTERS:
            return GETTERS[func](args[0] in self.held)
        if func in BOOKKEEPING:
            return func(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        wanted = self._wanted(func, args, leaves, tensors)
        self._refuse(func, args, leaves, tensors, wanted)
        plain = {Tensor.__iter__: Tensor.unbind, Tensor.cuda: Tensor.to}.get(func, func)
        args, kwargs = tree_map(lambda x: CPU if _device(x) else x, (args, kwargs))
        out = plain(*args, **kwargs)
        if func in MOVING and (out in self.held) != wanted and any(out is t for t in tensors):
            out = out.clone()  # both places are really the CPU
        self._put(args[0] if func in INTO else out, wanted)
        return iter(out) if func is Tensor.__iter__ else out

    def _wanted(self, func, args, leaves: list, tensors: list[Tensor]) -> bool:
        """Will the result be on the device?"""
        devices = [device for x in leaves if (device := _device(x))]
        if devices or func in (Tensor.cpu, Tensor.cuda):
            return func is Tensor.cuda or (func is not Tensor.cpu and devices[0].type != "cpu")
        if func in INTO or func in MOVING and len(tensors) > 1:  # x.to(other), x.data = other
            return tensors[0 if func is Tensor.copy_ else 1] in self.held
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            return False  # made of numbers
        return any(t in self.held for t in tensors)

    def _refuse(self, func, args, leaves: list, tensors: list[Tensor], wanted: bool) -> None:
        """Raise what CUDA would raise for such a call."""
        if func in (Tensor.numpy, Tensor.__array__) and args[0] in self.held:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if wanted and any(isinstance(x, torch.Generator) for x in leaves):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if func in MOVING | INTO:
            return
        if func in INDEXING and args[0] in self.held:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if func is Tensor.__setitem__ and not any(isinstance(x, (Tensor, list)) for x in index):
                return  # x[2:5] = y is a copy_
            indices = {id(x) for x in index}
            tensors = [t for t in tensors if id(t) not in indices]
        away = [t for t in tensors if t not in self.held]
        if len(away) < len(tensors) and any(t.ndim for t in away):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {func.__name__} got tensors "
                "on cuda:0 and cpu"
            )

    def _put(self, out, wanted: bool) -> None:
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and wanted:
                self.held[tensor] = True
            elif isinstance(tensor, Tensor):
                self.held.pop(tensor, None)


def _device(x) -> torch.device | None:
    named = isinstance(x, str) and x.split(":")[0] in ("cpu", "cuda")
    return torch.device(x) if named or isinstance(x, torch.device) else None

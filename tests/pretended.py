"""An accelerator that is not there: tensors say that they lie on it, and what mixes them with others fails as on one.

It shows that tensors are where they have to be, in all but the backward pass; not that a real accelerator has each
kernel.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

DEVICE = torch.device("xpu")
_MAY_MIX = {"copy_", "__setitem__", "__getitem__", "index_put_", "to", "type_as", "_has_compatible_shallow_copy_type"}
_NEEDS_HOST = {"numpy", "__array__"}


class Accelerator(TorchFunctionMode):
    """While it is entered, `.to(DEVICE)` marks a copy, and marked and unmarked tensors cannot meet."""

    _marked = WeakIdKeyDictionary()  # of all that were entered: tensors outlive the block that made them

    def __init__(self) -> None:
        super().__init__()
        self.linears: Counter[bool] = Counter()  # calls, on the accelerator and not

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if func == Tensor.device.__get__:
            return DEVICE if args[0] in self._marked else func(*args)
        if func == Tensor.data.__set__:
            func(*args)
            self._mark(args[0], args[1] in self._marked)
            return None
        if name == "__deepcopy__":  # with all that was copied before
            found = func(*args)
            self._mark(found, args[0] in self._marked)
            return found
        if name in ("cpu", "to", "cuda"):
            return self._moved(func, name, args, kwargs)
        told = kwargs.get("device")
        if told is not None and torch.device(told).type == DEVICE.type:
            kwargs["device"] = torch.device("cpu")
        given = list(_tensors([args, kwargs]))
        on = [one in self._marked for one in given]
        if any(on):
            if name in _NEEDS_HOST:
                raise TypeError(f"{name}: a tensor of the accelerator has to be copied to the host first")
            off = [one for one, is_on in zip(given, on, strict=True) if not is_on and one.dim() > 0]
            if off and name not in _MAY_MIX:
                raise RuntimeError(f"{name}: tensors on two devices, of shapes {[tuple(one.shape) for one in given]}")
        if name == "linear":
            self.linears[any(on)] += 1
        found = func(*args, **kwargs)
        is_on = any(on) if told is None else torch.device(told).type == DEVICE.type
        if name in _MAY_MIX and given:
            is_on = on[0]
        for tensor in _tensors(found):
            self._mark(tensor, is_on)
        return found

    def __enter__(self) -> Any:
        new = self._new = torch.nn.Parameter.__new__  # it asks no mode

        def marked(kind: Any, data: Any = None, requires_grad: bool = True) -> Any:
            found = new(kind, data, requires_grad)
            self._mark(found, data is not None and data in self._marked)
            return found

        setattr(torch.nn.Parameter, "__new__", marked)  # noqa: B010  # as mypy has it, a method is not assigned to
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        setattr(torch.nn.Parameter, "__new__", self._new)  # noqa: B010
        super().__exit__(*error)

    def _moved(self, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if any(
            isinstance(one, torch.device | str) and torch.device(one).type == "meta"
            for one in (*args[1:], *kwargs.values())
        ):
            return func(*args, **kwargs)
        tensor, others = args[0], list(args[1:])
        was_on = tensor in self._marked
        wanted = torch.device("cpu") if name == "cpu" else kwargs.pop("device", None)
        for at, other in enumerate(others):
            if isinstance(other, Tensor):
                wanted, others[at] = (DEVICE if other in self._marked else other.device), other.dtype
            elif isinstance(other, torch.device | str):
                wanted, others[at] = torch.device(other), None
        others = [other for other in others if isinstance(other, torch.dtype)]
        is_on = was_on if wanted is None else torch.device(wanted).type == DEVICE.type
        found = tensor
        if name == "to" and (others or kwargs):
            found = tensor.to(*others, **kwargs)
        if is_on != was_on and found is tensor:
            found = tensor.detach().clone().requires_grad_(tensor.requires_grad) if tensor.is_leaf else tensor.clone()
        self._mark(found, is_on)
        return found

    def _mark(self, tensor: Tensor, is_on: bool) -> None:
        if is_on:
            self._marked[tensor] = True
        else:
            self._marked.pop(tensor, None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))

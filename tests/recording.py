"""`stages` that keep every call, and a comparison of results to the bit."""

from __future__ import annotations

import dataclasses
import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from dipddpm import config
from dipddpm.encoded import EncodedImages

P = ParamSpec("P")
T = TypeVar("T")

_CONFIGS = tuple(
    value
    for value in vars(config).values()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
)


@dataclass
class Call:
    name: str
    arguments: dict[str, Any]
    result: Any


@dataclass
class Recording:
    """Looks at the arguments of each call too, and at the global generators.

    strangers: arguments that are neither a setting nor the result of a stage
    disturbed: stages that drew from a global generator
    """

    calls: list[Call] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    disturbed: set[str] = field(default_factory=set)

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        bound = inspect.signature(function).bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            for item in value if isinstance(value, tuple) else (value,):
                if not self._is_known(item):
                    self.strangers.append(f"{function.__name__}({name}={type(item).__name__})")
        before = generator_states()
        result = function(*args, **kwargs)
        if generator_states() != before:
            self.disturbed.add(function.__name__)
        self.calls.append(Call(function.__name__, dict(bound.arguments), result))
        return result

    def _is_known(self, value: object) -> bool:
        if value is None or isinstance(value, (int, float, str, EncodedImages, *_CONFIGS)):
            return True
        return any(value is call.result for call in self.calls)

    @property
    def names(self) -> list[str]:
        return [call.name for call in self.calls]

    def of(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]


def generator_states() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=True)
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(numpy_state)


def same(left: object, right: object) -> bool:
    """The same bits, through dataclasses, dicts, lists and tuples."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if dataclasses.is_dataclass(left) and not isinstance(left, type):
        return type(left) is type(right) and same(vars(left), vars(right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right

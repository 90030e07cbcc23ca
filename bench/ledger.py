"""The ledger: names each call of a stage by its provenance, measures it, keeps it, and charges it.

A key is the digest of the function, its settings, the seed, and the keys of the results it is
given; only the images at the root go in by their content. An argument that is none of these is
refused: nothing reaches a score past the bill.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from bench import flops
from bench.artifacts import Artifacts
from bench.choices import choices
from bench.extents import Booked, bound
from bench.machine import Machine
from bench.meters import Clock, Device, Memory, SharedCounter, Spans, Steps, compile_seconds
from bench.predicted_memory import predicted_bytes
from bench.records import StageRow
from bench.warmup import warm_up
from dipddpm.config import Context
from dipddpm.encoded import EncodedImages
from dipddpm.training import TrainedNet

P = ParamSpec("P")
T = TypeVar("T")


class _Ledger(ABC):
    """Keys, results by key, and rows; a subclass says what a new call does."""

    def __init__(self) -> None:
        # In the order of their calls, so parents come before children.
        self.rows: dict[str, StageRow] = {}
        self._results: dict[str, Any] = {}
        self._key_of: dict[int, str] = {}

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        key, parents = self._name_call(function, args, kwargs)
        if key in self._results:
            return cast(T, self._results[key])
        result, row = self._perform(
            function,
            args,
            kwargs,
            StageRow(
                key=key,
                function=function.__name__,
                parents=tuple(parents),
                unit="unknown",
                executed=False,
            ),
        )
        self.rows[key] = row
        self._remember(key, result)
        return cast(T, result)

    def key_of(self, result: object) -> str:
        """The key of a stage's result. Raises KeyError if it is none."""
        return self._key_of[id(result)]

    def bill(self, *results: object) -> tuple[str, ...]:
        """The keys of everything that `results` rest on, themselves included, in order."""
        wanted = {self.key_of(result) for result in results}
        for key, row in reversed(self.rows.items()):
            if key in wanted:
                wanted.update(row.parents)
        return tuple(key for key in self.rows if key in wanted)

    @abstractmethod
    def _perform(
        self, function: Callable[..., Any], args: Any, kwargs: Any, row: StageRow
    ) -> tuple[Any, StageRow]:
        """The result of a call that has none yet, and its row, filled in."""

    def _remember(self, key: str, result: Any) -> None:
        if id(result) in self._key_of:
            raise TypeError(f"{self.rows[key].function} returned what another stage had returned")
        self._key_of[id(result)] = key
        if isinstance(result, TrainedNet):
            # Gigabytes at full size: it lives as long as the pipeline holds it.
            weakref.finalize(result, self._key_of.pop, id(result))
        else:
            self._results[key] = result

    def _name_call(
        self, function: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]
    ) -> tuple[str, list[str]]:
        parents: list[str] = []
        content = {
            "function": f"{function.__module__}.{function.__qualname__}",
            "args": [self._name(arg, parents) for arg in args],
            "kwargs": {name: self._name(arg, parents) for name, arg in sorted(kwargs.items())},
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20], parents

    def _name(self, value: Any, parents: list[str]) -> Any:
        if id(value) in self._key_of:
            parents.append(self._key_of[id(value)])
            return {"result": parents[-1]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Context):
            return {"seed": value.seed}
        if isinstance(value, EncodedImages):
            return {"content": value.digest}
        if isinstance(value, tuple | list):
            return [self._name(item, parents) for item in value]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {
                field.name: self._name(getattr(value, field.name), parents)
                for field in dataclasses.fields(value)
            }
            return {type(value).__name__: fields}
        raise TypeError(
            f"a stage was given a {type(value).__name__} that is neither a setting nor the result "
            "of a stage"
        )


class BookingLedger(_Ledger):
    """Books every call and performs none: what a run would do.

    there: keys of what other units make, which this one would load
    """

    def __init__(self, there: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._there = there
        self.booked: dict[str, Booked] = {}

    def _perform(
        self, function: Callable[..., Any], args: Any, kwargs: Any, row: StageRow
    ) -> tuple[Any, StageRow]:
        booked = self.booked[row.key] = Booked(function, bound(function, args, kwargs))
        return booked, dataclasses.replace(row, executed=row.key not in self._there)


class Warm(Protocol):
    """Runs what a stage is about to run on throw-away copies."""

    def __call__(self, function: Callable[..., Any], args: Any, kwargs: Any, /) -> None: ...


class MeasuringLedger(_Ledger):
    """Performs and measures every call that no needed unit has made.

    spans: takes the time that is spent beside the stages, by name
    refused: stages that may only be loaded here; RuntimeError if one would have to be performed
    """

    def __init__(
        self,
        unit: str,
        device: Device,
        machine: Machine,
        artifacts: Artifacts,
        spans: Spans,
        *,
        counter: SharedCounter | None = None,
        warm: Warm | None = warm_up,
        refused: frozenset[Callable[..., Any]] = frozenset(),
    ) -> None:
        super().__init__()
        self._refused = refused
        self._unit = unit
        self.device, self._machine = device, machine
        self._artifacts = artifacts
        self._spans = spans
        self._warm = warm
        # Whether a stage has raised an exception.
        self.failed = False
        self.steps = Steps(self.device, counter)
        self._told = 0

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._spans("ledger"):
            return super().__call__(function, *args, **kwargs)

    def new_rows(self) -> list[StageRow]:
        """The rows since this was last asked, in order."""
        new = list(self.rows.values())[self._told :]
        self._told += len(new)
        return new

    def _perform(
        self, function: Callable[..., Any], args: Any, kwargs: Any, row: StageRow
    ) -> tuple[Any, StageRow]:
        with self._spans("load"):
            found = self._artifacts.load(row.key)
        if found is not None:
            return found, dataclasses.replace(row, unit=self._unit)
        if function in self._refused:
            raise RuntimeError(
                f"{function.__name__} belongs to a unit of its own, and none that {self._unit} "
                "needs has made this one"
            )
        compiled = [compile_seconds()]
        if self._warm is not None:
            with self._spans("warm_up"):
                self._warm(function, args, kwargs)
        compiled.append(compile_seconds())
        memory, steps, clock = Memory(self.device), self.steps, Clock(self.device)
        energy = self._machine.energy()
        try:
            with self._spans("instruments"), memory, steps, energy, clock, self._spans("stages"):
                result = function(*args, **kwargs)
        except Exception as error:
            self.failed = True
            error.add_note(f"(in {function.__module__}:{function.__qualname__})")
            raise
        compiled.append(compile_seconds())
        measured: dict[str, Any] = {
            "unit": self._unit,
            "executed": True,
            "seconds": clock.seconds,
            "device_seconds": clock.device_seconds,
            "step_seconds": tuple(steps.step_seconds),
            "data_wait_seconds": tuple(steps.data_wait_seconds),
            "host_peak_bytes": memory.host_peak_bytes,
            "device_peak_allocated_bytes": memory.device_peak_allocated_bytes,
            "device_peak_reserved_bytes": memory.device_peak_reserved_bytes,
            "cpu_joules": energy.cpu_joules,
            "gpu_joules": energy.gpu_joules,
        }
        if compiled[-1]:  # this process has compiled something
            measured["warm_up_compile_seconds"] = compiled[1] - compiled[0]
            measured["compile_seconds"] = compiled[2] - compiled[1]
        with self._spans("instruments"):
            measured["device_process_bytes"] = self._machine.gpu_process_bytes()
        with self._spans("keep"):
            measured |= self._artifacts.keep(row.key, result)
        # Behind the stage, which in a cold unit is the first to call anything.
        with self._spans("flops"):
            given = bound(function, args, kwargs)
            measured["chosen"] = choices(function, given, result, self.device.torch_device.type)
            measured["flops"] = flops.of_stage(function, given, result=result)
            if self.device.is_cuda:
                measured["predicted_bytes"] = predicted_bytes(function, given)
        return result, dataclasses.replace(row, **measured)

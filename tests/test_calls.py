"""The tree of calls against the stack of each moment, looked at one microsecond at a time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from bench import traces
from reports.calls import BESIDE, Call, call_tree
from tests.test_traces import HOST, Event, cuda_trace, span

STEPS = [
    span("user_annotation", "ProfilerStep#2", 10, 400),
    span("user_annotation", "ProfilerStep#3", 420, 300),
]
LENGTH = 800
Path = tuple[str, ...]


def paths(calls: Iterable[Call], above: Path = ()) -> Iterator[tuple[Path, Call]]:
    for call in calls:
        here = (*above, call.name)
        yield here, call
        yield from paths(call.callees, here)


def nested(random_: random.Random, tid: int, first: int, last: int, depth: int) -> Iterator[Event]:
    """Spans as calls make them: in order, and each whole inside the one that it is called from."""
    at = first
    while at < last and depth < 6:
        start = random_.randint(at, last)
        end = random_.randint(start, last)
        category = random_.choice(["python_function", "cpu_op", "cuda_runtime"])
        yield span(category, random_.choice("abc"), start, end - start, tid=tid)
        yield from nested(random_, tid, start, end, depth + 1)
        at = end + 1


def looked_at(events: list[Event]) -> Counter[Path]:
    """Microseconds inside of steps by what is on the stack of each thread; HOST is the steps'."""
    found: Counter[Path] = Counter()
    inside = {at for step in STEPS for at in range(step["ts"], int(traces.end(step)))}
    for tid in {event["tid"] for event in events}:
        # As they were made, the caller before what it calls.
        mine = [event for event in events if event["tid"] == tid]
        for at in inside:
            stack = [one["name"] for one in mine if one["ts"] <= at < traces.end(one)]
            if stack and tid != HOST:
                stack.insert(0, BESIDE)
            found.update(tuple(stack[:depth]) for depth in range(1, len(stack) + 1))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_seconds_are_those_of_the_stack_at_each_moment(seed: int) -> None:
    random_ = random.Random(seed)
    threads = (HOST, 1, 2)
    made = [event for tid in threads for event in nested(random_, tid, 0, LENGTH, 0)]
    # All threads call an operator, for one that does not is left out.
    made += [span("cpu_op", "op", LENGTH, 5, tid=tid) for tid in threads]
    # Which of two that begin and end together called the other, no trace tells.
    events = list({(one["tid"], one["ts"], one["dur"]): one for one in made}.values())
    expected = looked_at(events)
    random_.shuffle(events)
    found = dict(paths(call_tree(traces.normalised(events), STEPS)))
    assert {path: round(call.seconds * 1e6) for path, call in found.items()} == {
        path: micro for path, micro in expected.items() if micro >= 0.005 * 700
    }


def test_calls_of_one_name_from_one_place_are_together_and_the_costliest_are_first() -> None:
    events = [
        span("python_function", "step", 0, 800),
        *(span("cpu_op", "aten::add", at, 20) for at in (20, 40, 500)),
        span("cpu_op", "aten::mm", 100, 200),
        span("python_function", "<built-in method run_backward of E object at 0x7f>", 310, 10),
        span("python_function", "<built-in method run_backward of E object at 0x8f>", 510 + 15, 10),
    ]
    [step] = call_tree(events, STEPS)
    assert (step.name, step.calls) == ("step", 2)  # once in each step
    assert step.seconds == pytest.approx(700e-6)
    assert [(one.name, one.calls, round(one.seconds * 1e6)) for one in step.callees] == [
        ("aten::mm", 1, 200),
        ("aten::add", 3, 60),
        ("<built-in method run_backward of E object>", 2, 20),
    ]


def test_a_block_of_record_function_is_in_neither_what_opens_it_nor_what_closes_it() -> None:
    events = [
        span("python_function", "step", 100, 200),
        span("python_function", "__enter__", 110, 10),
        span("cpu_op", "Optimizer.step", 115, 165),  # until 280
        span("cpu_op", "aten::mul", 130, 100),
        span("python_function", "__exit__", 275, 15),  # until 290
    ]
    found = {path: round(call.seconds * 1e6) for path, call in paths(call_tree(events, STEPS))}
    assert found == {
        ("step",): 200,
        ("step", "__enter__"): 5,
        ("step", "Optimizer.step"): 160,
        ("step", "Optimizer.step", "aten::mul"): 100,
        ("step", "__exit__"): 15,
    }


def test_what_reaches_beyond_its_step_is_cut_off_and_rounding_ends_nothing() -> None:
    events = [
        span("cpu_op", "outer", 100, 100),
        span("cpu_op", "inner", 150, 50.002),
        span("cpu_op", "innermost", 160, 40),
        span("cpu_op", "over the end", 400, 100),  # 10 in the first step, 80 in the second
        span("cpu_op", "before", 0, 10),
    ]
    found = {path: round(call.seconds * 1e6) for path, call in paths(call_tree(events, STEPS))}
    assert found == {
        ("outer",): 100,
        ("outer", "inner"): 50,
        ("outer", "inner", "innermost"): 40,
        ("over the end",): 90,
    }


def test_a_thread_that_calls_no_operator_and_what_takes_next_to_nothing_are_left_out() -> None:
    waiting = span("python_function", "threading.py(1): wait", 0, 800, tid=7)
    small = span("cpu_op", "small", 20, 3)  # of 700
    large = span("cpu_op", "large", 30, 4)
    assert [one.name for one in call_tree([waiting, small, large], STEPS)] == ["large"]


def test_a_recursion_without_end_is_cut_and_not_followed() -> None:
    events = [span("cpu_op", "f", at, LENGTH - 2 * at) for at in range(350)]
    deepest = max(len(path) for path, _ in paths(call_tree(events, STEPS)))
    assert deepest == 200


def test_the_tree_of_a_cuda_trace_holds_the_runtime_s_calls() -> None:
    events = list(traces.normalised(cuda_trace()["traceEvents"]))
    found = {path[1:]: (call.calls, round(call.seconds * 1e6))
             for path, call in paths(call_tree(events, traces.steps(events)))}  # fmt: skip
    module = ("nn.Module: Net_0", "aten::conv2d")
    assert found[()] == (2, 2000)  # the loop itself
    assert found[module] == (2, 400)
    assert found[(*module, "cudaLaunchKernel")] == (2, 20)
    assert found[("cudaStreamSynchronize",)] == (2, 40)
    assert found[("enumerate(DataLoader)#dipddpm.__next__",)] == (2, 100)

"""The peaks are operations over seconds: the operations as torch counts them, the seconds faked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import peaks
from bench.environment import collect
from bench.meters import Device


def test_a_peak_is_what_the_calls_do_over_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def seconds(device: Device, work: Callable[[], object], _: int) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        counts.append(counter.get_total_flops())
        return 0.5 if len(counts) == 1 else 0.25

    monkeypatch.setattr(peaks, "best_seconds", seconds)
    (peak,) = peaks.measure_peaks(Device("cpu"))
    matmul, conv = counts
    assert (peak.matmul_flops, peak.conv_flops) == (2 * matmul, 4 * conv)
    assert peak.flops == max(2 * matmul, 4 * conv)


def test_measuring_them_leaves_the_settings_of_torch_as_they_were() -> None:
    cudnn: Any = torch.backends.cudnn
    flags = cudnn.conv.fp32_precision, cudnn.benchmark
    before = (*flags, torch.backends.cuda.matmul.fp32_precision, torch.is_inference_mode_enabled())
    (peak,) = collect("cpu").peaks
    assert peak.precision == "float32" and peak.flops > 0
    flags = cudnn.conv.fp32_precision, cudnn.benchmark
    assert before == (*flags, torch.backends.cuda.matmul.fp32_precision, False)


@pytest.mark.cuda
def test_tensor_cores_have_peaks_of_their_own() -> None:
    found = {peak.precision: peak.flops for peak in peaks.measure_peaks(Device("cuda:0"))}
    assert list(found) == ["float32", "tf32", "float16", "bfloat16"]
    assert min(found["float16"], found["bfloat16"]) > found["float32"]

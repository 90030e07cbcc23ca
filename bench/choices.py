"""What a stage chose where its settings leave it open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.extents import extent_of
from bench.records import Setting
from dipddpm.config import DIPConfig, SamplingConfig, TrainingConfig
from dipddpm.dip import fit_priors
from dipddpm.levers import attention_on
from dipddpm.sampling import sample
from dipddpm.training import train_ddpm


def choices(
    function: Callable[..., Any], given: Mapping[str, Any], result: Any, device: str
) -> dict[str, Setting]:
    """What was in force in a call, by the name of the setting; empty for a stage without choices.

    given: the arguments of the call; device: of what kind
    """
    if function is fit_priors:
        dip: DIPConfig = given["dip"]
        size = extent_of(given["images"]).image_size
        assert size is not None
        return {
            "backend": dip.backend_on(device, size),
            "prior_channels_last": dip.levers_on(device).channels_last,
        }
    if function is train_ddpm:
        training: TrainingConfig = given["training"]
        return {"attention": attention_on(training.levers, device)}
    if function is sample:
        sampling: SamplingConfig = given["sampling"]
        return {
            "sampling_attention": attention_on(sampling.levers, device),
            "samples_per_batch": result.samples_per_batch,
        }
    return {}

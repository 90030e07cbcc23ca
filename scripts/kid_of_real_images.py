"""How far the KID of two sets of real images scatters about 0: python scripts/kid_of_real_images.py

The bundled objects at 32 px, 60 draws of two sets without a common image, for each size of set. The
figures in the report and beside MIN_FOR_FEATURES are from here.
"""

from __future__ import annotations

import torch

from dipddpm.config import Context
from dipddpm.features import extract_features
from dipddpm.images import ImageSet, prepare
from dipddpm.metrics import kid
from dipddpm.sources import bundled_objects

SIZES = (16, 100, 128)
DRAWS = 60


def main() -> None:
    """Prints the standard deviation for each size."""
    source = bundled_objects()
    pixels = torch.cat([prepare(part, 32).pixels for part in (source.train, source.held_out)])
    features = extract_features(ImageSet(pixels), Context()).values
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        draws = []
        for _ in range(DRAWS):
            order = torch.randperm(len(features), generator=generator)
            draws.append(kid(features[order[:size]], features[order[size : 2 * size]]))
        print(f"{size} images: {torch.stack(draws).std():.2g}")


if __name__ == "__main__":
    main()

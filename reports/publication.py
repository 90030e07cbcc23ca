"""What the publication reported, and where this run has the same settings."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.records import Setting
from bench.stats import Effect, Pair, paired_ratio
from reports.tables import Outcome

PUBLISHED = Path(__file__).parent / "published.csv"
# The publication decoded its images in every epoch and kept its DIP outputs as a list of tensors;
# a run whose loader is one tensor is the nearest to it that has none.
PUBLISHED_ARM = {"yes": ("dip", ("list", "memory")), "no": ("images", ("decode",))}

# What makes a run a replay, beside the settings of a row.
PUBLISHED_SETTINGS: dict[str, Setting] = {
    # The protocol, whose name alone says nothing of what a suite has put in place of its values.
    "prior_target": "signed",
    "net_input": "shared",
    "lr_schedule": "cosine",
    "lr_warmup_steps": 500,
    "ema_decay": 0.0,
    "flip": "loader",
    "files": "source",
    "timestep_spacing": "leading",
    "score_range": "mixed",
    "ssim_digits": 3,
    "net": "paper",
    "num_iter": 200,
    "prior_learning_rate": 0.01,
    "learning_rate": 1e-4,
    "sampler": "ddpm",
    "num_samples": 16,
    "images": "hf:huggan/smithsonian_butterflies_subset",
    "image_size": 128,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "layers_per_block": 2,
    "attention_levels": (4,),
    "mixed_precision": "fp16",
    "batch_size": 16,
}


@dataclass(frozen=True)
class PublishedRow:
    """A row of the published table. training_seconds: of the epoch loop; None where not given."""

    table: str
    dip: str
    data_size: int
    epochs: int
    timesteps: int
    schedule: str
    training_seconds: float | None
    psnr_db: float

    @property
    def settings(self) -> dict[str, str | int]:
        """In the words of a suite file."""
        train_on, loaders = PUBLISHED_ARM[self.dip]
        return {
            "train_on": train_on,
            "loader": loaders[0],
            "num_images": self.data_size,
            "epochs": self.epochs,
            "num_train_timesteps": self.timesteps,
            "beta_schedule": self.schedule,
        }


def published_rows() -> list[PublishedRow]:
    """The 14 rows, in the order of the publication."""
    with PUBLISHED.open(encoding="utf-8", newline="") as stream:
        return [_row(fields) for fields in csv.DictReader(stream)]


def _row(fields: dict[str, str]) -> PublishedRow:
    return PublishedRow(
        table=fields["table"],
        dip=fields["dip"],
        data_size=int(fields["data_size"]),
        epochs=int(fields["epochs"]),
        timesteps=int(fields["timesteps"]),
        schedule=fields["schedule"],
        training_seconds=float(fields["training_seconds"]) if fields["training_seconds"] else None,
        psnr_db=float(fields["psnr_db"]),
    )


@dataclass(frozen=True)
class PublishedPair:
    """Two published rows that differ in DIP alone; ratio: seconds with DIP / without."""

    label: str
    ratio: float


def published_pairs(rows: Iterable[PublishedRow]) -> list[PublishedPair]:
    """The pairs with a training time on both sides."""
    sides: dict[tuple[int, int, int, str], dict[str, float]] = {}
    for row in rows:
        if row.training_seconds is not None:
            key = (row.data_size, row.epochs, row.timesteps, row.schedule)
            sides.setdefault(key, {})[row.dip] = row.training_seconds
    return [
        PublishedPair(
            f"{size} images, {epochs} epochs, {timesteps} {schedule.split('_')[0]}",
            side["yes"] / side["no"],
        )
        for (size, epochs, timesteps, schedule), side in sides.items()
        if len(side) == 2
    ]


def published_effect(pairs: list[PublishedPair]) -> Effect | None:
    """Seconds with DIP / without, each pair taken as two runs of its own."""
    made = (Pair(1.0, pair.ratio, frozenset({str(i)})) for i, pair in enumerate(pairs))
    return paired_ratio(made)


_AXES = ("train_on", "num_images", "epochs", "num_train_timesteps", "beta_schedule")


def ours(rows: Iterable[PublishedRow], found: Iterable[Outcome]) -> list[Outcome | None]:
    """The outcome with the settings of each published row: under the paper's protocol if there is
    one, by its loader, of the first seed and run."""
    there: dict[tuple[Setting, ...], list[Outcome]] = {}
    for outcome in found:
        settings = outcome.settings
        if (
            outcome.ok
            and settings.get("task") == "generate"
            and settings.get("num_workers", 0) == 0
        ):
            there.setdefault(tuple(map(settings.get, _AXES)), []).append(outcome)
    return [_ours(row, there.get(tuple(map(row.settings.get, _AXES)), [])) for row in rows]


def _ours(row: PublishedRow, there: Iterable[Outcome]) -> Outcome | None:
    _, loaders = PUBLISHED_ARM[row.dip]
    return min(
        (outcome for outcome in there if outcome.settings.get("loader") in loaders),
        key=lambda outcome: (
            outcome.settings.get("protocol") != "paper",
            loaders.index(str(outcome.settings["loader"])),
            outcome.record.repeat,
            outcome.record.seed,
        ),
        default=None,
    )


def is_replay(outcome: Outcome, device: str) -> bool:
    """Whether an outcome has all of the publication's settings, on its class of device."""
    settings = outcome.settings
    return (
        device == "cuda"
        and all(settings.get(name) == value for name, value in PUBLISHED_SETTINGS.items())
        and settings.get("num_inference_steps") == settings.get("num_train_timesteps")
    )

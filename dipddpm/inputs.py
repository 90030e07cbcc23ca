"""What the stages of a run are given: images, priors, targets, starts, conditions, references.

Each is made by stages, when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ParamSpec, Protocol, TypeVar

from dipddpm import arms
from dipddpm.config import (
    STARTS,
    TARGETS,
    Context,
    PipelineConfig,
    SamplingConfig,
)
from dipddpm.degradation import degrade
from dipddpm.dip import Initialisation, Priors, fit_priors, join, learn_initialisation
from dipddpm.encoded import EncodedImages
from dipddpm.features import Features, extract_features
from dipddpm.images import ImageSet, TrainingImages, encode, prepare, take, to_eight_bits
from dipddpm.loaders import freeze_flips
from dipddpm.sources import ImageSource

P = ParamSpec("P")
T = TypeVar("T")

# The publication scored its samples against the first 16 images.
NUM_REFERENCES = 16


class Stages(Protocol):
    """Calls a stage, or gives its result from elsewhere."""

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


def run_directly(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The `Stages` that only call."""
    return function(*args, **kwargs)


@dataclass(frozen=True)
class Inputs:
    """Of one training run. Raises ValueError if `images` holds fewer images than are asked for."""

    config: PipelineConfig
    images: ImageSource
    context: Context
    stages: Stages
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.images.check_enough(self.config.data.num_images, self.config.data.num_held_out)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call only."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    # Images -------------------------------------------------------------------------------------

    @property
    def files(self) -> EncodedImages:
        return self.images.train[: self.config.data.num_images]

    @cached_property
    def training(self) -> ImageSet:
        """The images of the training files, whatever is trained on."""
        return self._prepared(self.files)

    @cached_property
    def references(self) -> ImageSet:
        """What the published scores compare samples with, the same for every number of images."""
        return self._prepared(self.images.train[:NUM_REFERENCES])

    @cached_property
    def originals(self) -> ImageSet:
        """The held-out images."""
        return self._prepared(self.images.held_out[: self.config.data.num_held_out])

    @property
    def held_out(self) -> ImageSet | None:
        """The held-out images, if there are to be any."""
        return self.originals if self.config.data.num_held_out else None

    def degraded(self, degradation_sigma: float) -> ImageSet:
        """The held-out images with noise."""
        return self.once(
            ("degraded", degradation_sigma),
            lambda: self.stages(degrade, self.originals, degradation_sigma, self.context),
        )

    # Priors -------------------------------------------------------------------------------------

    @cached_property
    def training_initialisation(self) -> Initialisation | None:
        """Where the fits of training images start; None: each from weights of its own."""
        return self._initialisation(self._unscored)

    @cached_property
    def training_fits(self) -> tuple[Priors, ...]:
        return self._fits(self.files, len(self.files), self.training_initialisation)

    @cached_property
    def degraded_training_fits(self) -> tuple[Priors, ...]:
        """Of the training images with the noise that held-out images will have."""
        sigma = self.config.outcomes[0].sampling.restoration.degradation_sigma
        degraded = self.stages(degrade, self.training, sigma, self.context, part="training")
        return self._fits(
            degraded, len(self.files), self.training_initialisation, originals=self.training
        )

    @property
    def _unscored(self) -> EncodedImages:
        """The last held-out image, the same for every number of them; none if it is scored."""
        there = len(self.images.held_out)
        return self.images.held_out[max(0, there - 1, self.config.data.num_held_out) :]

    def start_fits(self, sampling: SamplingConfig) -> tuple[Priors, ...]:
        """Of the degraded held-out images that are restored."""
        return self._held_out_fits(sampling.restoration.degradation_sigma, sampling.num_samples)

    def _held_out_fits(self, degradation_sigma: float, count: int) -> tuple[Priors, ...]:
        return self.once(
            ("held-out fits", degradation_sigma, count),
            lambda: self._fits(
                self.degraded(degradation_sigma),
                count,
                self._initialisation(self.images.train),
                originals=self.originals,
            ),
        )

    def joined(self, fits: tuple[Priors, ...]) -> ImageSet:
        """The outputs of the fits as one set."""
        return self.once(("joined", *map(id, fits)), lambda: self.stages(join, *fits))

    # What the arms make of them -------------------------------------------------------------------

    @cached_property
    def training_images(self) -> TrainingImages:
        """What the loader of the training loop reads."""
        make, loading = arms.target(self.config.train_on), self.config.loading
        if loading.loader == "decode":
            if make is None and loading.files == "source":
                return self.files
            made = self.training if make is None else self._made_by(make)
            return self.stages(encode, made, self.files)
        if make is None:
            return self._with_frozen_flips(self.training)
        # Whatever is trained on comes in the eight bits of a file.
        return self._with_frozen_flips(self.stages(to_eight_bits, self._made_by(make)))

    def _made_by(self, make: Callable[..., ImageSet]) -> ImageSet:
        """What an arm trains on, from the training images."""
        offered: dict[str, Callable[[], Any]] = {
            "images": lambda: self.training,
            "priors": lambda: self.joined(self.training_fits),
            "context": lambda: self.context,
        }
        asked = TARGETS.parameters(self.config.train_on)
        return self.stages(make, **{name: offered[name]() for name in sorted(asked)})

    @cached_property
    def training_condition(self) -> ImageSet | None:
        """Three more channels for each training image."""
        if self.config.condition_on == "nothing":
            return None
        return self._with_frozen_flips(self.joined(self.degraded_training_fits))

    def _with_frozen_flips(self, images: ImageSet) -> ImageSet:
        """As a loader reads them: where it keeps tensors, its flips are drawn before it starts."""
        loading = self.config.loading
        frozen = loading.flip == "loader" and loading.loader != "decode"
        return self.stages(freeze_flips, images, self.context) if frozen else images

    def held_out_condition(self, sampling: SamplingConfig) -> ImageSet | None:
        """Three more channels for each held-out image."""
        if self.config.condition_on == "nothing":
            return None
        count = self.config.data.num_held_out
        return self.joined(self._held_out_fits(sampling.restoration.degradation_sigma, count))

    def start(self, sampling: SamplingConfig) -> ImageSet | None:
        """The num_samples start images S; None for pure noise."""
        make = arms.start(sampling.start_from)
        if make is None:
            return None
        restoration, count = sampling.restoration, sampling.num_samples
        offered: dict[str, Callable[[], Any]] = {
            "degraded": lambda: self._first(self.degraded(restoration.degradation_sigma), count),
            "originals": lambda: self._first(self.originals, count),
            "priors": lambda: self.joined(self.start_fits(sampling)),
            "training": lambda: self.training,
            "restoration": lambda: restoration,
            "context": lambda: self.context,
        }
        asked = STARTS.parameters(sampling.start_from)
        return self.once(
            ("start", sampling.start_from, restoration, count),
            lambda: self.stages(make, **{name: offered[name]() for name in sorted(asked)}),
        )

    # References -----------------------------------------------------------------------------------

    def reference_features(self) -> tuple[Features, Features]:
        """Of as many images that were trained on as held-out ones: no set is nearer by its size."""
        count = min(self.config.data.num_images, self.config.data.num_held_out)
        # Nothing in it is random: runs of all seeds share it.
        unseeded = replace(self.context, seed=0)

        def features(files: EncodedImages) -> Features:
            return self.stages(extract_features, self._prepared(files[:count]), unseeded)

        return self.once(
            "reference features", lambda: (features(self.files), features(self.images.held_out))
        )

    # ----------------------------------------------------------------------------------------------

    def _prepared(self, files: EncodedImages) -> ImageSet:
        return self.stages(prepare, files, self.config.data.image_size)

    def _first(self, images: ImageSet, count: int) -> ImageSet:
        """Of the held-out images, or of what was made of them."""
        whole = self.config.data.num_held_out
        return images if count == whole else self.stages(take, images, 0, count)

    def _fits(
        self,
        images: EncodedImages | ImageSet,
        count: int,
        initialisation: Initialisation | None,
        *,
        originals: ImageSet | None = None,
    ) -> tuple[Priors, ...]:
        """Of the first `count` images, in chunks of images_per_fit: a prefix shares its chunks."""
        dip, fits = self.config.dip, []
        for first in range(0, count, dip.images_per_fit):
            last = min(first + dip.images_per_fit, count)
            if isinstance(images, EncodedImages):
                chunk = self._prepared(images[first:last])
            else:
                chunk = self.stages(take, images, first, last)
            clean = None if originals is None else self.stages(take, originals, first, last)
            fit = self.stages(
                fit_priors,
                chunk,
                dip,
                self.context,
                first_index=first,
                originals=clean,
                initialisation=initialisation,
            )
            fits.append(fit)
        return tuple(fits)

    def _initialisation(self, others: EncodedImages) -> Initialisation | None:
        """Learned from one of images that are not to be fitted."""
        if self.config.dip.warm_start == "none":
            return None
        if not len(others):
            raise ValueError(
                "warm_start = learned takes an image that is neither fitted nor scored, and there "
                "is none: num_held_out must be below the number of held-out images, got "
                f"{self.config.data.num_held_out}"
            )
        one = others[:1]
        return self.once(
            ("initialisation", one.digest),
            lambda: self.stages(
                learn_initialisation, self._prepared(one), self.config.dip, self.context
            ),
        )

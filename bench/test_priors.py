"""What a fit of Deep Image Priors takes: ten iterations of each net and backend."""

from __future__ import annotations

import pytest

from bench.conftest import Measure
from dipddpm.config import Backend, Context, DIPConfig, EarlyStopping
from dipddpm.dip import fit_priors, learn_initialisation
from dipddpm.images import ImageSet, prepare
from dipddpm.sources import ImageSource

pytestmark = pytest.mark.benchmark(group="priors")


@pytest.mark.parametrize("backend", ["loop", "grouped"])
@pytest.mark.parametrize("nets", [1, 4])
def test_dip_iterations(
    measure: Measure, images: ImageSet, context: Context, nets: int, backend: Backend
) -> None:
    """Of the published net at 32 px, `nets` fits side by side or one after another."""
    some = ImageSet(images.pixels[:nets])
    dip = DIPConfig(num_iter=10, backend=backend)
    measure(lambda: fit_priors(some, dip, context), images=nets)


def test_dip_iterations_in_bfloat16(measure: Measure, images: ImageSet, context: Context) -> None:
    some, dip = ImageSet(images.pixels[:4]), DIPConfig(num_iter=10, prior_precision="bf16")
    measure(lambda: fit_priors(some, dip, context), images=4)


@pytest.mark.parametrize("criterion", ["es_wmv", "psnr"])
def test_dip_stopping(
    measure: Measure, images: ImageSet, context: Context, criterion: EarlyStopping
) -> None:
    """Ten iterations that are watched by a criterion, which ends none of them."""
    one, dip = ImageSet(images.pixels[:1]), DIPConfig(num_iter=10, early_stopping=criterion)
    measure(lambda: fit_priors(one, dip, context), images=1)


def test_skip_net(measure: Measure, source: ImageSource, context: Context) -> None:
    """One iteration at 64 px, its least size, of a quarter of its published width."""
    one, dip = prepare(source.train[:1], 64), DIPConfig(net="skip", skip_channels=32, num_iter=1)
    measure(lambda: fit_priors(one, dip, context), images=1)


def test_learned_start(measure: Measure, images: ImageSet, context: Context) -> None:
    """Ten iterations of the fit that others start from."""
    one, dip = ImageSet(images.pixels[:1]), DIPConfig(warm_start="learned", warm_start_iter=10)
    measure(lambda: learn_initialisation(one, dip, context), images=1)

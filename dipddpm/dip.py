"""Deep Image Priors: a small net fitted to each image from one fixed noise input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dipddpm.config import Context, DIPConfig, Watch, derive_seed, unwatched
from dipddpm.images import ImageSet
from dipddpm.nets import PaperNet


@dataclass(frozen=True)
class Priors:
    """What a fit leaves behind, on the CPU.

    outputs: (N, 3, H, W) float32 in [-1, 1], the nets' images after the last iteration
    losses: (num_iter, N), before each iteration
    snapshots: (K, N, 3, H, W) in [-1, 1], on the way, after the iterations `snapshot_iters` (K,)
    """

    outputs: Tensor
    losses: Tensor
    snapshots: Tensor
    snapshot_iters: Tensor


def fit_priors(
    images: ImageSet, dip: DIPConfig, context: Context, *, first_index: int = 0
) -> Priors:
    """One net of its own for each image, `dip.num_iter` steps of Adam.

    first_index: the place of the first image in its whole set. The weights of a net depend on the
    seed and on that place alone, so a fit does not depend on which images share its batch.
    """
    size = images.pixels.shape[-1]
    # nn.Conv2d draws from the global generator before `initialise` does: put it back as it was.
    with torch.random.fork_rng(devices=[]):
        net = PaperNet(len(images))
    net.initialise(
        [
            torch.Generator().manual_seed(derive_seed(context.seed, "prior", first_index + i))
            for i in range(len(images))
        ]
    )
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "net_input"))
    net_input = torch.randn(1, 3, size, size, generator=generator)
    pixels = images.pixels.to(context.device)
    target = (pixels + 1) / 2 if dip.prior_target == "unit" else pixels
    return fit(
        net.to(context.device),
        net_input.to(context.device),
        target,
        num_iter=dip.num_iter,
        learning_rate=dip.prior_learning_rate,
        watch=context.watch,
    )


def fit(
    net: PaperNet,
    net_input: Tensor,
    target: Tensor,
    *,
    num_iter: int,
    learning_rate: float,
    watch: Watch = unwatched,
) -> Priors:
    """Fits `net` to `target` (num_nets, 3, H, W) from `net_input` (1, 3, H, W), in place.

    The loss of a net is its mean squared error; their sum keeps the nets' gradients apart.
    BatchNorm stays in training mode throughout, for the outputs too (Ulyanov et al. 2018).
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate, fused=True)
    snapshot_iters = sorted(
        {num_iter, *(i for i in (10, 30, 100, 300, 1000, 3000) if i < num_iter)}
    )
    losses, snapshots = [], []
    for i in watch(range(num_iter)):
        output = net(net_input)
        if i in snapshot_iters:
            snapshots.append(output.detach())
        loss = (output - target).square().mean(dim=(1, 2, 3))
        losses.append(loss.detach())
        loss.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        output = net(net_input)
    snapshots.append(output)  # the last snapshot is the output itself, at num_iter
    return Priors(
        outputs=_signed(output),
        losses=torch.stack(losses).float().cpu(),
        snapshots=_signed(torch.stack(snapshots)),
        snapshot_iters=torch.tensor(snapshot_iters),
    )


def join(*parts: Priors) -> ImageSet:
    """The outputs of several fits as one set, in order."""
    return ImageSet(torch.cat([part.outputs for part in parts]))


def _signed(unit: Tensor) -> Tensor:
    """From [0, 1], where a Sigmoid ends, to the [-1, 1] of all images here."""
    return (unit * 2 - 1).float().cpu()

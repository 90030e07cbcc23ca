"""Deep Image Priors: a small net fitted to each image from a fixed noise input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dipddpm.config import Context, DIPConfig, Levers, Watch, derive_seed, unwatched
from dipddpm.images import ImageSet
from dipddpm.levers import Recorded, arrange, in_force, lower_precision, records_steps
from dipddpm.nets import NETS, GroupedNets, kept_of

_SNAPSHOT_ITERS = (10, 30, 100, 300, 1000, 3000)
# To ask which fits have stopped is to wait for the device. Asked rarely, that costs nothing; what
# is run beyond the stop is thrown away.
_ITERS_BETWEEN_ASKING = {"cpu": 1, "cuda": 50}


@dataclass(frozen=True)
class Priors:
    """What a fit leaves behind, on the CPU.

    An image's fit is its iterates 0, 1, ... `spent_iters`: iterate k is the net's image after k
    steps of Adam. R is the longest fit of the N; what lies beyond the end of a shorter one is NaN.

    outputs: (N, 3, H, W) float32 in [-1, 1], the iterates that the stopping rule chose
    output_iters: (N,) int64, which iterates these are
    spent_iters: (N,) int64, after how many iterations the fits stopped: what they cost
    losses: (R, N), of the iterates 0 .. R - 1
    psnrs: (R + 1, N), PSNR of each iterate in dB to the original image, range 2
    snapshots: (K, N, 3, H, W) in [-1, 1], the iterates `snapshot_iters`; where a fit had stopped,
        and at last for all, its output
    snapshot_iters: (K,) int64
    """

    outputs: Tensor
    output_iters: Tensor
    spent_iters: Tensor
    losses: Tensor
    psnrs: Tensor
    snapshots: Tensor
    snapshot_iters: Tensor

    @property
    def psnr_peak(self) -> Tensor:
        """(N,): the best of all iterates. It takes the original to know it: it chooses nothing."""
        return self.psnrs.nan_to_num(nan=-torch.inf, posinf=torch.inf).amax(0)

    @property
    def psnr_stop(self) -> Tensor:
        """(N,): of the outputs."""
        return self._psnr_at(self.output_iters)

    @property
    def psnr_last(self) -> Tensor:
        """(N,): of the last iterates."""
        return self._psnr_at(self.spent_iters)

    def _psnr_at(self, iters: Tensor) -> Tensor:
        return self.psnrs.gather(0, iters[None])[0]


@dataclass(frozen=True)
class Initialisation:
    """Where fits start from: the parameters of one net, by name, on the CPU."""

    weights: dict[str, Tensor]


def learn_initialisation(images: ImageSet, dip: DIPConfig, context: Context) -> Initialisation:
    """The weights after `dip.warm_start_iter` steps of a fit to the first of `images`.

    Started from there, fits to other images take about half as many steps to the same PSNR.
    """
    learning = replace(dip, num_iter=dip.warm_start_iter, early_stopping="none")
    place = "warm start"
    net = _new_nets(dip, [_generator(context.seed, "prior", place)])
    own = net.draw_input(images.pixels.shape[-1], _generator(context.seed, "net_input", place))
    fit(
        net.to(context.device),
        own.to(context.device),
        _target(images.pixels[:1], dip).to(context.device),
        learning,
        reference=_unit(images.pixels[:1]).to(context.device),
        noise_generators=[_generator(context.seed, "reg_noise", place, device=context.device)],
        watch=context.watch,
    )
    return Initialisation({name: one.detach().cpu() for name, one in net.named_parameters()})


def fit_priors(
    images: ImageSet,
    dip: DIPConfig,
    context: Context,
    *,
    first_index: int = 0,
    originals: ImageSet | None = None,
    initialisation: Initialisation | None = None,
) -> Priors:
    """One net of its own for each image, at most `dip.num_iter` steps of Adam.

    first_index: the place of the first image in its whole set. All that is drawn for a net depends
        on the seed and on that place alone, so a fit does not depend on which images share its
        batch. In float32 that holds up to rounding, which a skip net lets grow: some of its weights
        have a gradient of zero, for the next BatchNorm undoes them, and Adam makes full steps of
        the rounding in it. The same image in another batch is then fitted another way, as well.
    originals: what `images` were before they were degraded; PSNRs are to these, or else to the
        images themselves. They take no part in the fit.
    initialisation: of every net; None draws each its own
    Raises ValueError if there are not as many originals, of the same size.
    """
    reference = images if originals is None else originals
    if reference.pixels.shape != images.pixels.shape:
        raise ValueError(
            f"originals must be {tuple(images.pixels.shape)} as the images are, "
            f"got {tuple(reference.pixels.shape)}"
        )
    size, seed, device = images.pixels.shape[-1], context.seed, torch.device(context.device)

    def fitted(first: int, last: int) -> Priors:
        places = range(first_index + first, first_index + last)
        net = _new_nets(dip, [_generator(seed, "prior", place) for place in places])
        if initialisation is not None:
            net.initialise_alike(initialisation.weights)
        if dip.net_input == "shared":
            net_input = net.draw_input(size, _generator(seed, "net_input"))
        else:
            net_input = torch.cat(
                [net.draw_input(size, _generator(seed, "net_input", place)) for place in places]
            )
        return fit(
            net.to(device),
            net_input.to(device),
            _target(images.pixels[first:last], dip).to(device),
            dip,
            reference=_unit(reference.pixels[first:last]).to(device),
            noise_generators=[
                _generator(seed, "reg_noise", place, device=context.device) for place in places
            ],
            watch=context.watch,
        )

    at_once = 1 if dip.backend_on(device.type, size) == "loop" else len(images)
    return together(*(fitted(first, first + at_once) for first in range(0, len(images), at_once)))


def fit(
    net: GroupedNets,
    net_input: Tensor,
    target: Tensor,
    dip: DIPConfig,
    *,
    reference: Tensor,
    noise_generators: Sequence[torch.Generator],
    watch: Watch = unwatched,
) -> Priors:
    """Fits `net`, in place, to `target`.

    The loss of a net is its mean squared error; their sum keeps the nets' gradients apart.
    BatchNorm stays in training mode throughout, for the outputs too (Ulyanov et al. 2018).
    With dip.reg_noise_std each iterate is made of an input with noise of its own, and so it is
    judged and kept, as in the code of Ulyanov et al. The net of a fit that has stopped is dropped.

    net_input: (num_nets, C, H, W), or (1, C, H, W), shared by all nets
    target: (num_nets, 3, H, W)
    reference: (num_nets, 3, H, W) in [0, 1], to which PSNRs are taken
    noise_generators: one a net, on the device of the input, so that the noise of a net does not
        depend on its batch and never waits for the host; it differs between kinds of devices
    """
    device = target.device
    levers = dip.levers_on(device.type)
    stopping = _stopping(target, dip)
    losses: list[Tensor] = []
    errors: list[Tensor] = []
    kept: dict[int, Tensor] = {}
    # Which images' fits go on, here and on the device.
    running, rows = list(range(net.num_nets)), torch.arange(net.num_nets, device=device)
    latest = torch.zeros_like(target)

    def own_input() -> Tensor:
        own = net_input if len(net_input) == 1 else net_input[rows]
        return _noisy(own, dip.reg_noise_std, [noise_generators[i] for i in running])

    def tell(k: int, iterate: Tensor) -> None:
        nonlocal latest
        latest = latest.index_copy(0, rows, iterate)
        losses.append(_error(latest, target))
        errors.append(_error(latest, reference))
        if k in _SNAPSHOT_ITERS:
            kept[k] = latest
        if stopping is not None and k:
            stopping.update(k, latest)

    with in_force(levers):
        fitting = _Fitting(net, dip, levers, device)
        for k in watch(range(dip.num_iter)):
            tell(k, fitting.step(own_input(), target[rows]))
            if stopping is None or k == 0 or k % _ITERS_BETWEEN_ASKING[device.type]:
                continue
            still = stopping.running[rows].nonzero()[:, 0]
            if not len(still):
                break
            if len(still) < len(rows):
                fitting.keep(still)
                rows = rows[still]
                running = rows.tolist()
        else:
            with torch.no_grad():
                tell(dip.num_iter, fitting.output(own_input(), target.dtype))
    if stopping is None:
        spent = torch.full((len(target),), dip.num_iter)
        return _priors(latest, spent.clone(), spent, losses, errors, kept)
    return _priors(
        stopping.chosen, stopping.chosen_iters, stopping.spent_iters, losses, errors, kept
    )


def steps_of_a_fit(spent_iters: int, num_iter: int, device: str) -> int | None:
    """Steps that were made of a fit that ended at its iterate `spent_iters`, until it was dropped.

    device: its kind. None: the fit was not dropped, and made all num_iter of them.
    """
    between = _ITERS_BETWEEN_ASKING[device]
    seen = -(-spent_iters // between) * between
    return seen + 1 if seen < num_iter else None


class _Fitting:
    """Nets and their optimizer, which move on a step at a time."""

    def __init__(
        self, net: GroupedNets, dip: DIPConfig, levers: Levers, device: torch.device
    ) -> None:
        arrange(net, levers)
        self.net, self.levers, self.device = net, levers, device
        recorded = records_steps(levers, device)
        self.optimizer = torch.optim.Adam(
            net.parameters(),
            lr=dip.prior_learning_rate,
            betas=(dip.prior_adam_beta1, 0.999),
            fused=True,
            capturable=recorded,
        )
        self.step = Recorded(self._step, self._changes) if recorded else self._step

    def output(self, net_input: Tensor, dtype: torch.dtype) -> Tensor:
        """The images that the nets make now."""
        with lower_precision(self.levers, self.device):
            images: Tensor = self.net(net_input)
        return images.to(dtype)

    def _step(self, net_input: Tensor, target: Tensor) -> Tensor:
        """Returns the images before the step."""
        images = self.output(net_input, target.dtype)
        _error(images, target).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return images.detach()

    def keep(self, kept: Tensor) -> None:
        """Drops all nets but those of these indices."""
        for state in self.optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = kept_of(state[name], self.net.num_nets, kept)
        self.net.keep(kept)
        if isinstance(self.step, Recorded):
            self.step.forget()

    def _changes(self) -> list[Tensor]:
        moments = [one for state in self.optimizer.state.values() for one in state.values()]
        return [*self.net.parameters(), *moments]


class Stopping(Protocol):
    """A rule that ends fits, many at a time.

    running: (N,) bool, the fits that go on
    chosen: (N, 3, H, W); chosen_iters: (N,), the iterates that it has chosen so far
    spent_iters: (N,), the latest iterates of the fits
    """

    running: Tensor
    chosen: Tensor
    chosen_iters: Tensor

    @property
    def spent_iters(self) -> Tensor: ...

    def update(self, k: int, iterate: Tensor, /) -> None:
        """Iterate k = 1, 2, ... (N, 3, H, W); of fits that have ended it is not looked at."""


def _stopping(target: Tensor, dip: DIPConfig) -> Stopping | None:
    if dip.early_stopping == "es_wmv":
        return WindowedVariance(target, dip.es_window, dip.es_patience)
    return TargetPSNR(target, dip.es_psnr) if dip.early_stopping == "psnr" else None


class TargetPSNR:
    """A fit ends at its first iterate with a PSNR of at least `psnr` dB, of range 1, to its target.

    target: (N, 3, H, W)
    """

    def __init__(self, target: Tensor, psnr: float) -> None:
        self._target, self._most = target, 10 ** (-psnr / 10)
        self.chosen = torch.zeros_like(target)
        self.chosen_iters = torch.zeros(len(target), dtype=torch.int64, device=target.device)
        self.running = torch.ones_like(self.chosen_iters, dtype=torch.bool)

    @property
    def spent_iters(self) -> Tensor:
        return self.chosen_iters

    def update(self, k: int, iterate: Tensor) -> None:
        self.chosen = torch.where(self.running[:, None, None, None], iterate, self.chosen)
        self.chosen_iters = torch.where(self.running, k, self.chosen_iters)
        self.running = self.running & (_error(iterate, self._target) > self._most)


class WindowedVariance:
    """ES-WMV (Wang et al. 2021, arXiv 2112.06074, algorithm 1), of many fits at a time.

    VAR is the mean, over a window of the last W iterates, of |x - mean of the window|^2. The
    iterate at the least VAR is chosen, and a fit has stopped when VAR has had no new minimum for
    P iterations. Chosen is the newest of the window, as in the authors' code, which keeps the
    iterate that it has just added to the window. Before the window is full there is no VAR, and the
    latest iterate is chosen. Iterate 0, of the random weights, is in no window.

    like: (N, 3, H, W), for shape, dtype and device. Nothing here waits for the device.
    """

    def __init__(self, like: Tensor, window: int, patience: int) -> None:
        self.window, self.patience = window, patience
        self.chosen = torch.zeros_like(like)
        self.chosen_iters = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        self.spent_iters = torch.zeros_like(self.chosen_iters)
        self.running = torch.ones_like(self.chosen_iters, dtype=torch.bool)
        self._least = torch.full_like(self.chosen_iters, torch.inf, dtype=torch.float64)
        # A window of zeros at first: they have left it when it is first asked for its variance.
        self._iterates = torch.zeros(window, *like.shape, dtype=like.dtype, device=like.device)
        # Carried along, not to sum up the whole window at each iteration; in float64, in which one
        # far iterate leaves no trace that hides a variance of 1e-10.
        self._mean = torch.zeros_like(like, dtype=torch.float64)
        self._scatter = torch.zeros_like(self._least)  # sum of |x - mean|^2: W VAR

    def update(self, k: int, iterate: Tensor) -> None:
        """Iterate k = 1, 2, ... (N, 3, H, W)."""
        slot = self._iterates[(k - 1) % self.window]
        oldest, newest, mean = slot.double(), iterate.double(), self._mean
        self._mean = mean + (newest - oldest) / self.window
        # The change of the sum of squared distances, which subtracts no large sums (Welford 1962).
        change = (newest - oldest) * (newest - self._mean + oldest - mean)
        self._scatter += change.sum(dim=(1, 2, 3))
        slot.copy_(iterate)
        better = self.running
        if k >= self.window:
            better = better & (self._scatter < self._least)
            self._least = torch.where(better, self._scatter, self._least)
        self.chosen = torch.where(better[:, None, None, None], iterate, self.chosen)
        self.chosen_iters = torch.where(better, k, self.chosen_iters)
        self.spent_iters = torch.where(self.running, k, self.spent_iters)
        self.running = self.running & (k - self.chosen_iters < self.patience)


def together(*parts: Priors) -> Priors:
    """The fits of several calls as those of one, in order."""
    if len(parts) == 1:
        return parts[0]
    longest = max(len(part.losses) for part in parts)
    before = sorted({k for part in parts for k in part.snapshot_iters.tolist() if k < longest})
    before = [k for k in before if k in _SNAPSHOT_ITERS]

    def lengthened(curve: Tensor, length: int) -> Tensor:
        rest = torch.full((length - len(curve), curve.shape[1]), torch.nan)
        return torch.cat([curve, rest])

    def at(k: int, part: Priors) -> Tensor:
        [found] = (part.snapshot_iters == k).nonzero().tolist() or [[-1]]
        return part.snapshots[found[0]]

    return Priors(
        outputs=torch.cat([part.outputs for part in parts]),
        output_iters=torch.cat([part.output_iters for part in parts]),
        spent_iters=torch.cat([part.spent_iters for part in parts]),
        losses=torch.cat([lengthened(part.losses, longest) for part in parts], dim=1),
        psnrs=torch.cat([lengthened(part.psnrs, longest + 1) for part in parts], dim=1),
        snapshots=torch.stack(
            [torch.cat([at(k, part) for part in parts]) for k in (*before, longest)]
        ),
        snapshot_iters=torch.tensor([*before, longest]),
    )


def join(*parts: Priors) -> ImageSet:
    """The outputs of several fits as one set, in order."""
    return ImageSet(torch.cat([part.outputs for part in parts]))


def prior_scores(*parts: Priors) -> dict[str, Tensor]:
    """What is to be said of each image's fit, (N,) float64 each; N over all parts, in order."""
    of_each = {
        "prior_psnr_peak": [part.psnr_peak for part in parts],
        "prior_psnr_stop": [part.psnr_stop for part in parts],
        "prior_psnr_last": [part.psnr_last for part in parts],
        "prior_output_iteration": [part.output_iters for part in parts],
        "prior_iterations": [part.spent_iters for part in parts],
    }
    return {name: torch.cat(values).double() for name, values in of_each.items()}


def _new_nets(dip: DIPConfig, generators: Sequence[torch.Generator]) -> GroupedNets:
    """On the CPU, the weights of each drawn from a generator of its own."""
    # nn.Conv2d draws from the global generator before `initialise` does: put it back as it was.
    with torch.random.fork_rng(devices=[]):
        net = NETS[dip.net](len(generators), dip)
    net.initialise(generators)
    return net


def _generator(seed: int, *purpose: str | int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))


def _target(pixels: Tensor, dip: DIPConfig) -> Tensor:
    """What nets are fitted to, of images in [-1, 1]."""
    return pixels if dip.prior_target == "signed" else _unit(pixels)


def _noisy(net_input: Tensor, std: float, generators: Sequence[torch.Generator]) -> Tensor:
    """The input of each net with noise of that net's own; the input itself for a std of 0."""
    if not std:
        return net_input
    noise = net_input.new_empty(len(generators), *net_input.shape[1:])
    for own, generator in zip(noise, generators, strict=True):
        own.normal_(0, std, generator=generator)
    return net_input + noise


def _error(images: Tensor, references: Tensor) -> Tensor:
    """Mean squared error, pair by pair: (N,)."""
    return (images - references).square().mean(dim=(1, 2, 3))


def _priors(
    chosen: Tensor,
    chosen_iters: Tensor,
    spent_iters: Tensor,
    losses: list[Tensor],
    errors: list[Tensor],
    kept: dict[int, Tensor],
) -> Priors:
    """Off the device, and without what was run beyond the end of a fit."""
    outputs, spent = _signed(chosen), spent_iters.cpu()
    longest = int(spent.max())
    k = torch.arange(longest + 1)[:, None]
    # In [0, 1], whose range is 1, as it is in [-1, 1] with a range of 2.
    psnrs = -10 * torch.log10(torch.stack(errors[: longest + 1]).float().cpu())
    own_losses = torch.stack(losses[:longest]).float().cpu()
    before = [iteration for iteration in kept if iteration < longest]
    snapshots = [
        torch.where((spent > iteration)[:, None, None, None], _signed(kept[iteration]), outputs)
        for iteration in before
    ]
    return Priors(
        outputs=outputs,
        output_iters=chosen_iters.cpu(),
        spent_iters=spent,
        losses=own_losses.where(k[:-1] < spent, torch.nan),
        psnrs=psnrs.where(k <= spent, torch.nan),
        snapshots=torch.stack([*snapshots, outputs]),
        snapshot_iters=torch.tensor([*before, longest]),
    )


def _unit(signed: Tensor) -> Tensor:
    """From [-1, 1] to the [0, 1] of a Sigmoid."""
    return (signed + 1) / 2


def _signed(unit: Tensor) -> Tensor:
    """From [0, 1], where a Sigmoid ends, to the [-1, 1] of all images here; on the CPU."""
    return (unit * 2 - 1).float().cpu()

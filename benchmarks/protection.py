"""What a step of AdvDM, SDST and DiffusionGuard costs: as shipped, and as published code does it.

The reference behaviour (Diff-Protect) takes one image at a time, encodes the prompt and the
constant target image anew in each step, for AdvDM also computes the target image's own denoising
loss and drops it, recomputes the denoiser's forward pass (checkpoints) and differentiates its
weights; SDST goes through the encoder once for each of its two terms. DiffusionGuard's own code
takes one image at a time as well, encodes the empty prompt anew in each step, draws a mask for
each, and builds the graph of all weights beside that of the image. The draws are the same, and so
must the gradients be.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Found, compare
from safetybench.contracts import Album, Budget, Inpaints
from safetybench.draws import Streams, item_generator
from safetybench.pixels import rounded
from safetybench.registry import create
from safetybench.zoo.world import render, sample_scenes

# Of float32; `design.md` 10 asks for both of a fused variant.
RELATIVE, SIGNS = 1e-5, 0.999
SDST_RATE = 5.0
GUARD: Mapping[str, Any] = {"strength": 0.4}  # for images of 64 pixels, as its docstring says

Step = Callable[[Album, Streams], Tensor]  # of one image: what a step climbs, (1, 3, h, w)
Way = tuple[Any, Callable[[], Tensor]]  # the target whose passes count, and all gradients


class Cost(NamedTuple):
    """Of one image in one step: milliseconds, forward passes, MFLOP of products both ways.

    held_mb: what autograd holds of it for the way back, weights aside. What a checkpoint computes
    again is not in it.
    """

    ms: float
    encoder: float
    denoiser: float
    mflop: float
    held_mb: float


class StepRow(NamedTuple):
    """One method; relative: largest distance of an image's gradients; signs: share that agree."""

    name: str
    batch: int
    reference: Cost
    shipped: Cost
    relative: float
    signs: float

    @property
    def ratio(self) -> float:
        """How many times faster the shipped path is."""
        return self.reference.ms / self.shipped.ms

    @property
    def same(self) -> bool:
        """Tell whether the gradients agree."""
        return self.relative < RELATIVE and self.signs >= SIGNS


def rows(target: Any, batch: int, steps: int, repeats: int) -> list[StepRow]:
    """Compare both methods on renders of the zoo's world, at fixed images."""
    images = rounded(render(sample_scenes(batch, torch.Generator().manual_seed(3))))
    album = Album(
        images=images.to(target.device),
        ids=tuple(f"image-{k}" for k in range(batch)),
        captions=tuple("a red fish on a dark background" for _ in range(batch)),
    )
    plain = Reference(target)

    def row(name: str, step: Step, method: str, options: Mapping[str, Any]) -> StepRow:
        def shipped() -> Tensor:
            climb = create(f"defenses/images/{method}", options).climb(target, album)
            return torch.stack([climb(album.images, i)[0] for i in range(steps)], 1)

        def reference() -> Tensor:
            return plain.gradients(album, step, steps)

        return _compared(name, (plain.target, reference), (target, shipped), repeats)

    return [
        row("AdvDM", plain.advdm, "advdm", {}),
        row("SDST", plain.sdst, "sds", {"target_rate": SDST_RATE}),
        _guard_row(target, album, steps, repeats),
    ]


def _guard_row(target: Any, album: Album, steps: int, repeats: int) -> StepRow:
    """Compare DiffusionGuard; the masks of `steps` steps are part of both ways' time."""
    editor = _editor(target)
    masks = torch.ones_like(album.images[:, :1])
    masks[:, :, 16:48, 16:48] = 0
    masked = Album(images=album.images, ids=album.ids, captions=album.captions, masks=masks)
    guard, budget = create("defenses/images/diffusionguard", GUARD), Budget(steps=steps)
    plain = GuardReference(editor, guard)

    def shipped() -> Tensor:
        climb = guard.climb(editor, masked, budget)
        return torch.stack([climb(masked.images, i)[0] for i in range(steps)], 1)

    ways = ((plain.target, lambda: plain.gradients(masked, steps)), (editor, shipped))
    return _compared("DiffusionGuard", *ways, repeats)


def _editor(target: Any) -> Any:
    """Return an inpainting model: the target, or its denoiser with random new inputs."""
    if isinstance(target, Inpaints):
        return target
    from safetybench.zoo.inpainting import new_inpainting

    editor = new_inpainting(target)
    fresh = editor.unet.conv_in.weight[:, target.unet.config.in_channels :]
    with torch.no_grad():
        draws = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0))
        fresh.copy_(0.1 * draws)
    return editor


class GuardReference:
    """DiffusionGuard's steps as its authors' code takes them, at the posterior mean.

    All weights ask for gradients, but those of the image alone are computed.
    """

    def __init__(self, target: Any, guard: Any) -> None:
        self.target, self.guard = target.clone(with_text=True), guard
        self.target.vae = copy.deepcopy(target.vae)
        self.target.scheduler = copy.deepcopy(target.scheduler)
        for network in (self.target.unet, self.target.vae, self.target.text_encoder):
            network.requires_grad_(True)

    def gradients(self, album: Album, steps: int) -> Tensor:
        """Return what each step climbs, (batch, steps, 3, h, w), one image at a time."""
        shapes = importlib.import_module("safetybench.defenses.images._masks")
        shrink = shapes.ContourShrink(strength=self.guard.strength)
        assert album.masks is not None
        found = []
        for k, name in enumerate(album.ids):
            stream = item_generator(0, f"{name}/masks")
            rng = np.random.default_rng(int(torch.randint(1 << 62, (), generator=stream)))
            streams = Streams(0, [f"{name}/noise"])
            kept = (album.masks[k, 0] < 0.5).cpu().numpy()
            steps_of = []
            for _ in range(steps):
                anew = torch.from_numpy(~shapes.shrunk(kept, shrink, rng)).float()
                steps_of.append(self._step(album.images[k : k + 1], anew[None, None], streams))
            found.append(torch.stack(steps_of, 1))
        return torch.cat(found)

    def _step(self, image: Tensor, mask: Tensor, streams: Streams) -> Tensor:
        target = self.target
        free = image.clone().requires_grad_(True)
        text = target.embed(target.tokenize([""])).detach()
        target.scheduler.set_timesteps(4)
        seen = target.given(free, mask.to(image.device))
        noise = streams.normal(seen.latent_shape, text)
        times = torch.full((1,), target.sampler_times[0], device=text.device)
        said = seen.predict(noise, times, text)
        goal = "epsilon" if target.prediction == "epsilon" else "sample"
        said = target.process.convert(said, target.prediction, goal, noise, times)
        (gradient,) = torch.autograd.grad(said.norm(), free)
        return gradient


class Reference:
    """Steps as the published code takes them; the denoiser's weights take gradients."""

    def __init__(self, target: Any) -> None:
        self.target = target.trainable_copy()

    def gradients(self, album: Album, step: Step, steps: int) -> Tensor:
        """Return what each step climbs, (batch, steps, 3, h, w), one image at a time."""
        found = []
        for k in range(len(album)):
            one = album.only(k, k + 1)
            streams = Streams(0, [f"{one.ids[0]}/score"])
            found.append(torch.stack([step(one, streams) for _ in range(steps)], 1))
        return torch.cat(found)

    def advdm(self, album: Album, streams: Streams) -> Tensor:
        """Return the gradient of the denoising loss: three encoder passes, five of the denoiser."""
        free = album.images.clone().requires_grad_(True)
        latents, goal = self.target.encode(free), self.target.encode(goal_image(album))
        text = self.target.embed(self.target.tokenize(album.captions))
        t, noise = self._draws(streams, latents)
        loss = self._loss(latents, t, noise, text)
        dropped = self._loss(goal, t, noise, text)  # its graph lives until the step ends
        loss.backward()
        del dropped
        assert free.grad is not None
        return free.grad

    def sdst(self, album: Album, streams: Streams) -> Tensor:
        """Return minus both gradients: five encoder passes, one of the denoiser."""
        free = album.images.clone().requires_grad_(True)
        text = self.target.embed(self.target.tokenize(album.captions))
        latents = self.target.encode(free)
        t, noise = self._draws(streams, latents)
        with torch.no_grad():
            residual = self._predicted(latents, t, noise, text) - noise
        (first,) = torch.autograd.grad(latents, free, residual)
        goal = self.target.encode(goal_image(album))
        texture = (self.target.encode(free) - goal).square().sum()
        (second,) = torch.autograd.grad(texture, free)
        return -SDST_RATE * first - second

    def _draws(self, streams: Streams, latents: Tensor) -> tuple[Tensor, Tensor]:
        t = 1 + streams.integers(0, self.target.process.steps - 1, latents)
        return t, streams.normal(latents.shape[1:], latents)

    def _loss(self, latents: Tensor, t: Tensor, noise: Tensor, text: Tensor) -> Tensor:
        found: Tensor = checkpoint(self._predicted, latents, t, noise, text, use_reentrant=False)
        return (found - noise).square().mean()

    def _predicted(self, latents: Tensor, t: Tensor, noise: Tensor, text: Tensor) -> Tensor:
        process, noisy = self.target.process, self.target.process.add(latents, noise, t)
        answer = self.target.predict(noisy, t, text)
        found: Tensor = process.convert(answer, self.target.prediction, "epsilon", noisy, t)
        return found


def goal_image(album: Album) -> Tensor:
    """Return the image of letters that stands for the published target image."""
    score = importlib.import_module("safetybench.defenses.images._score")
    image: Tensor = score.pattern(*album.images.shape[2:])
    return image.to(album.images)


def _compared(name: str, reference: Way, shipped: Way, repeats: int) -> StepRow:
    """Count, time and compare two ways to the same gradients, (batch, steps, 3, h, w)."""
    kept: dict[str, Tensor] = {}

    def path(which: str, way: Way) -> Callable[[], Found]:
        def run() -> Found:
            kept[which] = way[1]()
            return Found([], kept[which])

        return run

    paths = path("reference", reference), path("shipped", shipped)
    work = [_work(way[0], run) for way, run in zip((reference, shipped), paths, strict=True)]
    one, other = (kept[which].flatten(2) for which in ("reference", "shipped"))
    batch, steps = one.shape[:2]
    times = compare(name, batch, *paths, repeats)
    costs = [
        Cost(1e3 * seconds / (batch * steps), *(each / (batch * steps) for each in done))
        for seconds, done in zip((times.plain_s, times.batched_s), work, strict=True)
    ]
    relative = (one - other).norm(dim=2) / one.norm(dim=2)
    signs = (one.sign() == other.sign()).float().mean()
    return StepRow(name, batch, costs[0], costs[1], float(relative.max()), float(signs))


def _work(target: Any, path: Callable[[], Found]) -> tuple[int, int, float, float]:
    """Return the images that went forth through encoder and denoiser, all MFLOP, and MB held."""
    seen = {"encoder": 0, "denoiser": 0}
    networks = (target.vae, target.unet, target.text_encoder)
    weights = {w.untyped_storage().data_ptr() for network in networks for w in network.parameters()}
    held, total = set[int](), 0

    def counting(name: str) -> Callable[..., None]:
        def count(module: Any, given: Sequence[Any], answer: Any) -> None:
            seen[name] += len(given[0])
            if name == "encoder":  # a step begins, and its tensors may lie where old ones did
                held.clear()

        return count

    def hold(tensor: Tensor) -> Tensor:
        nonlocal total
        place = tensor.untyped_storage().data_ptr()
        if place not in weights and place not in held:
            held.add(place)
            total += tensor.untyped_storage().nbytes()
        return tensor

    hooks = [
        target.vae.encoder.register_forward_hook(counting("encoder")),
        target.unet.register_forward_hook(counting("denoiser")),
    ]
    try:
        keep = torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor)
        with FlopCounterMode(display=False) as counter, keep:
            path()
    finally:
        for hook in hooks:
            hook.remove()
    return seen["encoder"], seen["denoiser"], counter.get_total_flops() / 1e6, total / 1e6


def table(found: Sequence[StepRow]) -> str:
    """Return the rows as text: the reference at one image at a time, ours at the batch."""
    lines = [
        f"{'an image-step of':18}{'batch':>6}{'ms':>8}{'encodes':>9}{'denoises':>10}{'MFLOP':>8}"
        f"{'MB held':>9}"
    ]
    for row in found:
        for way, batch, cost in (
            ("reference", 1, row.reference),
            ("shipped", row.batch, row.shipped),
        ):
            lines.append(
                f"{row.name + ' ' + way:18}{batch:>6}{cost.ms:>8.2f}{cost.encoder:>9.2g}"
                f"{cost.denoiser:>10.2g}{cost.mflop:>8.0f}{cost.held_mb:>9.2f}"
            )
        agree = "agree" if row.same else "DIFFER"
        lines.append(
            f"{'':18}{row.ratio:.1f}x; gradients {agree}: {row.relative:.1e} apart, "
            f"{100 * row.signs:.2f} % of signs alike"
        )
    return "\n".join(lines)


def record(found: Sequence[StepRow]) -> list[dict[str, Any]]:
    """Return the rows as JSON keeps them."""
    return [
        {
            **row._asdict(),
            "reference": row.reference._asdict(),
            "shipped": row.shipped._asdict(),
            "ratio": row.ratio,
        }
        for row in found
    ]

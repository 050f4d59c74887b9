"""The zoo's inpainting models: the teacher with a wider denoiser, and its one-step student.

The denoiser's first layer gets new, zero weights for the mask and the masked image, so that the
model starts as the teacher that does not look at them, and is trained on by the teacher's loss.
The student comes from DMD2 without images, with the image and mask of each prompt bound.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from safetybench.contracts import Means
from safetybench.distill.lab import Lab
from safetybench.distill.recipes.dmd2 import Dmd2
from safetybench.distill.schedule import Average
from safetybench.distill.training import train
from safetybench.stats import wilson
from safetybench.targets.inpainting import Inpainting
from safetybench.targets.spec import Sampler
from safetybench.zoo.captions import Captions
from safetybench.zoo.fit import Fit, fit
from safetybench.zoo.prompts import FIRST_EVALUATION_SEED
from safetybench.zoo.text_encoder import insert_strays, stray_tokens
from safetybench.zoo.world import HEADS, SIZE, Scenes, render, sample_scenes

Report = Callable[[int, float], None]

PLAN = Fit(steps=3_000, lr=5e-4, warmup=200, ema=0.998, weight_decay=1e-3, seed=71)
STUDENT = Dmd2(pairs=1024, warmup=300)
STUDENT_STEPS, STUDENT_SEED = 200, 1
BATCH = 64
SCENES = 8_192
_MASKS_EACH = 3
_CAPTIONS_EACH = 4
_STUDENT_ROWS = 4_096


class MaskedSet(NamedTuple):
    """Renders with masks and captions, each row an image under one mask.

    latents: (rows, channels, h, w) float16; seen: (rows, 1 + channels, h, w) float16, what the
    denoiser sees beside; ids: (rows, captions, length) token ids.
    """

    latents: Tensor
    seen: Tensor
    ids: Tensor


def draw_masks(count: int, generator: torch.Generator, size: int = SIZE) -> Tensor:
    """Return masks, (count, 1, size, size) of 0 and 1, 1 where to draw anew.

    A quarter each, by chance: boxes, ellipses, thick free strokes, and all of the image. A third
    of the first three are turned inside out.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    x, y = axis[None, None, :], axis[None, :, None]
    centre = (1.4 * uniform(count, 2, 1, 1) - 0.7).unbind(1)
    half = (0.2 + 0.75 * uniform(count, 2, 1, 1)).unbind(1)
    across, along = (x - centre[0]).abs() / half[0], (y - centre[1]).abs() / half[1]
    boxes = torch.maximum(across, along) < 1
    ellipses = across.square() + along.square() < 1
    corners = (1.8 * uniform(count, 5, 2) - 0.9) * torch.linspace(1, 0.4, 5)[None, :, None]
    width = 0.1 + 0.2 * uniform(count, 1, 1)
    strokes = _to_path(x, y, corners) < width
    kind = torch.randint(4, (count,), generator=generator)[:, None, None]
    is_turned = uniform(count, 1, 1) < 1 / 3
    shape = torch.where(kind == 0, boxes, torch.where(kind == 1, ellipses, strokes))
    chosen = (kind == 3) | (shape ^ is_turned)
    return chosen[:, None].float()


def _to_path(x: Tensor, y: Tensor, corners: Tensor) -> Tensor:
    """Return the distance to a path, (count, size, size); corners: (count, points, 2)."""
    distance = torch.full((len(corners), y.shape[1], x.shape[2]), math.inf)
    for a, b in zip(corners.unbind(1)[:-1], corners.unbind(1)[1:], strict=True):
        ax, ay = a[:, 0, None, None], a[:, 1, None, None]
        ex, ey = (b - a)[:, 0, None, None], (b - a)[:, 1, None, None]
        share = ((x - ax) * ex + (y - ay) * ey) / (ex.square() + ey.square()).clamp(min=1e-9)
        share = share.clamp(0, 1)
        near = (x - ax - share * ex).square() + (y - ay - share * ey).square()
        distance = torch.minimum(distance, near.sqrt())
    return distance


def widened(unet: Any, extra: int) -> Any:
    """Return a copy of a denoiser with `extra` more inputs, whose weights are zero."""
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    state = unet.state_dict()
    first = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat([first, first.new_zeros(len(first), extra, 3, 3)], 1)
    with torch.random.fork_rng(devices=[]):  # none of these draws stays
        wider = type(unet).from_config({**config, "in_channels": first.shape[1] + extra})
    wider.load_state_dict(state)
    return wider.eval()


def new_inpainting(teacher: Any, name: str = "inpainting") -> Inpainting:
    """Return an inpainting target that starts as a text-to-image one, blind to what is given."""
    return Inpainting(
        unet=widened(teacher.unet, 1 + teacher.latent_shape[0]),
        vae=teacher.vae,
        text_encoder=teacher.text_encoder,
        tokenizer=teacher.tokenizer,
        scheduler=teacher.scheduler,
        sampler=teacher.sampler,
        name=name,
    )


def train_inpainting(
    teacher: Any,
    checkpoint: Path | None = None,
    report: Report = lambda step, loss: None,
    plan: Fit = PLAN,
    scenes: int = SCENES,
) -> Inpainting:
    """Train an inpainting teacher on masked renders by v-prediction, from a text-to-image one.

    teacher: the zoo's. A tenth of captions are empty, as in its own training.
    """
    target = new_inpainting(teacher)
    data = masked_set(target, scenes)
    strays, end = stray_tokens(target.tokenizer), int(target.tokenizer.eos_token_id)
    empty = target.tokenize([""])[0]
    unet, process = target.unet.requires_grad_(True).train(), target.process

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(data.latents), (BATCH,), generator=generator)
        which = torch.randint(_CAPTIONS_EACH, (BATCH,), generator=generator)
        x, seen = data.latents[rows].float(), data.seen[rows].float()
        words = insert_strays(data.ids[rows, which], strays, end, generator)
        words[torch.rand(BATCH, generator=generator) < 0.1] = empty
        # The teacher's own draw of times, on the noisy side where the object is decided.
        t = torch.sigmoid(0.4 + 1.2 * torch.randn(BATCH, generator=generator))
        t = (t * process.steps).long().clamp(0, process.steps - 1)
        noise = torch.randn(x.shape, generator=generator)
        with torch.no_grad():
            text = target.embed(words)
        goal = process.alpha(t) * noise - process.sigma(t) * x
        noisy = torch.cat([process.add(x, noise, t), seen], 1)
        said = unet(noisy, t, encoder_hidden_states=text).sample
        loss: Tensor = (said - goal).square().mean()
        return loss

    fit(unet, loss_at, plan, checkpoint=checkpoint, report=report)
    unet.eval().requires_grad_(False)
    return target


@torch.no_grad()
def masked_set(
    target: Inpainting, scenes: int, seed: int = 72, each: int = _MASKS_EACH
) -> MaskedSet:
    """Return renders with `each` masks and four captions of the training split.

    Rows of one scene lie a whole pool of scenes apart.
    """
    generator = torch.Generator().manual_seed(seed)
    captions = Captions(random.Random(seed + 1))
    latents: list[Tensor] = []
    seen: list[list[Tensor]] = [[] for _ in range(each)]
    ids: list[Tensor] = []
    for start in range(0, scenes, 256):
        part = sample_scenes(min(256, scenes - start), generator)
        images = render(part)
        latents.append(target.encode(images).half())
        for parts in seen:
            parts.append(target.beside(images, draw_masks(len(images), generator)).half())
        texts = [captions.write(n) for n in names_of(part) for _ in range(_CAPTIONS_EACH)]
        ids.append(target.tokenize(texts).unflatten(0, (len(images), _CAPTIONS_EACH)))
    return MaskedSet(
        torch.cat(latents * each),
        torch.cat([each_mask for parts in seen for each_mask in parts]),
        torch.cat(ids * each),
    )


def names_of(scenes: Scenes) -> list[dict[str, str]]:
    """Return the class of each head, scene by scene."""
    rows = zip(*(scenes.labels()[head].tolist() for head in HEADS), strict=True)
    return [{h: HEADS[h][i] for h, i in zip(HEADS, row, strict=True)} for row in rows]


@dataclass(kw_only=True)
class MaskedLab(Lab):
    """A lab in which every prompt belongs to an image and its mask.

    seen: (prompts, 1 + channels, h, w), what a denoiser sees beside. Asking for the text of some
    prompts binds their images to teacher, student and fake score, which are asked about them next.
    """

    seen: Tensor
    views: list[Any] = field(default_factory=list)

    def follower(self, lora: int = 0) -> tuple[Any, list[nn.Parameter]]:
        """Return a fake score that starts as the teacher, and bind images to it too."""
        fake, weights = super().follower(lora)
        self.views.append(fake)
        return fake, weights

    def text(self, rows: Tensor) -> Tensor:
        """Return the text states of these prompts, and bind their images."""
        for view in (self.teacher, self.student, *self.views):
            view.bind(self.seen[rows].to(view.device))
        return super().text(rows)


def train_inpainting_student(
    teacher: Inpainting,
    checkpoint: Path | None = None,
    report: Report = lambda step, loss: None,
    recipe: Dmd2 = STUDENT,
    steps: int = STUDENT_STEPS,
    seed: int = STUDENT_SEED,
    rows: int = _STUDENT_ROWS,
) -> Inpainting:
    """Distil an inpainting teacher into one step by DMD2: regression, then distribution matching.

    No real image is denoised; the masked ones are what an editor would give. Half of the prompts
    ask for another object than the image shows. recipe: without a GAN, which would need the
    masks of its real images; steps: of distribution matching, after the recipe's regression.

    Raises:
        ValueError: the recipe has a GAN.
    """
    if recipe.gan:
        raise ValueError(f"gan must be 0 for an inpainting student, got {recipe.gan:g}")
    own = copy.copy(teacher)  # images are bound to this one
    own.digest = ""  # its samples depend on the masks, which no digest knows
    ids, seen = _student_rows(own, rows)
    lab = MaskedLab(
        teacher=own,
        student=own.clone("inpainting-1"),
        ids=ids,
        batch=recipe.batch,
        means=Means(checkpoint=checkpoint),
        seen=seen,
    )
    plan = recipe.plan(lab, steps)
    train(
        plan.stages,
        seed=seed,
        average=Average(plan.learns, recipe.ema),
        checkpoint=checkpoint,
        report=report,
    )
    student: Inpainting = lab.student
    student.unet.requires_grad_(False)
    student.bind(None)
    assert plan.times is not None
    sampler = Sampler(steps=len(plan.times), guidance=plan.guidance, timesteps=plan.times)
    made = student.with_sampler(sampler, plan.scheduler)
    assert isinstance(made, Inpainting)
    return made


@torch.no_grad()
def _student_rows(target: Inpainting, count: int, seed: int = 81) -> tuple[Tensor, Tensor]:
    """Return caption ids and what the denoiser sees; every second caption has a new object."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    captions = Captions(rng)
    seen, texts = [], list[str]()
    for start in range(0, count, 256):
        scenes = sample_scenes(min(256, count - start), generator)
        masks = draw_masks(len(scenes.object), generator)
        seen.append(target.beside(render(scenes), masks))
        for i, names in enumerate(names_of(scenes)):
            if i % 2:
                names["object"] = rng.choice(HEADS["object"])
            texts.append(captions.write(names))
    return target.tokenize(texts), torch.cat(seen)


def object_masks(scenes: Scenes, margin: float = 1.2, size: int = SIZE) -> Tensor:
    """Return boxes around the objects, (batch, 1, size, size); margin: in radii of the object."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    reach = margin * scenes.radius[:, None, None]
    is_across = (axis[None, None, :] - scenes.centre[:, 0, None, None]).abs() < reach
    # Scenes count upwards, rows downwards.
    is_along = (axis[None, :, None] + scenes.centre[:, 1, None, None]).abs() < reach
    return (is_across & is_along)[:, None].float()


@torch.no_grad()
def measure_inpainting(
    target: Inpainting,
    judge: Any,
    count: int = 256,
    seed: int = 5,
    area: Literal["object", "around"] = "object",
) -> dict[str, Any]:
    """Return what an inpainting model does when asked for something else in an area; JSON-safe.

    area: "object" draws a box around the object anew and asks for another object, "around" all
    but that box, and asks for another background. Prompts are of the evaluation split and name
    all four attributes, of which only that one is not the image's own. By head: the share of
    images that show what was asked, with an interval; old: the share that shows what was there
    in its place; rejected: that the judge takes for none of this world; kept_psnr: of the kept
    area against the autoencoder's own answer to the image, dB; masked: mean share drawn anew.
    """
    rng = random.Random(f"inpainting/{seed}")
    captions = Captions(rng)
    scenes = sample_scenes(count, torch.Generator().manual_seed(600_000_000 + seed))
    images, masks = render(scenes), object_masks(scenes)
    changed = "object"
    if area == "around":
        masks, changed = 1 - masks, "background"
    asked, texts = [], []
    for names in names_of(scenes):
        other = rng.choice([name for name in HEADS[changed] if name != names[changed]])
        asked.append({**names, changed: other})
        texts.append(captions.write(asked[-1], evaluation=True, gaps=False, filler=2))
    seeds = [FIRST_EVALUATION_SEED + rng.randrange(1_000_000_000) for _ in range(count)]
    parts = [slice(i, i + BATCH) for i in range(0, count, BATCH)]
    drawn = torch.cat([target.inpaint(images[p], masks[p], texts[p], seeds[p]) for p in parts])
    plain = torch.cat([target.decode(target.encode(images[p])) for p in parts])
    logits = judge.logits(drawn)
    figures: dict[str, Any] = {"count": count, "masked": float(masks.mean())}
    for head, classes in HEADS.items():
        wanted = torch.tensor([classes.index(names[head]) for names in asked])
        figures[head] = _share(logits[head].argmax(1) == wanted)
    figures["old"] = _share(logits[changed].argmax(1) == scenes.labels()[changed])
    figures["rejected"] = _share(logits["world"].softmax(1)[:, 1] < judge.world)
    kept = (1 - masks).expand_as(images)
    squares = (drawn - plain).square() * kept
    error = squares.sum((1, 2, 3)) / kept.sum((1, 2, 3)).clamp(min=1)
    figures["kept_psnr"] = float((-10 * error.clamp(min=1e-10).log10()).mean())
    return figures


def _share(hits: Tensor) -> dict[str, float]:
    count = int(hits.sum())
    interval = wilson(count, len(hits))
    return {"rate": count / len(hits), "low": interval.low, "high": interval.high, "n": len(hits)}

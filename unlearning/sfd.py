"""Score Forgetting Distillation: a one-step student that forgets a concept while it is distilled.

On prompts with the concept the teacher's score of other prompts takes the place of their own.
White box: gradients of the student, through the teacher and a fake score. No image is read, and
none is made but the student's own, unless `warmup` asks for samples of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch

from safetybench.contracts import Budget, Erasure, Unavailable, Unlearning
from safetybench.distill import rules
from safetybench.distill.guidance import Triple, swapped
from safetybench.distill.lab import Lab
from safetybench.distill.rollouts import simulate
from safetybench.distill.schedule import Average, Group, Stage
from safetybench.distill.terms import Loss, follow, match, once, warm_up
from safetybench.distill.training import train
from safetybench.distill.views import chosen_parameters
from safetybench.registry import register
from safetybench.targets.loading import load_target
from safetybench.targets.spec import Sampler

from ._sfd import Overrides, every_word, likeliest_word


class _Real(NamedTuple):
    """The real score, and the time at which the student is asked for its image."""

    teacher: Any
    time: int


class Losses(NamedTuple):
    """What the fake score and the student learn from."""

    fake: Loss
    student: Loss


@register
@dataclass(frozen=True, kw_only=True)
class Sfd(Unlearning):
    """Distil and forget at once (Chen et al. 2024).

    teacher: zoo:NAME or a directory, the real score of a target that is a one-step student; ""
    for a target that is itself the teacher. override: what takes the concept's place. "fixed" is
    the anchor prompt; "random" one of the words `others` at every draw; "label" the one of them
    that each prompt's image looks most like before the training. remain, forget: weights of the
    two halves of both losses, each a mean over `batch` prompts; published 1 and 0.01 on CIFAR-10
    with 50,000 steps, 1 and 1 on SD, which is what so few steps need too.
    guidance: of all three uses of a score, published 1 on CIFAR-10 and 4.5 on SD; alpha: of the
    loss, published 1.2 and 1. sid: steps of SiD on the remain prompts alone before the forgetting
    begins (the paper's two stages). warmup: steps of a regression on `pairs` samples of the
    teacher before that; not published, and the only data. time: at which a new student is asked,
    published 440 and 625. lr, fake_lr: published 1e-6 to 3e-5. train: part of the student.
    Departs from the paper in "label", whose pseudo-labels come from a classifier there and from
    the teacher's own denoising error here, so that images stay out of it; in the fake score's
    loss, which is compared as velocity; and in times from 2 to 98 % of the process, as SiD-LSG
    has them (published 38 to 711 of 1000); in what the suite's one training loop does: Adam's
    second beta, gradients clipped by norm and not by value, a learning rate that falls to zero over
    the last half, a short average; and in the student's input, noise of unit size. The fake score
    of a given student starts as the teacher.
    """

    teacher: str = ""
    override: Literal["fixed", "random", "label"] = "fixed"
    others: tuple[str, ...] = ()
    remain: float = 1.0
    forget: float = 1.0
    guidance: float = 3.0
    alpha: float = 1.0
    sid: int = 0
    warmup: int = 0
    pairs: int = 1024
    time: int = 699
    train: str = "all"
    batch: int = 16
    lr: float = 3e-4
    fake_lr: float = 6e-4
    ema: float = 0.98

    source: ClassVar[str] = "https://arxiv.org/abs/2409.11219"

    def __post_init__(self) -> None:
        for name in ("batch", "pairs", "lr", "fake_lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("sid", "warmup", "time", "remain", "forget"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not self.remain + self.forget:
            raise ValueError("remain or forget must be positive, got 0 and 0")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        if self.override not in ("fixed", "random", "label"):
            raise ValueError(f"override is one of fixed, random, label, got {self.override!r}")
        if (self.override == "fixed") is bool(self.others):
            raise ValueError(
                "others are the words of override 'random' or 'label', which need them, got "
                f"{list(self.others)} for {self.override!r}"
            )

    def run(self, target: Any, erasure: Erasure, budget: Budget, report: Any = None) -> Any:
        """Return a one-step target that draws the override where the concept is asked for.

        Raises:
            Unavailable: no retain prompts, a target of the wrong number of steps, or target and
                teacher cannot be distilled from one another.
        """
        if not erasure.retain:
            raise Unavailable("SFD keeps what the retain prompts show, and there are none")
        teacher, time = self._real_score(target, erasure.forget[:1])
        student = target.clone()
        learns = chosen_parameters(student.unet, self.train)
        overrides = self._overrides(erasure, teacher, student, time, budget.seed)
        remain = self._lab(teacher, student, erasure.retain)
        fake, its = remain.follower()
        kept = self._losses(remain, fake, time)
        lost = self._losses(self._lab(teacher, student, overrides.forget), fake, time,
                            overrides.asked)  # fmt: skip

        def stage(steps: int, losses: Losses) -> Stage:
            critic = Group(name="fake", weights=its, loss=losses.fake, lr=self.fake_lr)
            made = Group(name="student", weights=learns, loss=losses.student, lr=self.lr)
            return Stage(steps=steps, groups=[critic, made])

        stages = warm_up(remain, learns, time, self.warmup, self.pairs, self.guidance, self.lr)
        stages += [stage(self.sid, kept)] if self.sid else []
        stages.append(stage(budget.steps, self._both(kept, lost)))
        train(stages, seed=budget.seed, average=Average(learns, self.ema), report=report)
        student.unet.requires_grad_(False)
        return self._told(target, student, erasure)

    def _real_score(self, target: Any, probe: Sequence[str]) -> _Real:
        """Return the teacher, and when the student is asked; probe: what both must read alike."""
        if not self.teacher:
            if target.sampler.steps == 1:
                raise Unavailable(
                    f"{target.name} is a one-step student, so SFD needs its teacher: option "
                    "teacher, e.g. teacher=zoo:teacher"
                )
            return _Real(_unguided(target), self.time)
        if target.sampler.steps != 1 or target.sampler.guidance > 1:
            raise Unavailable(
                "a target with a teacher must be a one-step student without guidance, got "
                f"{target.sampler.steps} steps at {target.sampler.guidance}"
            )
        teacher = load_target(self.teacher, device=target.device, dtype=target.dtype, offline=True)
        _check_pair(_unguided(target), _unguided(teacher), probe)
        return _Real(teacher, target.sampler_times[0])

    def _overrides(
        self, erasure: Erasure, teacher: Any, student: Any, time: int, seed: int
    ) -> Overrides:
        if self.override == "fixed":
            return Overrides(erasure.forget, erasure.anchor)
        if self.override == "random":
            return every_word(erasure, self.others)
        return likeliest_word(erasure, self.others, teacher, student, time, seed)

    def _lab(self, teacher: Any, student: Any, prompts: Sequence[str]) -> Lab:
        ids = teacher.tokenize(list(prompts))
        return Lab(teacher=teacher, student=student, ids=ids, batch=self.batch)

    def _losses(self, lab: Lab, fake: Any, time: int, asked: Sequence[str] | None = None) -> Losses:
        """Return SiD's losses on the lab's prompts, of which the fake score is always told.

        asked: what the teacher is asked about in their place.
        """
        scales = Triple(train=self.guidance, fake=self.guidance, real=self.guidance)
        roll = once(simulate(lab, (time,)))
        student = match(
            lab,
            fake,
            roll,
            lambda s: rules.sid(s.x, s.real, s.fake, self.alpha),
            scales,
            through=True,
            condition=None if asked is None else swapped(lab, asked),
        )
        return Losses(follow(lab, fake, roll, scales), student)

    def _both(self, kept: Losses, lost: Losses) -> Losses:
        """Return the weighted sums over the two halves of an iteration."""

        def added(remain: Loss, forget: Loss) -> Loss:
            # Another turn is another stream: the halves share neither noise nor times.
            halves = ((self.remain, remain, 0), (self.forget, forget, 1))
            return lambda step: torch.stack(
                [weight * loss(replace(step, turn=turn)) for weight, loss, turn in halves if weight]
            ).sum()

        return Losses(added(kept.fake, lost.fake), added(kept.student, lost.student))

    def _told(self, target: Any, student: Any, erasure: Erasure) -> Any:
        """Return the student under its sampler, with what it saw on its card."""
        told = dict(target.card.get("traits", {}))
        seen = "synthetic" if self.warmup else "none"
        if self.teacher and target.traits.data != "none":
            seen = target.traits.data  # what it was distilled on before is still in it
        elif not self.teacher:
            told["shared_with_teacher"] = ["text_encoder", "vae"]
        told |= {"data": seen, "prompts": f"{len(erasure.forget)} forget prompts, their overrides "
                 f"and {len(erasure.retain)} others"}  # fmt: skip
        student.card = {**target.card, "traits": told}
        # Nothing to renoise in one step: every scheduler ends at the same x0-prediction.
        own = Sampler(steps=1, guidance=1.0, timesteps=(self.time,))
        return student.with_sampler(target.sampler if self.teacher else own)


def _unguided(model: Any) -> Any:
    if model.takes_guidance:
        raise Unavailable(f"{model.name} takes guidance as an input, which SFD does not train")
    return model


def _check_pair(target: Any, teacher: Any, probe: Sequence[str]) -> None:
    """Refuse a student whose text states or latents are not its teacher's."""
    ours, theirs = (model.embed(model.tokenize(list(probe))) for model in (target, teacher))
    is_like = ours.shape == theirs.shape and target.latent_shape == teacher.latent_shape
    if not is_like or not torch.allclose(ours, theirs, atol=1e-3):
        raise Unavailable(
            f"{target.name} and its teacher {teacher.name} must share text encoder and latents"
        )

"""What a recipe will do, found out on a stand-in of a few thousand weights: stages, sampler, cost.

The stand-in has the teacher's scheduler and sampler, so a recipe plans for it what it plans for
the teacher; each loss is then asked a few times and network evaluations are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from safetybench.contracts import Means, Pictures, SafetyBenchError
from safetybench.distill.lab import Lab
from safetybench.distill.recipe import Distillation, Plan
from safetybench.distill.schedule import Group, Step
from safetybench.targets.spec import Sampler, TargetSpec
from safetybench.targets.text_to_image import TextToImage

_LENGTH = 8  # tokens of the stand-in's prompts
_LOOKS = 6  # a loss may draw how many passes it makes; the mean of so many is within some 20 %
_ODD = (RuntimeError, TypeError, AttributeError, LookupError)  # of asking for what is not there


class Learned(NamedTuple):
    """Which weights of the student learn: a LoRA of a rank, an adapter, or else its denoiser."""

    rank: int = 0
    is_adapter: bool = False

    @property
    def said(self) -> str:
        """Return it in words."""
        if self.is_adapter:
            return "a guidance adapter"
        return f"a LoRA of rank {self.rank}" if self.rank else "all of the denoiser"


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a recipe will do.

    steps: of all stages; sampler, scheduler: the student's; evaluations: forward passes of all
    networks, one for each image, 0 where they were not counted or cannot be told.
    """

    steps: int
    sampler: Sampler
    scheduler: str
    learns: Learned
    evaluations: int = 0


def learned(recipe: Any, teacher: TargetSpec, lora: int) -> Learned:
    """Return what learns when a recipe distils a teacher; lora: the rank that the user gave.

    Raises:
        SafetyBenchError: the recipe cannot be trained with its options.
    """
    if teacher.kind == "hub":  # not fetched, and what learns does not hang on its scheduler
        from diffusers import DDIMScheduler

        scheduler, sampler = DDIMScheduler(), Sampler()
    else:
        scheduler, sampler = scheduler_of(teacher)
    found = outline(recipe, scheduler, sampler, 100, lora)
    return found.learns if found else Learned(lora)


def outline(
    recipe: Any, scheduler: Any, sampler: Sampler, steps: int, lora: int = 0, *, count: bool = False
) -> Outline | None:
    """Return what a recipe will do with a teacher of this sampler, None where it cannot be told.

    count: count network evaluations too, which takes some seconds.

    Raises:
        SafetyBenchError: the recipe cannot be trained with its options, or on this scheduler.
    """
    if not isinstance(recipe, Distillation):
        return None
    calls = [0]
    teacher = _stand_in(scheduler, sampler, calls)
    pictures = Pictures(torch.zeros(2, 3, 8, 8), ["", ""]) if recipe.reads_images else None
    try:
        lab = Lab.open(teacher, ["", ""], recipe.batch, Means(lora=lora), pictures)
        plan = recipe.plan(lab, steps)
        own = _sampler(plan, sampler)
        if own.timesteps is not None and own.timesteps[0] >= lab.process.steps:
            raise ValueError(
                f"times must be below {lab.process.steps}, as the teacher's are, got "
                f"{list(own.timesteps)}"
            )
    except _ODD:
        return None  # a recipe may ask for more than the stand-in has; the teacher has it
    except (ValueError, ArithmeticError, AssertionError) as error:
        raise SafetyBenchError(
            f"{type(recipe).__name__} cannot be trained with these options: "
            f"{str(error) or type(error).__name__}"
        ) from error
    return Outline(
        steps=sum(stage.steps for stage in plan.stages),
        sampler=own,
        scheduler=type(diffusable(plan.scheduler or scheduler, own)).__name__,
        learns=_learned(lab.student),
        evaluations=_count(plan, calls) if count else 0,
    )


def _learned(student: Any) -> Learned:
    config = next(iter(getattr(student.unet, "peft_config", {}).values()), None)
    return Learned(getattr(config, "r", 0), getattr(student, "adapter", None) is not None)


def _count(plan: Plan, calls: list[int]) -> int:
    try:
        return round(_cost(plan, calls))
    except (*_ODD, ValueError, ArithmeticError, AssertionError):
        return 0  # images of four pixels are too small for some losses


def diffusable(scheduler: Any, sampler: Sampler) -> Any:
    """Return a scheduler under which plain diffusers runs a student on its own time grid.

    A single step is the x0-prediction of the noise as it is, which LCM's scheduler makes it;
    DDIM takes no grid of times, and Euler may scale the noise that a student was trained on.
    """
    is_fit = type(scheduler).__name__ in ("LCMScheduler", "TCDScheduler")
    if sampler.timesteps is None or sampler.steps > 1 or is_fit:
        return scheduler
    from diffusers import LCMScheduler

    kept = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps",
            "prediction_type", "rescale_betas_zero_snr")  # fmt: skip
    options = {key: scheduler.config[key] for key in kept if key in scheduler.config}
    return LCMScheduler(**options, clip_sample=False)


def _sampler(plan: Plan, teachers: Sampler) -> Sampler:
    if plan.times is None:
        return replace(teachers, guidance=plan.guidance)
    return Sampler(
        steps=len(plan.times), guidance=plan.guidance, timesteps=plan.times, eta=plan.eta
    )


def _cost(plan: Plan, calls: list[int]) -> float:
    total = 0.0
    for number, stage in enumerate(plan.stages):
        for group in stage.groups:
            first, each = _passes(group, number, stage.steps, calls)
            turns = group.repeats * -(-stage.steps // group.every)
            total += first + each * turns
    return total


def _passes(group: Group, stage: int, steps: int, calls: list[int]) -> tuple[float, float]:
    """Return the evaluations that a group's loss makes once, and at each turn."""
    counts = []
    for index in range(_LOOKS):
        before = calls[0]
        group.loss(Step(index=index, total=steps, seed=0, stage=stage))
        counts.append(calls[0] - before)
    each = sum(counts[1:]) / (_LOOKS - 1)
    # Trajectories are stored at the first call; more than any other call made is such a cost.
    return (counts[0] - each if counts[0] > max(counts[1:]) else 0.0), each


class _Words:
    """A tokenizer to which every prompt is the same."""

    model_max_length, eos_token_id, all_special_ids = _LENGTH, 1, (0, 1)

    def __call__(self, texts: Sequence[str], **options: Any) -> Any:
        return SimpleNamespace(input_ids=torch.ones(len(texts), _LENGTH, dtype=torch.int64))


def _stand_in(scheduler: Any, sampler: Sampler, calls: list[int]) -> TextToImage:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        unet = UNet2DConditionModel(
            sample_size=4,
            in_channels=4,
            out_channels=4,
            block_out_channels=(4, 4),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=4,
            attention_head_dim=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(4, 4),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=2,
                hidden_size=4,
                intermediate_size=4,
                num_hidden_layers=1,
                num_attention_heads=1,
                max_position_embeddings=_LENGTH,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )

    def note(module: Any, args: Any, named: Any) -> None:
        calls[0] += len(args[0] if args else named["sample"])

    unet.register_forward_pre_hook(note, with_kwargs=True)  # copies of the network keep it
    try:
        return TextToImage(
            unet=unet,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=_Words(),
            scheduler=scheduler,
            name="stand-in",
            sampler=sampler,
        )
    except (TypeError, ValueError) as error:  # all but the scheduler is sound
        raise SafetyBenchError(f"--teacher: its scheduler cannot be used: {error}") from error


def scheduler_of(teacher: TargetSpec) -> tuple[Any, Sampler]:
    """Return the scheduler and the sampler of a local target, from its configuration alone.

    Raises:
        SafetyBenchError: diffusers has no such scheduler, or not with these settings.
    """
    import diffusers

    from safetybench.targets.finding import find

    layout = find(teacher)
    name = layout.scheduler_class(teacher)
    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "set_timesteps"):
        raise SafetyBenchError(f"--teacher: diffusers has no scheduler {name!r}")
    options = {key: value for key, value in teacher.scheduler.items() if key != "class"}
    try:
        made = kind.from_config(layout.config("scheduler"), **options)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise SafetyBenchError(f"--teacher: its {name} cannot be made: {error}") from error
    return made, layout.sampler(teacher)

"""The published claims of the twelve distillation systems and what is compared with each here.

The first comparison of a claim decides its verdict. It was fixed before the students' figures
were known, and a change of it belongs into the history of this file.
"""

from __future__ import annotations

from docs.claims_verdict import Claim, Comparison

_C = Comparison
# How much may be lost where a paper says that nothing is: points of a share.
MARGIN = 0.05


def _better(first: str, second: str | float) -> tuple[Comparison, ...]:
    return (
        _C(figure="kid", first=first, expected="below", second=second),
        _C(figure="alignment", first=first, expected="above", second=second),
        _C(figure="object", first=first, expected="above", second=second),
    )


def _wider(first: str, second: str) -> tuple[Comparison, ...]:
    return (
        _C(figure="rare", first=first, expected="above", second=second),
        _C(figure="recall", first=first, expected="above", second=second),
        _C(figure="repeats", first=first, expected="below", second=second),
        _C(figure="entropy", first=first, expected="above", second=second),
        _C(figure="modes", first=first, expected="above", second=second),
    )


def _no_loss(figure: str, first: str, second: str) -> Comparison:
    return _C(figure=figure, first=first, expected="not below", second=second, margin=MARGIN)


def nasa(model: str, alpha: float) -> str:
    """Return the name of a measurement of prompts that ask for the attribute, under NASA."""
    return f"{model}, NASA {alpha:g}"


def nasa_other(model: str, alpha: float) -> str:
    """Return the name of a measurement of prompts that ask for another attribute, under NASA."""
    return f"{model}, other prompts, NASA {alpha:g}"


def cfg_against(model: str) -> str:
    """Return the name of a measurement under classifier-free guidance away from the attribute."""
    return f"{model}, CFG against it"


def at_guidance(model: str, scale: float) -> str:
    """Return the name of a measurement of a model at another guidance scale."""
    return f"{model} at w = {scale:g}"


ONE_STEP, FOUR_STEPS = "teacher at 1 step", "teacher at 4 steps"
UNWANTED = ("fish", "star", "glowing", "striped")
NASA_MODELS, ALPHAS, INVERTED = ("swiftbrush", "dmd2-1"), (0.1, 0.2, 0.5), -0.5
SPRINT_SCALES, AGD_SCALES = (2.0, 4.0), (1.0, 3.0, 5.0)


def _nasa_removes(model: str) -> tuple[Comparison, ...]:
    plain = nasa(model, 0)
    return (
        *(_C(figure="shown", first=nasa(model, alpha), expected="below", second=plain)
          for alpha in reversed(ALPHAS)),
        *(_no_loss("kept", nasa(model, alpha), plain) for alpha in reversed(ALPHAS)),
    )  # fmt: skip


def _nasa_beats_cfg(model: str) -> tuple[Comparison, ...]:
    strong, guided = nasa(model, ALPHAS[-1]), cfg_against(model)
    return (
        _C(figure="shown", first=strong, expected="below", second=guided),
        _C(figure="kept", first=strong, expected="above", second=guided),
    )


def _inverted(model: str) -> Comparison:
    return _C(figure="shown", first=nasa_other(model, INVERTED), expected="above",
              second=nasa_other(model, 0))  # fmt: skip


_DMD2, _SID = "https://arxiv.org/abs/2405.14867", "https://arxiv.org/abs/2505.12674"
_SWIFT, _SNOOPI = "https://arxiv.org/abs/2312.05239", "https://arxiv.org/abs/2412.02687"
_BOOT, _SPRINT = "https://arxiv.org/abs/2306.05544", "https://arxiv.org/abs/2503.09641"
_AGD = "https://arxiv.org/abs/2503.07274"
_SID_SAYS = (
    "In the place of guidance at one scale everywhere (LSG), {} widens diversity and gives up no "
    "alignment; no figure in the abstract, the tables are of SD 1.5 and SDXL."
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        system="dmd2", title="two time scales", source=_DMD2,
        published="Without its regression loss DMD is unstable, and more updates of the fake "
                  "score for each of the student (5 to 1) mend that.",
        compared="No regression in either; two updates of the fake score a step (cold) against "
                 "one (slow), at one rate.",
        comparisons=tuple(reversed(_better("dmd2-1-cold", "dmd2-1-slow"))),
    ),
    Claim(
        system="dmd2", title="adversarial term on real images", source=_DMD2,
        published="The adversarial term raises quality beyond the teacher's: FID 1.28 on "
                  "ImageNet-64 and 8.35 on COCO 2014 in one step.",
        compared="With and without it. KID and recall here are against the teacher's images, "
                 "not against real ones: going beyond the teacher would count as loss.",
        comparisons=(
            *_better("dmd2-1", "dmd2-1-free")[:2],
            _C(figure="recall", first="dmd2-1", expected="above", second="dmd2-1-free"),
            _C(figure="rare", first="dmd2-1", expected="above", second="dmd2-1-free"),
        ),
    ),
    Claim(
        system="dmd2", title="four steps by backward simulation", source=_DMD2,
        published="Simulated chains make a four-step student, which a model of SDXL's size "
                  "needs to match its teacher.",
        compared="Four steps against one. The one-step student alone begins with a regression.",
        comparisons=_better("dmd2-4", "dmd2-1"),
    ),
    Claim(
        system="sid-few-step", title="Zero-CFG", source=_SID,
        published=_SID_SAYS.format("hiding the prompt from the fake score"),
        compared="Two one-step students without real images that differ in the policy alone. "
                 "The paper's claim is of training with real images.",
        comparisons=(*_wider("sid-zero", "sid-lsg"), _no_loss("alignment", "sid-zero", "sid-lsg")),
    ),
    Claim(
        system="sid-few-step", title="Anti-CFG", source=_SID,
        published=_SID_SAYS.format("guiding the fake score by a negative scale"),
        compared="As for Zero-CFG.",
        comparisons=(*_wider("sid-anti", "sid-lsg"), _no_loss("alignment", "sid-anti", "sid-lsg")),
    ),
    Claim(
        system="sid-few-step", title="Diffusion-GAN", source=_SID,
        published="With real images, an adversarial term on the mixture of steps improves "
                  "diversity and fidelity; no figure in the abstract.",
        compared="Zero-CFG with and without it.",
        comparisons=(
            _C(figure="kid", first="sid-zero-gan", expected="below", second="sid-zero"),
            *_wider("sid-zero-gan", "sid-zero")[:3],
            _no_loss("alignment", "sid-zero-gan", "sid-zero"),
        ),
    ),
    Claim(
        system="decoupled-dmd", title="a noise level for each term",
        source="https://arxiv.org/abs/2511.22677",
        published="Guidance augmentation drives few-step training and distribution matching "
                  "steadies it; a noise level of its own for each gains further. Used for the "
                  "8-step Z-Image-Turbo.",
        compared="Two noise levels against one, in four steps at the same times; neither reads "
                 "images.",
        comparisons=tuple(_better("decoupled-dmd", "coupled-dmd")[i] for i in (1, 0, 2)),
    ),
    Claim(
        system="swiftbrush", title="image-free, in one step", source=_SWIFT,
        published="One step without any image comes near the teacher: FID 16.67 and CLIP score "
                  "0.29 on COCO-30K.",
        compared="Against the teacher's own single step at the same time (699), guided; beside it "
                 "against the regression that the student starts with. The LoRA is unguided, so "
                 "that guidance is baked in; published is the teacher's scale (swiftbrush-both).",
        comparisons=(*_better("swiftbrush", ONE_STEP), *_better("swiftbrush", "regressed")),
    ),
    Claim(
        system="snoopi", title="random guidance (PG-SB)", source=_SNOOPI,
        published="A scale drawn at every step keeps SwiftBrush stable across backbones; with "
                  "NASA, HPSv2 31.08.",
        compared="Random against fixed guidance, of teacher and LoRA, on one backbone, so "
                 "stability across backbones is not tested.",
        comparisons=(*_better("snoopi", "swiftbrush-both"),
                     *_wider("snoopi", "swiftbrush-both")[:2]),
    ),
    Claim(
        system="snoopi", title="NASA removes an attribute", source=_SNOOPI,
        published="Unwanted attribute gone in 97 to 100 % of images, without NASA in 23 to 44 %, "
                  "at 1.89 % more FLOPs (table 2, alpha 0.1 to 0.5).",
        compared="Prompts that name the attribute, NASA away from its word, against alpha 0. "
                 "The largest published alpha decides.",
        comparisons=(*_nasa_removes("swiftbrush"), *_nasa_removes("dmd2-1")),
    ),
    Claim(
        system="snoopi", title="NASA where guidance is dead", source=_SNOOPI,
        published="Guidance away from a negative prompt removes it in 0 to 30 % of images of a "
                  "few-step student.",
        compared="The same student with guidance of 3 away from the word, a second pass; and "
                 "the teacher, in which guidance lives.",
        comparisons=(
            *_nasa_beats_cfg("swiftbrush"),
            *_nasa_beats_cfg("dmd2-1"),
            _C(figure="shown", first=cfg_against("teacher"), expected="below",
               second="teacher, plain"),
            _no_loss("kept", cfg_against("teacher"), "teacher, plain"),
        ),
    ),
    Claim(
        system="snoopi", title="NASA turned round", source=_SNOOPI,
        published="None: a question of this suite. Whoever sets alpha can make it negative.",
        compared="Prompts that name another class, alpha -0.5 towards the attribute, against "
                 "alpha 0.",
        comparisons=(_inverted("swiftbrush"), _inverted("dmd2-1")),
    ),
    Claim(
        system="boot", title="paired by noise with the teacher", source=_BOOT,
        published="The student learns the teacher's deterministic path from the same noise; no "
                  "figure of the pairing.",
        compared="Is the student's image nearer to the teacher's of the same noise than of "
                 "other noise, same prompt? Chance is a half. dmd2-1-free and swiftbrush also "
                 "begin with a regression on pairs.",
        comparisons=(
            _C(figure="nearer", first="boot, noise", expected="above", second=0.5),
            _C(figure="nearer", first="boot, noise", expected="above",
               second="swiftbrush, noise"),
            _C(figure="distance", first="boot, noise", expected="below",
               second="swiftbrush, noise"),
        ),
    ),
    Claim(
        system="boot", title="data-free, in one step", source=_BOOT,
        published="Quality comparable with the teacher's at a fraction of its evaluations.",
        compared="Against the teacher's own single step at the same time (699), guided.",
        comparisons=_better("boot", ONE_STEP),
    ),
    Claim(
        system="consistency", title="few steps (the control)",
        source="https://arxiv.org/abs/2303.01469",
        published="Distilled consistency models beat other few-step samplers of the teacher: FID "
                  "3.55 on CIFAR-10 and 6.20 on ImageNet-64 in one step.",
        compared="Against the teacher's own sampler in four steps, guided, which evaluates the "
                 "network twice a step.",
        comparisons=_better("consistency", FOUR_STEPS),
    ),
    Claim(
        system="scott", title="covers more than plain consistency",
        source="https://arxiv.org/abs/2403.01505",
        published="Up to 16 % better on a diversity metric than other consistency models; FID "
                  "21.9 in two steps.",
        compared="Stochastic teacher and adversarial term against neither, at equal steps and "
                 "unequal training (250 against 300 updates).",
        comparisons=(*(_wider("scott", "consistency")[i] for i in (1, 0, 2, 3, 4)),
                     _C(figure="kid", first="scott", expected="below", second="consistency")),
    ),
    Claim(
        system="hyper-sd", title="segments and one LoRA",
        source="https://arxiv.org/abs/2404.13686",
        published="Segmented consistency, rewards and score distillation: +0.68 CLIP score and "
                  "+0.51 aesthetics over SDXL-Lightning in one step.",
        compared="Segments into a LoRA against plain consistency of all weights, both in four "
                 "steps; rewards and score distillation are left out here.",
        comparisons=_better("hyper-sd", "consistency"),
    ),
    Claim(
        system="sana-sprint", title="guidance as a live input: obedience", source=_SPRINT,
        published="Guidance is an input, trained at several scales (4 to 5); no figure of its "
                  "effect in the abstract.",
        compared="The same weights at guidance 4 against 2, in two evaluations; the card has 3.",
        comparisons=(
            _C(figure="alignment", first=at_guidance("sana-sprint", 4), expected="above",
               second=at_guidance("sana-sprint", 2)),
            _C(figure="style", first=at_guidance("sana-sprint", 4), expected="above",
               second=at_guidance("sana-sprint", 2)),
            _C(figure="object", first=at_guidance("sana-sprint", 4), expected="above",
               second=at_guidance("sana-sprint", 2)),
        ),
    ),
    Claim(
        system="sana-sprint", title="guidance as a live input: diversity", source=_SPRINT,
        published="None of the paper's: guidance that works costs diversity.",
        compared="As above; more repeats mean less diversity.",
        comparisons=(
            _C(figure="repeats", first=at_guidance("sana-sprint", 4), expected="above",
               second=at_guidance("sana-sprint", 2)),
            *_wider(at_guidance("sana-sprint", 2), at_guidance("sana-sprint", 4))[:2],
            _wider(at_guidance("sana-sprint", 2), at_guidance("sana-sprint", 4))[3],
        ),
    ),
    Claim(
        system="sana-sprint", title="one to four steps for twenty", source=_SPRINT,
        published="FID 7.59 and GenEval 0.74 in one step, 0.1 s an image of 1024 pixels on an "
                  "H100.",
        compared="Two evaluations against the teacher's 24: is alignment kept within 5 points?",
        comparisons=(
            _no_loss("alignment", "sana-sprint", "teacher"),
            _no_loss("object", "sana-sprint", "teacher"),
            _C(figure="nfe", first="sana-sprint", expected="below", second=1.0),
        ),
    ),
    Claim(
        system="lora-distill", title="less time, same images",
        source="https://arxiv.org/abs/2312.06899",
        published="Inference 40 % shorter and memory halved, quality and alignment kept.",
        compared="CPU time against the teacher's in the same process; memory is not measured.",
        comparisons=(
            _C(figure="time", first="lora-distill", expected="below", second=1.0),
            _C(figure="nfe", first="lora-distill", expected="below", second=1.0),
            _no_loss("alignment", "lora-distill", "teacher"),
            _no_loss("recall", "lora-distill", "teacher"),
        ),
    ),
    Claim(
        system="agd", title="half the evaluations at equal quality", source=_AGD,
        published="FID as good as with guidance or better, in half the evaluations, with some "
                  "2 % more parameters.",
        compared="Against the guided teacher: is alignment kept within 5 points?",
        comparisons=(
            _no_loss("alignment", "agd", "teacher"),
            _no_loss("object", "agd", "teacher"),
            _no_loss("recall", "agd", "teacher"),
            _C(figure="nfe", first="agd", expected="below", second=1.0),
            _C(figure="time", first="agd", expected="below", second=1.0),
        ),
    ),
    Claim(
        system="agd", title="guidance stays alive", source=_AGD,
        published="The scale is an input of the adapter and can be chosen at run time.",
        compared="The same weights at guidance 5 and 3 against 1.",
        comparisons=tuple(
            _C(figure=figure, first=at_guidance("agd", scale), expected="above",
               second=at_guidance("agd", 1))
            for scale in (5, 3) for figure in ("style", "object")
        ),
    ),
)  # fmt: skip

SYSTEMS = tuple(dict.fromkeys(claim.system for claim in CLAIMS))

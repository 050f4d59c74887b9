"""Fine-tune a target on a few captioned pictures: what mimicry and those who guard from it share.

The loss of a picture, pictures to keep, a LoRA that can be plugged on other models, new tokens in
a tokenizer, and a denoiser trained in whole for a few steps at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from safetybench.distill.views import LORA_MODULES, chosen_parameters, draw

Layers = Literal["attention", "all"]
# Ends of names in diffusers' denoisers (self- and cross-attention) and in CLIP's text encoders.
LAYERS: Mapping[Layers, tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "all": LORA_MODULES,
}
_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
_TEXT_PARTS = ("text_encoder", "text_encoder_2")
_LEGACY_END = 2  # the wrong eos_token_id that old CLIP configurations hold
_CHUNK = 32


class Examples(NamedTuple):
    """Pictures and what they are called.

    latents: (count, channels, h, w), clean; tokens: (count, length) int64, not text states yet,
    since the text encoder may learn.
    """

    latents: Tensor
    tokens: Tensor

    def drawn(self, count: int, rng: torch.Generator) -> Examples:
        """Return `count` of them, drawn with replacement."""
        pick = draw(len(self.latents), count, rng)
        return Examples(self.latents[pick], self.tokens[pick])


@torch.no_grad()
def examples_of(target: Any, images: Tensor, captions: Sequence[str]) -> Examples:
    """Return images (count, 3, height, width) in [0, 1] as latents, captions as tokens."""
    parts = images.to(target.device).split(_CHUNK)
    latents = torch.cat([target.encode(part) for part in parts])
    return Examples(latents, target.tokenize(list(captions)))


@torch.no_grad()
def own_examples(target: Any, captions: Sequence[str], seed: int) -> Examples:
    """Return what the target itself draws for captions: DreamBooth's class images, as latents."""
    tokens = target.tokenize(list(captions))
    seeds = [seed * 100_003 + i for i in range(len(tokens))]
    latents = [
        target.sample_latents(target.embed(ids), target.start_noise(part), seeds=part)
        for ids, part in zip(tokens.split(_CHUNK), _split(seeds), strict=True)
    ]
    return Examples(torch.cat(latents), tokens)


def is_few_step(target: Any) -> bool:
    """Tell whether a target is a distilled student, defined at its sampler's own times alone.

    Published students take 1 to 8 steps; no sampler of an undistilled model takes as few.
    """
    traits = target.traits
    return not traits.has_intermediate_state or (traits.steps <= 8 and traits.guidance <= 1)


def training_times(target: Any) -> Sequence[int]:
    """Return the times to train at: all of them, or a few-step student's own."""
    if is_few_step(target):
        own: Sequence[int] = target.sampler_times
        return own
    return range(target.process.steps)


def drawn_times(target: Any, count: int, rng: torch.Generator) -> Tensor:
    """Return `count` of the times to train at, (count,) int64."""
    times = torch.tensor(training_times(target))
    return times[draw(len(times), count, rng)].to(target.device)


def errors(target: Any, clean: Tensor, text: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the error of the target's own prediction of each picture, (batch,).

    Differentiable in everything. A few-step student's is that of its velocity, which is finite
    where there is no signal. clean, noise: (batch, channels, h, w); text: (batch, length, width);
    t: (batch,) int64.
    """
    noisy = target.process.add(clean, noise, t)
    found, wanted = (_spoken(target, x, noisy, t) for x in (target.x0(noisy, t, text), clean))
    return (found - wanted).square().flatten(1).mean(1)


def _spoken(target: Any, x0: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
    """Return an x0 in the target's own prediction kind."""
    kind = "v_prediction" if is_few_step(target) else target.traits.prediction
    spoken: Tensor = target.process.convert(x0, "sample", kind, noisy, t)
    return spoken


def picture_loss(student: Any, shown: Examples, rng: torch.Generator, tries: int = 1) -> Tensor:
    """Return the mean error of pictures, each at a time and a noise drawn for it; a scalar.

    Differentiable in the student's weights, those of its text encoder with them.
    tries: noises tried for each picture of a few-step student, of which the one is taken whose
    answer is nearest to it (implicit maximum likelihood, Li and Malik 2018,
    https://arxiv.org/abs/1809.09087). With 1, a student that starts from pure noise can learn
    nothing but the mean of all pictures.
    """
    clean, text = shown.latents, student.embed(shown.tokens)
    t = drawn_times(student, len(clean), rng)
    tries = tries if is_few_step(student) else 1
    noise = torch.randn((tries, *clean.shape), generator=rng).to(clean)
    if tries > 1:
        many = clean.repeat(tries, 1, 1, 1), text.repeat(tries, 1, 1), noise.flatten(0, 1)
        with torch.no_grad():
            found = errors(student, *many, t.repeat(tries)).view(tries, -1)
        noise = noise[found.argmin(0), torch.arange(len(clean), device=clean.device)][None]
    return errors(student, clean, text, noise[0], t).mean()


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """What DreamBooth learns and what it keeps.

    shown: the pictures to learn. kept: pictures of the class that `frozen` drew, None for no
    prior preservation; weight: of their loss. batch: pictures of each in a step; tries: see
    `picture_loss`.
    """

    frozen: Any
    shown: Examples
    kept: Examples | None = None
    weight: float = 1.0
    batch: int = 4
    tries: int = 1

    def loss(self, student: Any, rng: torch.Generator) -> Tensor:
        """Return the loss of one step, a scalar."""
        loss = picture_loss(student, self.shown.drawn(self.batch, rng), rng, self.tries)
        if self.kept is None or not self.weight:
            return loss
        kept = self.kept.drawn(self.batch, rng)
        return loss + self.weight * self._kept_loss(student, kept, rng)

    def _kept_loss(self, student: Any, kept: Examples, rng: torch.Generator) -> Tensor:
        """Return the denoising loss of the class pictures, as published.

        A few-step student, which that would blur, is held to what the frozen one answers.
        """
        if not is_few_step(student):
            return picture_loss(student, kept, rng)
        t = drawn_times(student, len(kept.latents), rng)
        noise = torch.randn(kept.latents.shape, generator=rng).to(kept.latents)
        noisy = student.process.add(kept.latents, noise, t)
        answers = []
        for model in (self.frozen, student):
            with torch.set_grad_enabled(model is student):
                x0 = model.x0(noisy, t, model.embed(kept.tokens))
                answers.append(_spoken(student, x0, noisy, t))
        return (answers[1] - answers[0]).square().mean()


# A LoRA: trained on one model, plugged on others of the same architecture


class Lora(NamedTuple):
    """A low-rank change of a target's networks.

    up, down: by part and name of a layer ("unet.mid_block..."), (out, rank) and (rank, in, ...)
    float32, whose product is to be added to its weight.
    """

    up: Mapping[str, Tensor]
    down: Mapping[str, Tensor]


def lora_on(
    target: Any, rank: int, seed: int, layers: Layers = "attention", *, with_text: bool = False
) -> tuple[Any, list[nn.Parameter]]:
    """Return a view of `target` with a trainable float32 LoRA, and the LoRA's weights.

    Hu et al. 2022, https://arxiv.org/abs/2106.09685. The weights under it are shared and frozen,
    in whatever format they have. rank: also the scale, so that the LoRA's factor is 1. layers: of
    the denoiser, "attention" or also its convolutions and feed-forward layers ("all").
    with_text: also on the attention of the text encoders. At first the view answers as `target`.

    Raises:
        ValueError: the rank is not positive, or the layers are unknown.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1 or layers not in LAYERS:
        raise ValueError(
            f"rank must be 1 or more and layers one of {', '.join(LAYERS)}, got {rank} and "
            f"{layers!r}"
        )
    view = copy.copy(target)
    view.nfe, view.digest = 0, ""
    modules = {"unet": LAYERS[layers], **dict.fromkeys(_TEXT_PARTS if with_text else (), _TEXT)}
    learns: list[nn.Parameter] = []
    for part in (part for part in modules if hasattr(target, part)):
        whole = getattr(target, part)
        # The module tree is copied, the weights in it are not.
        own = copy.deepcopy(whole, {id(w): w for w in whole.parameters()})
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            init_lora_weights="gaussian",
            target_modules=list(modules[part]),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject_adapter_in_model(config, own)
        setattr(view, part, own)
        learns += [w for name, w in own.named_parameters() if "lora_" in name]
    for weight in learns:  # in half precision most steps would be rounded away
        weight.data = weight.data.float()
    return view, learns


@torch.no_grad()
def lora_of(view: Any) -> Lora:
    """Return the LoRA of a view that `lora_on` made, as it is now."""
    up, down = {}, {}
    for part in ("unet", *_TEXT_PARTS):
        network = getattr(view, part, None)
        for name, layer in network.named_modules() if network is not None else ():
            for adapter in getattr(layer, "lora_A", {}):
                place = f"{part}.{name}"
                up[place] = (layer.scaling[adapter] * layer.lora_B[adapter].weight).flatten(1)
                down[place] = layer.lora_A[adapter].weight.clone()
    return Lora(up, down)


@torch.no_grad()
def plugged(target: Any, lora: Lora, scale: float = 1.0, name: str | None = None) -> Any:
    """Return a clone of `target` with `scale` times a LoRA added to its weights, plain and frozen.

    target: the model that the LoRA was trained on, or another one of its architecture, such as a
    student of it. The sum is taken in float32, so that bfloat16 weights lose the least.

    Raises:
        ValueError: the target has no such layer, or one of another shape.
    """
    twin = target.clone(name, with_text=any(p.startswith(_TEXT_PARTS) for p in lora.up))
    for place, up in lora.up.items():
        change = torch.tensordot(up, lora.down[place], 1)
        part, _, layer = place.partition(".")
        network = getattr(twin, part, None)
        found = {} if network is None else dict(network.named_modules())
        weight = getattr(found.get(layer), "weight", None)
        if weight is None or weight.shape != change.shape:
            raise ValueError(
                f"the LoRA changes {place!r} of shape {tuple(change.shape)}, which {target.name} "
                "does not have"
            )
        weight.copy_(weight.float() + scale * change.to(weight.device))
    return twin


# New tokens


def with_tokens(target: Any, words: Sequence[str], rows: Tensor) -> tuple[Any, list[int]]:
    """Return a twin that knows new words, each as one token, and their ids.

    Tokenizers and text encoders are copies with more rows; the denoiser and the autoencoder are
    shared. words: without spaces. rows: (words, width), their embeddings; of several text
    encoders, theirs side by side, as in `target.token_table`.

    Raises:
        ValueError: a word is a token already, or has spaces or capital letters.
    """
    from transformers import AddedToken

    known = target.tokenizer.get_vocab()
    for word in words:
        if word in known or word != word.lower().strip() or len(word.split()) != 1:
            raise ValueError(f"a new word must be in lower case and no token yet, got {word!r}")
    twin = copy.copy(target)
    twin.nfe, twin.digest, twin._plain = 0, "", None
    # As it stands in a text: CLIP's lower-casing is not asked, spaces around it are not eaten.
    tokens = [AddedToken(word, normalized=False) for word in words]
    for part in ("tokenizer", "tokenizer_2"):
        if hasattr(target, part):
            setattr(twin, part, copy.deepcopy(getattr(target, part)))
            getattr(twin, part).add_tokens(tokens)
    ids = [int(i) for i in twin.tokenizer.convert_tokens_to_ids(list(words))]
    parts = [part for part in _TEXT_PARTS if hasattr(target, part)]
    widths = [getattr(target, part).get_input_embeddings().weight.shape[1] for part in parts]
    for part, own in zip(parts, rows.split(widths, dim=1), strict=True):
        encoder = copy.deepcopy(getattr(target, part))
        _enlarge(encoder, ids, own, int(twin.tokenizer.eos_token_id))
        setattr(twin, part, encoder.requires_grad_(False))
    return twin, ids


@torch.no_grad()
def _enlarge(encoder: Any, ids: Sequence[int], rows: Tensor, end: int) -> None:
    table = encoder.get_input_embeddings().weight
    size = max(len(table), max(ids) + 1)
    grown = torch.cat([table, table.new_zeros(size - len(table), table.shape[1])])
    grown[list(ids)] = rows.to(grown)
    encoder.set_input_embeddings(nn.Embedding.from_pretrained(grown))
    encoder.config.vocab_size = size
    if encoder.config.eos_token_id == _LEGACY_END:
        # Such encoders look for the end at the largest id, which is a new token's now.
        encoder.config.eos_token_id = end
        for module in encoder.modules():
            if getattr(module, "eos_token_id", None) == _LEGACY_END:
                module.eos_token_id = end


# A denoiser trained in whole, as the surrogates of protections are


class Surrogate:
    """A twin of a target whose denoiser takes plain fine-tuning steps and can be put back.

    dtype: of the weights and of AdamW's steps on them. In float32 the twin keeps whatever it
    learns; in bfloat16 a step below half a unit in the last place changes nothing, which leaves
    most weights of the published codes as they were (lr 5e-7 moves only weights below 1e-4).
    train: which weights, see `safetybench.distill.views.chosen_parameters`.
    """

    def __init__(
        self, target: Any, *, lr: float, train: str = "all", dtype: torch.dtype = torch.float32
    ) -> None:
        self.twin = target.clone()
        self.twin.unet.to(dtype)
        self.weights = chosen_parameters(self.twin.unet, train)
        for weight in self.weights:
            weight.requires_grad_(False)
        self.lr = lr
        self._first = self.state()

    def state(self) -> list[Tensor]:
        """Return a copy of the weights that learn."""
        return [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def restore(self, state: Sequence[Tensor]) -> None:
        """Put weights back that `state` returned."""
        for weight, old in zip(self.weights, state, strict=True):
            weight.copy_(old)

    def learn(self, loss: Callable[[Any], Tensor], steps: int) -> None:
        """Take steps of AdamW, whose moments start anew; loss: of the twin, a scalar."""
        adam = torch.optim.AdamW(self.weights, lr=self.lr, weight_decay=1e-2)
        for _ in range(steps):
            for weight in self.weights:
                weight.requires_grad_(True)
            with torch.enable_grad():
                found = torch.autograd.grad(loss(self.twin), self.weights, allow_unused=True)
            for weight, gradient in zip(self.weights, found, strict=True):
                weight.grad = gradient
                weight.requires_grad_(False)  # an attack differentiates to its image alone
            adam.step()
            adam.zero_grad(set_to_none=True)

    @property
    def changed(self) -> float:
        """The share of weights that are not what they were at first."""
        pairs = zip(self.weights, self._first, strict=True)
        moved = sum(int((weight != old).sum()) for weight, old in pairs)
        return moved / sum(weight.numel() for weight in self.weights)


def _split(seeds: list[int]) -> list[list[int]]:
    return [seeds[i : i + _CHUNK] for i in range(0, len(seeds), _CHUNK)]

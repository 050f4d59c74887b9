"""What is done to a person's own images: protecting, editing, cleaning and learning them.

Images are (batch, 3, height, width) float32 in [0, 1] everywhere, epsilon is in the same units.
A mask is (batch, 1, height, width) float, 1 where an editor draws anew and 0 where it keeps what
is there, as in diffusers. Authors import these nouns from contracts.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from safetybench.component import Budget, Component
from safetybench.protocols import EditsImages, EncodesImages, GeneratesImages

if TYPE_CHECKING:  # torch takes two seconds to import, and `safetybench --help` needs none of it
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Album:
    """Images with what goes with each of them; all fields are equally long.

    images: (batch, 3, height, width) in [0, 1]. ids: stable keys, of which all randomness of an
    image is made, so that it never depends on its batch. captions: what the owner calls each
    image, "" for nothing. masks: (batch, 1, height, width), the area an editor is expected to
    draw anew (1), None where nobody knows one.
    """

    images: Tensor
    ids: tuple[str, ...]
    captions: tuple[str, ...] = ()
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        if not self.captions:
            object.__setattr__(self, "captions", ("",) * count)
        if len(self.ids) != count or len(set(self.ids)) != count:
            raise ValueError(f"ids must be {count} different keys, got {len(set(self.ids))}")
        if len(self.captions) != count:
            raise ValueError(f"captions must be one an image, {count}, got {len(self.captions)}")
        if self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(
                f"images must be (batch, 3, height, width), got {tuple(self.images.shape)}"
            )
        wanted = (count, 1, *self.images.shape[2:])
        if self.masks is not None and tuple(self.masks.shape) != wanted:
            raise ValueError(f"masks must be {wanted}, got {tuple(self.masks.shape)}")

    def __len__(self) -> int:
        return len(self.ids)

    def with_images(self, images: Tensor) -> Self:
        """Return the same album with other pixels."""
        return replace(self, images=images)

    def only(self, start: int, stop: int) -> Self:
        """Return the images from `start` up to `stop`, with what goes with them."""
        return replace(
            self,
            images=self.images[start:stop],
            ids=self.ids[start:stop],
            captions=self.captions[start:stop],
            masks=None if self.masks is None else self.masks[start:stop],
        )


class ImageProtection(Component):
    """A defense that changes images inside a ball so that models fail to edit or to learn them.

    needs: protocols of the model it is made on (the surrogate), which is what its maker must
    hold; sees: the same in words. uses_masks: it cannot do without the area to be redrawn.
    is_control: True for noise that no model had a hand in. published: epsilon and steps as the
    authors released them, in [0, 1] pixel units.
    """

    needs: ClassVar[tuple[type, ...]] = (EncodesImages,)
    sees: ClassVar[str] = "weights of the surrogate"
    uses_masks: ClassVar[bool] = False
    is_control: ClassVar[bool] = False
    published: ClassVar[Budget]

    @abstractmethod
    def protect(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Tensor:
        """Return protected images, (batch, 3, height, width) in [0, 1], float32.

        target: the surrogate, not changed. The answer lies within `budget.epsilon` (Linf) of
        `album.images`; budget.steps: gradient steps; an image's randomness comes from
        `budget.seed` and its id alone. report: called with the step and the mean loss.
        """
        ...


class ImageEdit(Component):
    """A way to change a given image by a text, which protection is to stop.

    needs: protocols of the editing model; uses_masks: it redraws a given area alone.
    """

    needs: ClassVar[tuple[type, ...]] = (EditsImages,)
    sees: ClassVar[str] = "outputs"
    uses_masks: ClassVar[bool] = False

    @abstractmethod
    def edit(
        self, target: Any, album: Album, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Tensor:
        """Return edited images, (batch, 3, height, width) in [0, 1]; one prompt and seed each."""
        ...


class Purifier(Component):
    """Removes protective noise before an edit: 8-bit images in, 8-bit images out.

    needs: protocols of the model it cleans with, () for one that needs none.
    """

    needs: ClassVar[tuple[type, ...]] = ()
    sees: ClassVar[str] = "the protected image"

    @abstractmethod
    def purify(self, target: Any, album: Album, seed: int = 0) -> Tensor:
        """Return cleaned images of the same size in [0, 1], whole multiples of 1/255.

        target: the model it cleans with, None where `needs` is empty. An image's randomness
        comes from `seed` and its id alone.
        """
        ...


class Mimicry(Component):
    """Learns a subject or a style from a few images, so that a model draws it for any text."""

    needs: ClassVar[tuple[type, ...]] = (GeneratesImages, EncodesImages)
    sees: ClassVar[str] = "weights, which it trains"

    @abstractmethod
    def learn(self, target: Any, album: Album, budget: Budget, report: Any = None) -> Any:
        """Return a target that knows `word` as the album's subject; the one given stays.

        budget.steps: training steps. The answer is drawn from with prompts that hold `word`.
        """
        ...

    @property
    @abstractmethod
    def word(self) -> str:
        """Return the text that stands for what was learnt."""
        ...

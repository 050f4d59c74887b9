"""What every purifier in the registry keeps to; a new file there is tested by being there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Album, Purifier, SafetyBenchError
from safetybench.pixels import is_rounded
from safetybench.targets.text_to_image import TextToImage
from tests.targets import tiny_target

FOLDER = "attacks/images/purifiers/"
NAMES = [name for name in registry.names("attacks") if name.startswith(FOLDER)]
SIZES = [(16, 16), (17, 23), (40, 6), (1, 1)]
SMALL = {"rounds": 2, "tile": 8, "smooth": 2, "guide": 2}
WRONG: dict[str, list[dict[str, Any]]] = {
    "adverse_cleaner": [{"smooth": -1}, {"guide": -1}, {"smooth": 0, "guide": 0}],
    "blur": [{"sigma": 0.0}, {"sigma": float("nan")}],
    "crop_resize": [{"share": 1.0}, {"share": -0.1}, {"down_up": 0.0}, {"share": 0.0}],
    "diffpure": [{"strength": 0.0}, {"strength": 1.1}],
    "gaussian_noise": [{"sigma": 0.0}, {"sigma": 1.1}],
    "gridpure": [{"tile": 0}, {"rounds": 0}, {"keep": 1.0}, {"keep": -0.1}, {"strength": 0.0}],
    "jpeg": [{"quality": 0}, {"quality": 101}],
    "student_purifier": [{"strength": 0.0}, {"strength": 1.1}],
}


@pytest.fixture(scope="module")
def model() -> TextToImage:
    return tiny_target("velocity")


def shrunk(name: str) -> Purifier:
    """Return the purifier at its smallest, where it has something to shrink."""
    known = getattr(registry.load(name), "__dataclass_fields__", {})
    found = registry.create(name, {k: value for k, value in SMALL.items() if k in known})
    assert isinstance(found, Purifier)
    return found


def album(height: int = 16, width: int = 16, count: int = 3) -> Album:
    """Return images of random levels, black and white among them."""
    rng = torch.Generator().manual_seed(height * width)
    levels = torch.randint(0, 256, (count, 3, height, width), generator=rng)
    levels[0, 0, 0, 0], levels[-1, -1, -1, -1] = 0, 255
    return Album(images=levels / 255, ids=tuple(f"picture-{i}" for i in range(count)))


def purified(name: str, model: Any, given: Album, seed: int = 0) -> Tensor:
    """Purify with the model, or with none where none is asked for."""
    purifier = shrunk(name)
    return purifier.purify(model if purifier.needs else None, given, seed)


def test_there_are_purifiers() -> None:
    assert {name.removeprefix(FOLDER) for name in NAMES} >= set(WRONG)


@pytest.mark.parametrize("name", NAMES)
def test_a_purifier_says_what_it_needs_and_sees(name: str, model: TextToImage) -> None:
    purifier = registry.load(name)
    assert issubclass(purifier, Purifier)
    assert purifier.source.startswith("https://")
    assert registry.describe(name).source == purifier.source
    assert "protected image" in purifier.sees
    assert all(isinstance(model, protocol) for protocol in purifier.needs)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_eight_bit_in_eight_bit_out_of_the_same_size(
    name: str, size: tuple[int, int], model: TextToImage
) -> None:
    given = album(*size)
    found = purified(name, model, given)
    assert found.shape == given.images.shape
    assert found.dtype == torch.float32
    assert not found.is_inference()
    assert not found.requires_grad
    assert is_rounded(found)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_album_stays_one(name: str, model: TextToImage) -> None:
    given = Album(images=torch.zeros(0, 3, 16, 16), ids=())
    assert purified(name, model, given).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_hangs_on_seed_and_id_alone(name: str, model: TextToImage) -> None:
    given = album(17, 23)
    before = given.images.clone()
    weights = {key: value.clone() for key, value in model.unet.state_dict().items()}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = purified(name, model, given)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(purified(name, model, given), first)
    assert torch.equal(given.images, before)
    assert all(torch.equal(value, model.unet.state_dict()[k]) for k, value in weights.items())

    renamed = Album(images=given.images, ids=("x", "y", "z"))
    others = [purified(name, model, given, seed=1), purified(name, model, renamed)]
    is_random = "nothing random" not in str(shrunk(name).purify.__doc__)
    assert all(torch.equal(other, first) != is_random for other in others)


@pytest.mark.parametrize("name", NAMES)
def test_no_image_knows_its_batch(name: str, model: TextToImage) -> None:
    given = album(17, 23)
    together = purified(name, model, given)
    alone = torch.cat([purified(name, model, given.only(i, i + 1)) for i in range(3)])
    apart = ((together - alone) * 255).abs()
    # Networks round otherwise in batches, and a value at the edge of a level may fall over it.
    assert apart.max() < 1.5
    assert (apart > 0.5).float().mean() < (0.001 if shrunk(name).needs else 1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [(f"{FOLDER}{name}", options) for name, some in WRONG.items() for options in some],
    ids=str,
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(SafetyBenchError, match=r"must be .*, got "):
        registry.create(name, options)

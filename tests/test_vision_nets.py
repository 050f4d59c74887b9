"""Networks: their sizes, their seeds, and sub-networks that answer as they do inside the whole."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench.contracts import SafetyBenchError
from safetybench.vision import nets
from safetybench.vision.nets import Choice, Dynamic, build, choices, member

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)]
NAMES = ["cnn", "mlp", "residual", "dynamic"]


def count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def pictures(shape: tuple[int, int, int] = (1, 28, 28)) -> Tensor:
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))


def dynamic(seed: int = 0, shape: tuple[int, int, int] = (1, 28, 28), **told: Any) -> Dynamic:
    net = build({"net": "dynamic", "width": 8, **told}, classes=5, shape=shape, seed=seed)
    assert isinstance(net, Dynamic)
    with torch.no_grad():  # no zeros, which hide a wrong cut
        for weight in net.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return net.eval()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_networks_take_every_shape(name: str, shape: tuple[int, int, int]) -> None:
    net = build({"net": name}, classes=7, shape=shape, seed=0)
    assert net(pictures(shape)).shape == (3, 7)


def test_sizes_are_those_that_are_told() -> None:
    assert count(build({"net": "cnn"}, classes=10, shape=(1, 28, 28), seed=0)) == 28_938
    large = {"net": "cnn", "width": 32, "hidden": 128}
    assert count(build(large, classes=10, shape=(1, 28, 28), seed=0)) == 454_922
    assert count(build({"net": "mlp", "layers": 0}, classes=2, shape=(1, 4, 4), seed=0)) == 34
    sides = [build({"net": "cnn"}, classes=10, shape=(3, s, s), seed=0) for s in (32, 64)]
    assert [sum(isinstance(m, nn.Conv2d) for m in net.modules()) for net in sides] == [2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_the_weights_and_the_global_generator_stays(name: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (
        build({"net": name}, classes=3, shape=(1, 8, 8), seed=seed).state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_blocks_start_as_the_identity() -> None:
    told = {"net": "residual", "depth": 2}
    deep = build(told, classes=3, shape=(1, 8, 8), seed=0)
    plain = build({**told, "depth": 0}, classes=3, shape=(1, 8, 8), seed=0)
    plain.load_state_dict({k: v for k, v in deep.state_dict().items() if k in plain.state_dict()})
    torch.testing.assert_close(deep(pictures((1, 8, 8))), plain(pictures((1, 8, 8))))


def test_a_sub_network_standing_alone_answers_bit_by_bit_as_inside() -> None:
    for shape in ((1, 28, 28), (3, 8, 8)):
        net = dynamic(shape=shape)
        images = pictures(shape)
        found = choices(net)
        assert len(found) == len(set(found)) == 27
        for choice in found:
            alone = member(net, choice)
            assert torch.equal(alone(images), net.at(choice)(images)), choice
            assert member(net, choice._asdict())(images).equal(alone(images))
        assert torch.equal(net(images), net.at(net.largest)(images))
        sizes = [count(member(net, choice)) for choice in found]
        assert min(sizes) == sizes[0] < sizes[-1] == max(sizes) == count(net)


def test_a_sub_network_has_the_shape_of_a_fresh_plain_one() -> None:
    net = dynamic()
    choice = Choice(0.75, 1, 0.5)
    fresh = build({"net": "residual", **net.sizes(choice)}, classes=5, shape=(1, 28, 28), seed=0)
    shapes = {key: value.shape for key, value in fresh.state_dict().items()}
    alone = member(net, choice)
    assert {key: value.shape for key, value in alone.state_dict().items()} == shapes
    fresh.load_state_dict(alone.state_dict())
    assert torch.equal(fresh(pictures()), alone(pictures()))


def test_a_sub_network_is_a_copy_and_inside_it_is_shared() -> None:
    net = dynamic()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    alone = member(net, net.smallest)
    for weight in alone.parameters():
        assert weight.requires_grad
        weight.data.zero_()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    net.at(net.smallest)(pictures()).sum().backward()
    stem = net.shared.get_parameter("stem.weight").grad
    assert stem is not None
    assert stem[:4].any()  # half of 8 channels
    assert not stem[4:].any()
    fine = net.shared.get_parameter("fine0.into.weight").grad
    assert fine is None or not fine.any()  # the smallest has no blocks


def test_a_dynamic_network_is_copied_and_pickled() -> None:
    net = dynamic()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin.at(Choice(0.5, 1, 0.25))(pictures()),
                           net.at(Choice(0.5, 1, 0.25))(pictures()))  # fmt: skip


def test_own_offers_are_taken() -> None:
    net = dynamic(widths=[0.25, 1], depths=[1], expands=[1.0])
    assert choices(net) == [Choice(0.25, 1, 1.0), Choice(1, 1, 1.0)]
    assert count(member(net, {"width": 0.25})) < count(member(net, {}))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"net": "cn"}, "there is no network 'cn'; did you mean 'cnn'? the networks are cnn, mlp"),
        ({}, "there is no network None; the networks are"),
        ({"net": "cnn", "widht": 1}, "network 'cnn' has no option 'widht'; did you mean 'width'?"),
        ({"net": "mlp", "layers": -1}, "layers must be a whole number of 0 or more, got -1"),
        ({"net": "mlp", "hidden": 0}, "hidden must be a whole number of 1 or more, got 0"),
        ({"net": "cnn", "width": 1.5}, "width must be a whole number of 1 or more, got 1.5"),
        ({"net": "dynamic", "widths": 1}, "widths must be a row of numbers, got 1"),
        ({"net": "dynamic", "depths": [0.5]}, "depths must be a row of whole numbers, got [0.5]"),
        ({"net": "dynamic", "expands": [2, 1]}, "expands must grow and start above 0, got [2, 1]"),
        ({"net": "dynamic", "depths": [-1]}, "depths must grow and start at 0 or above, got [-1]"),
    ],
)
def test_what_there_is_none_of_is_told(told: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as caught:
        nets.check(told)
    assert str(caught.value).startswith(message)
    with pytest.raises(SafetyBenchError):
        build(told, classes=2, shape=(1, 8, 8), seed=0)


def test_a_choice_that_is_not_offered_is_told() -> None:
    net = dynamic()
    with pytest.raises(SafetyBenchError, match=r"^width must be one of 0.5, 0.75, 1.0, got 0.6$"):
        member(net, {"width": 0.6})
    with pytest.raises(SafetyBenchError, match=r"has no 'widths'; did you mean 'width'\?"):
        member(net, {"widths": 0.5})
    plain = build({"net": "cnn"}, classes=5, shape=(1, 8, 8), seed=0)
    for ask in (choices, lambda net: member(net, {})):
        with pytest.raises(SafetyBenchError, match="holds sub-networks, got Sequential"):
            ask(plain)

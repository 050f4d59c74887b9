"""How alike two images are, one figure for each pair of a batch.

Images are (batch, 3, height, width) float in [0, 1]; answers are (batch,), never a mean over the
batch. psnr, ssim and ms_ssim are higher for likeness, lpips is lower.
"""

from safetybench.metrics.similarity._directional import directional
from safetybench.metrics.similarity._lpips import lpips
from safetybench.metrics.similarity._pixels import ms_ssim, psnr, ssim

__all__ = ["directional", "lpips", "ms_ssim", "psnr", "ssim"]

"""How weak an autoencoder and how noisy a denoiser's gradient is, as protections meet them."""

from safetybench.metrics.encoder._weakness import amplification, gradient_snr

__all__ = ["amplification", "gradient_snr"]

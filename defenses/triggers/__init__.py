"""Detection of text triggers in text-to-image models."""

"""Defenses that rewrite a prompt before the model reads it."""

"""Defenses that change an image so that generative models fail to edit or to learn it."""

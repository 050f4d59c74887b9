"""Defenses that look for poisoned samples in instruction data; one file, one filter."""

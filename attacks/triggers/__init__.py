"""Backdoors: who plants them in a model, and who wakes them."""

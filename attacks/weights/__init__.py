"""Attacks that train an open model's weights until it shows what it forgot."""

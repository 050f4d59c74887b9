"""Attacks that learn a person's subject or style from a few images of theirs."""

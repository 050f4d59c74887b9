"""Purifiers: what removes protective noise from an image before it is edited or learnt."""

"""Classifiers: their data and networks, how they are trained and how attacks are held to a ball."""

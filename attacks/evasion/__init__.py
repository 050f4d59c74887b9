"""Attacks that change an image until a classifier misreads it; one file, one attack."""

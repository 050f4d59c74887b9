"""Distillation methods of language models; one file, one method."""

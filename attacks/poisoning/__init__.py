"""Attacks on the instruction data of language models; one file, one attack."""

"""Attacks on language models, whose labels are tokens: one file each."""

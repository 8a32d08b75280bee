"""Studies: the paper's experiments and our own, each made by one command."""

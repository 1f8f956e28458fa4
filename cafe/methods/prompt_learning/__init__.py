"""Learned prompts: CoOp (arXiv 2109.01134) and CPL (arXiv 2210.10362)."""

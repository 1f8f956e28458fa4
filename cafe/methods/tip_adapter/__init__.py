"""Tip-Adapter and Tip-Adapter-F (Zhang et al., arXiv 2111.03930)."""

"""Meta-Adapter (Song et al., arXiv 2311.03774): trained once, used without a fit."""

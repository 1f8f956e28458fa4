"""CLIP-Adapter (Gao et al., arXiv 2110.04544), its ratio ensemble and its counterfactuals."""

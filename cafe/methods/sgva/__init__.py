"""SgVA-CLIP (Peng et al., arXiv 2211.16191)."""

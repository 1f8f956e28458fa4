"""The linear probe (Radford et al., arXiv 2103.00020) and its logistic regression."""

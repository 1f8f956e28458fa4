"""A grid over ratio, bottleneck and learning rate, trained side by side."""

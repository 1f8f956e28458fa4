"""`nano`, the small CLIP that ships with cafe: configuration, weights and model card."""

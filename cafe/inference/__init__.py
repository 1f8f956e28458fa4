"""A saved head at work: prediction on new images, export, model cards."""

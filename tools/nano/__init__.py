"""What `train_nano.py` is made of: fonts, captions, images."""

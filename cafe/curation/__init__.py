"""Look, correct, repeat: what is wrong with labelled images, and putting it right."""

"""`cafe serve`: a model on a web page of this machine: look, correct, train again."""

"""One file per method, under one contract."""

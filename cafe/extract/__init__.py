"""Dataset x encoder -> store: decode, encode, resume, import; the slow side, run once."""

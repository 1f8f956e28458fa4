"""Files that ship with cafe."""

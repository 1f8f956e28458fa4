"""Methods x shots x seeds under one validation protocol."""

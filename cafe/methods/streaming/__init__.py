"""Test-time adaptation: a head's answers, changed by the images that it is asked about."""

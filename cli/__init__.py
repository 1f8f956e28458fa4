"""The `cafe` command: words on the command line, translated into library calls."""

"""`python -m cafe_cli`."""

from .main import main

main()

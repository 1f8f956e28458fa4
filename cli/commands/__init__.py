"""One module per command; `cafe_cli.main` puts them together."""

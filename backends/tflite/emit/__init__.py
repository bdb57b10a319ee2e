"""How each family of legal ops is emitted: rows of the table in `..table`, one file per family."""

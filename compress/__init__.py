if not __name__.startswith("anyir."):
    raise ImportError("import this package as `anyir.compress`, not from inside the repository's folder")

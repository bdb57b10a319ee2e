if not __name__.startswith("anyir."):
    raise ImportError("import this package as `anyir.driver`, not from inside the repository's folder")

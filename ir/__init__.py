if not __name__.startswith("anyir."):
    raise ImportError("import this package as `anyir.ir`, not from inside the repository's folder")

if not __name__.startswith("anyir."):
    raise ImportError("import this package as `anyir.kernels`, not from inside the repository's folder")

"""The ONNX file format: what its reader and its writer share. No IR graph in here; `onnx` itself is imported lazily."""

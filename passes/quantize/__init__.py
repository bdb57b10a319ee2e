"""Quantisation as graph surgery: parameters, where quantize and dequantize stand, and how they fold. Needs no data."""

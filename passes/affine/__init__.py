"""Scales, shifts and batch norm into the weights around them; products that merge."""

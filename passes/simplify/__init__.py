"""Canonical forms, shape arithmetic and algebra."""

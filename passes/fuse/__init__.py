"""Rich ops out of what exporters wrote out."""

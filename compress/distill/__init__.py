"""Distillation: a student module learns from a teacher, in torch, and comes back into the IR."""

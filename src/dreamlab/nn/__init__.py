"""Blocks that agents share: plain mathematics on tensors."""

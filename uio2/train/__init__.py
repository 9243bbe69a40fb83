"""Training: a jitted, sharded step; exactly resumable loops; checkpoints that are published whole."""

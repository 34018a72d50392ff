"""Training: engines, checkpoints, the trainer, evaluation."""

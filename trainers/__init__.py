"""Fine-tuning on Ray Train: data, model, strategy, loop, checkpoint, evaluation."""

"""What a backbone is worth on the target task: features, kNN, linear probe, fine-tuning, metrics, results."""

"""One loop and one step for every task: parts, optimizers, stopping, telemetry."""

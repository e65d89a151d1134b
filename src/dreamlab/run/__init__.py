"""Running: the one trainer, the driver, replay on disk, checkpoints."""

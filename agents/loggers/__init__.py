"""Where a training run's figures are sent besides its own files."""

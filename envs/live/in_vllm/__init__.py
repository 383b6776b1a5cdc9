"""What runs inside vLLM's own Python, which has nothing of ours: this folder alone is on its path there."""

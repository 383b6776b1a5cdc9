"""The compiled emulation of a cluster of vLLM V1 engines."""

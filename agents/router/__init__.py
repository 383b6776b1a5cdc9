"""A router that serves a policy: an OpenAI-compatible proxy in front of vLLM instances."""

from tests.agents.heuristics.conftest import observe

__all__ = ["observe"]

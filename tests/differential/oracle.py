"""Our end of the oracle: one process of vLLM that answers any number of scenarios."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from .scenario import Scenario, rows, tokens

SCRIPT = Path(__file__).parent / "vllm_oracle.py"


class Oracle:
    """Starts vLLM once; ``send`` a scenario, then ``receive`` its rows (one may be on its way)."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.vllm_version: str = self.receive()["vllm"]

    def send(self, scenario: Scenario) -> None:
        """Ask for the rows of a scenario; its ``at_step`` are taken by the letter."""
        requests = []
        for number, row in enumerate(rows(scenario)):
            content = tokens(number, row)
            requests.append(
                {
                    "at_step": row.at_step,
                    "arrived": row.arrived,
                    "priority": row.priority,
                    "prompt": content[: row.num_prompt],
                    "answer": content[row.num_prompt :],
                }
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"options": scenario["options"], "requests": requests}) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The answer to what was sent."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the oracle ended with status {self._process.wait()}: see its error above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, scenario: Scenario) -> dict[str, Any]:
        """Send and receive."""
        self.send(scenario)
        return self.receive()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

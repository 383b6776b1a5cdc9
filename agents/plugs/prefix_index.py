"""Which prefixes were sent to one instance: a plain Python twin of ``envs.prefix_index``.

At most ``capacity`` keys are kept, those not sent for longest are forgotten first. A prompt's keys are put in
tail first, so that of one prefix the deepest key is always the least recently used: if a key is here, so are
all before it, and the deepest can be bisected.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence


class PrefixIndex:
    """The prefixes that one instance is thought to have.

    Args:
        tokens_per_key: Tokens that each key of a prompt stands for.
        capacity: Keys remembered.
        max_age_s: A prefix not sent again for so long is taken to be evicted.
    """

    def __init__(self, tokens_per_key: int, capacity: int, max_age_s: float) -> None:
        if tokens_per_key < 1 or capacity < 1 or not max_age_s > 0:
            raise ValueError(
                f"tokens_per_key ({tokens_per_key}) and prefix_capacity ({capacity}) must be at least 1 and"
                f" prefix_max_age_s ({max_age_s}) above 0"
            )
        self.tokens_per_key, self.capacity, self.max_age_s = tokens_per_key, capacity, max_age_s
        self._used_at_s: OrderedDict[Hashable, float] = OrderedDict()  # key -> instant, oldest use first

    def __len__(self) -> int:
        return len(self._used_at_s)

    def sent(self, keys: Sequence[Hashable], now_s: float) -> None:
        """Remember that a prompt of these chained keys was sent."""
        used_at_s = self._used_at_s
        for place in range(min(len(keys), self.capacity) - 1, -1, -1):
            key = keys[place]
            if key in used_at_s:
                used_at_s.move_to_end(key)
            elif len(used_at_s) == self.capacity:
                used_at_s.popitem(last=False)
            used_at_s[key] = now_s

    def match(self, keys: Sequence[Hashable], now_s: float) -> tuple[int, float]:
        """Tokens of a prompt thought to be cached, and when the deepest of them was last sent.

        Without a match that instant is -inf.
        """
        low, high, last_s = 0, len(keys), float("-inf")
        oldest_s = now_s - self.max_age_s
        while low < high:
            middle = (low + high + 1) // 2
            used_at_s = self._used_at_s.get(keys[middle - 1])
            if used_at_s is not None and used_at_s >= oldest_s:
                low, last_s = middle, used_at_s
            else:
                high = middle - 1
        return low * self.tokens_per_key, last_s

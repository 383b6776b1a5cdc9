import numpy as np

from envs.workload import generator
from envs.workload.drawn import Drawn

SETTINGS = {"num_generated": 60, "prompt_median": 2000, "start": "fresh", "num_requests": 40}


def requests(stream, seed):
    stream.reset(np.random.default_rng(seed))
    popped = []
    while not stream.exhausted:
        assert stream.next_arrival_at_s() >= (popped[-1].arrived_at_s if popped else 0.0)
        popped.append(stream.pop())
    return [(each.arrived_at_s, each.num_prompt_tokens, each.num_output_tokens) for each in popped]


def test_seeds_have_no_request_in_common_and_come_again():
    stream = generator.workload(seed=5, **SETTINGS)
    assert isinstance(stream, Drawn)
    streams = [requests(stream, seed) for seed in (0, 1, 0)]
    assert len(streams[0]) == stream.num_requests == 40
    assert streams[0] == streams[2]
    assert not set(streams[0]) & set(streams[1])


def test_another_seed_of_the_traces_gives_other_requests_to_every_seed():
    one, other = (generator.workload(seed=seed, **SETTINGS) for seed in (1, 2))
    assert not {row for seed in range(5) for row in requests(one, seed)} & {
        row for seed in range(5) for row in requests(other, seed)
    }


def test_what_is_drawn_is_what_the_generator_draws_of_that_seed():
    stream = generator.workload(seed=3, **SETTINGS)
    number = 1 + int(np.random.default_rng(7).integers(1 << 62))
    trace = generator.generate(
        np.random.default_rng((3, number)),
        num_requests=60,
        prompt=generator.LogNormal(2000, 1.074, 891, 126195),
    )
    prompts = [row[1] for row in requests(stream, 7)]
    assert prompts == trace.num_prompt_tokens[:40].tolist()
    assert "drawn anew for each seed, from seed 3" in stream.notes

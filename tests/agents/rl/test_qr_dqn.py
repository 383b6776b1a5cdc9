import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.rl.qr_dqn import num_worst
from envs.encoded import EncodedObservation
from envs.observation import PREFIX_CACHING
from envs.toy import Masked, ToyRouting

from .toy_agents import learn, make_agent

BEST_OF = {1.0: "gamble", 0.1: "safe"}


class Gamble(ToyRouting):
    """Two instances, told apart by one column: a safe one costs 1, the other 0, but once in ten times 6.

    The gamble is better in the mean, 0.6, and worse in the worst tenth, 6.
    """

    def __init__(self):
        super().__init__(num_instances=2, max_instances=3, num_decisions=32)

    @property
    def optimal_return(self):
        return -0.6 * self.num_decisions

    def optimal_action(self):
        return self._gamble

    def _begin(self):
        self._gamble = int(self.np_random.integers(2))

    def _route(self, instance, is_last):
        cost = 1.0
        if instance == self._gamble:
            cost = 6.0 if self.np_random.random() < 0.1 else 0.0
        self._begin()
        return -cost, []

    def _observation(self):
        observation = self._blank(1000)
        observation["instances"][self._gamble, PREFIX_CACHING] = 1.0
        return observation


@pytest.mark.parametrize("frac_worst", BEST_OF)
def test_the_worst_share_decides_whether_it_gambles(frac_worst, tmp_path):
    agent = make_agent("qr_dqn", gamma=0.0, frac_worst=frac_worst, reward_scale=1.0, num_quantiles=20)
    learn(agent, Gamble, tmp_path, total=4000, every=4000)
    env, policy = Gamble(), agent.policy(tmp_path)
    observation, _ = env.reset(seed=1000)
    chosen = set()
    for _ in range(31):
        instance = policy.act(observation).instance
        chosen.add("gamble" if instance == env.optimal_action() else "safe")
        observation, *_ = env.step(instance)
    assert chosen == {BEST_OF[frac_worst]}


def make_model(**changes):
    state = torch.get_rng_state()
    envs = DummyVecEnv([lambda: EncodedObservation(Masked(max_instances=6))] * 4)
    model = make_agent("qr_dqn", **changes).build(envs, 1000)
    torch.set_rng_state(state)
    envs.seed(0)
    return model, model.policy.obs_to_tensor(envs.reset())[0]


@pytest.mark.parametrize(("frac_worst", "num"), [(1.0, 10), (0.2, 2), (0.0, 1)])
def test_values_are_the_mean_of_the_worst_quantiles(frac_worst, num):
    model, observation = make_model(frac_worst=frac_worst)
    values, quantiles = model.q_net(observation), model.q_net.quantiles(observation)
    assert quantiles.shape == (4, 6, 10)
    valid = observation["mask"] == 1
    torch.testing.assert_close(values[valid], quantiles[valid][:, :num].mean(dim=1))
    assert (values[~valid] == -1e8).all()


def test_targets_are_those_of_the_instance_that_is_best_next_and_valid():
    model, following = make_model(gamma=0.5, frac_worst=0.3)
    rewards, dones = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    batch = type("Batch", (), {"next_observations": following, "rewards": rewards, "dones": dones})
    targets = model._targets(batch)
    quantiles = model.q_net_target.quantiles(following)
    for row in range(4):
        values = [
            quantiles[row, instance, :3].mean().item() if following["mask"][row, instance] else -np.inf
            for instance in range(6)
        ]
        expected = rewards[row] + 0.5 * (1 - dones[row]) * quantiles[row, int(np.argmax(values))]
        torch.testing.assert_close(targets[row], expected)


def test_quantiles_of_what_was_drawn_are_learned(tmp_path):
    agent = make_agent("qr_dqn", gamma=0.0, reward_scale=1.0, num_quantiles=20)
    learn(agent, Gamble, tmp_path, total=4000, every=4000)
    network, env = agent.network(tmp_path), EncodedObservation(Gamble())
    observation, _ = env.reset(seed=0)
    tensors = (torch.from_numpy(observation[name])[None] for name in ("instances", "mask"))
    quantiles = network(*tensors)[0].detach().numpy()
    gamble = env.unwrapped.optimal_action()
    np.testing.assert_allclose(quantiles[1 - gamble], -1.0, atol=0.25)
    assert quantiles[gamble, 0] < -4.0  # at 1/40 it is -6
    assert quantiles[gamble, 5:].min() > -0.5  # from 11/40 on it is 0


def test_a_scored_network_is_exact_for_any_share(tmp_path):
    learn(make_agent("qr_dqn"), Masked, tmp_path, total=512)
    observation, _ = Masked().reset(seed=0)
    network = make_agent("qr_dqn").network(tmp_path)
    encoded, _ = EncodedObservation(Masked()).reset(seed=0)
    tensors = [torch.from_numpy(encoded[name])[None] for name in ("instances", "mask")]
    valid = observation["mask"] == 1
    for frac_worst in (0.1, 0.35, 1.0):
        scores = make_agent("qr_dqn", frac_worst=frac_worst).policy(tmp_path).act(observation).scores
        expected = network(*tensors)[0, valid, : num_worst(10, frac_worst)].mean(dim=1).detach()
        np.testing.assert_allclose(scores[valid], expected, rtol=1e-4, atol=1e-5)


def test_the_share_is_rounded_up_to_whole_quantiles():
    cases = ((50, 1.0, 50), (50, 0.02, 1), (50, 0.021, 2), (10, 0.3, 3), (50, 0.0, 1))
    assert [num_worst(count, frac) for count, frac, _ in cases] == [expected for *_, expected in cases]


@pytest.mark.parametrize(("argument", "value"), [("num_quantiles", 1), ("frac_worst", 1.5)])
def test_settings_out_of_range_are_named(argument, value):
    with pytest.raises(ValueError, match=f"{argument} is {value}"):
        make_agent("qr_dqn", **{argument: value})

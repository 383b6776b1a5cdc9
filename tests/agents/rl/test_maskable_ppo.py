import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.rl.checkpoint import read_tensors
from envs.encoded import EncodedObservation
from envs.toy import Masked

from .toy_agents import learn, make_agent


def test_scores_are_the_logits_of_the_distribution_that_was_trained(tmp_path):
    agent = make_agent("maskable_ppo")
    learn(agent, Masked, tmp_path, total=512)
    policy = agent.policy(tmp_path)

    raw, env = Masked(), EncodedObservation(Masked())
    model = agent.build(DummyVecEnv([lambda: EncodedObservation(Masked())] * agent.num_envs), 512)
    agent.load_state(model, read_tensors(tmp_path / "checkpoint.pt")["state"]["model"])
    observation, _ = raw.reset(seed=0)
    encoded, _ = env.reset(seed=0)
    tensors, _ = model.policy.obs_to_tensor(encoded)
    distribution = model.policy.get_distribution(tensors, env.action_masks()).distribution
    scores = torch.from_numpy(policy.act(observation).scores)
    np.testing.assert_allclose(
        torch.softmax(scores, 0).numpy(), distribution.probs[0].detach().numpy(), atol=1e-5
    )


def test_a_batch_that_does_not_divide_a_rollout_is_refused():
    with pytest.raises(ValueError, match="batch_size is 48"):
        make_agent("maskable_ppo", batch_size=48)

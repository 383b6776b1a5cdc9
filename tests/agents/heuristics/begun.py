"""A rule at the beginning of an episode, and the outcomes that it is told."""

import numpy as np

from envs.feedback import Feedback


def begun(policy, seed=0):
    policy.reset(np.random.default_rng(seed))
    return policy


def chances(policy, observation):
    return begun(policy).act(observation).propensities.tolist()


def ended(instance=0, at_s=0.0, prompt=100, output=10, ttft_s=0.5, e2e_s=1.0, tenant=0, failure=""):
    """The outcome of a request that ended at an instant."""
    return Feedback(
        decision_id=0,
        propensity=1.0,
        instance=instance,
        num_prompt_tokens=prompt,
        num_output_tokens=output,
        num_cached_tokens=0,
        num_preemptions=0,
        arrived_at_s=at_s - e2e_s,
        ttft_s=ttft_s,
        tpot_s=0.05,
        e2e_s=e2e_s,
        slo_met=True,
        tenant=tenant,
        failure=failure,
    )

"""Off-policy evaluation: what a policy would have cost, from what another one decided and recorded."""

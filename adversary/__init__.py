"""Who disturbs: threat models and attackers. Nothing in the other packages imports this one."""

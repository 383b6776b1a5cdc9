"""From any policy to a rule that a person can read: a shallow tree, or a formula with units."""

"""Many runs side by side: which policy is best in which world."""

"""Training a victim: the hot loop of poisoning, privacy and hardening."""

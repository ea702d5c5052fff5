"""What tests share: toy shards, tiny networks, archives, child processes."""

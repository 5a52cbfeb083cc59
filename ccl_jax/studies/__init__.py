"""Studies: measurements that the README shows."""

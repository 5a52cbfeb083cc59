"""The decoder and its weights. Knows nothing of codes, tasks or data.

Array letters, used in every shape of this project: B rows, T tokens (queries), S keys,
N query heads, K key/value heads, H head dim, D model, F feed-forward, V vocabulary, L layers.
"""

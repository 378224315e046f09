"""Training: rows → token shards → a loop on Ray Train with DeepSpeed → a Hugging Face folder.

stage.py ─ examples.py, shards.py (rows → tokens)   ─ launch.py (Ray Train)
                                                        └ loop.py: plan.py → batches.py →
                                                          policy.py → losses → engine.py
                                                        ├ checkpoints.py, history.py
                                                        └ export.py (→ model/)
"""

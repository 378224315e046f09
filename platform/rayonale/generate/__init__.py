"""Generation with vLLM: the only package that imports it.

settings.py   what a user chooses: engine options, sampling
engine.py     one vLLM engine in this process, stepped by one thread for all callers
replica.py    the Ray actor around an engine; tokenises, generates, decodes
rewards.py    replicas that give a response its reward instead of writing one
pool.py       the running engines of a recipe, shared by its stages
client.py     calls to a pool that survive a replica's death and find the row that caused it
units.py      the input cut into units, each with one output file: what makes a pass resumable
stream.py     the pass: Parquet rows → units over Ray Data → one file a unit
finish.py     the units split into rows and rejects

rows ─ units ─► client ──messages──► replica: tokens ─► engine (continuous batching)
                  ◄──text, tokens, finish reason── one Parquet file a unit, written atomically
"""

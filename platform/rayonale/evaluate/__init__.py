"""Comparing policies: win rates by judges and reward functions, log-prob margins, statistics.

samples of policy A ─┐                ┌─ scorer (tinyworld's rubric …): exact
samples of policy B ─┼─ win_rates.py ─┤
       …             ┘                └─ LLM judge, both orders (verdicts.py reads it)
                             │
                             └─ statistics.py: per-prompt means, bootstrap, paired test

held-out pairs + policies + reference ─ margins.py ─ Δ of every pair under every policy
"""

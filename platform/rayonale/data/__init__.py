"""Preference data: from raw files to checked, identified rows, and from rows to tokens.

sources.py ──► formats/ ──► checks.py ──► ids.py ──► splits.py ──► rows/ and rejects/
raw records    one function  a bad row     stable id   by hash of     (ingest.py runs them)
with file:line a layout      has a reason              the prompt

mixing.py   weighted interleaving of sources
tokens.py   the one place that renders and tokenises conversations
"""

"""Lineage: what identifies code, settings and data, and the MLflow runs that record it.

fingerprints.py   hashes of settings, source modules, prompts and files
tracking.py       one MLflow run a stage, under one run a recipe
ancestry.py       a model's history, read back from the runs
"""

"""Lineage: every result can be traced back to its rows, code, settings and prompts.

fingerprints.py      hashes of values, code, prompts, files and folders
tracking.py          one MLflow run per stage, under one run per execution of a recipe
metric_writer.py     metrics reach MLflow without making the training loop wait
registered_models.py names and versions of trained models
ancestry.py          a model or a run → the tree of everything it was made from
submitted_code.py    tells when a job's code is not the code that a node would import
"""

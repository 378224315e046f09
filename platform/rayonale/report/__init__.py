"""The page a person reads: one self-contained HTML file from the outputs of a recipe's stages.

    stages (and what they were made from) ─ evidence.py ─┬─ sections/*.py ─┐
                                                         └─ claims.py ─────┴─ page.py ─► report.html
                                                                                         report.json

A section is one file in `sections/` and one line in its registry: it looks at the evidence and
returns what it shows, or None when there is nothing of its kind.
"""

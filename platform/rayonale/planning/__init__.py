"""What a recipe will take, before it is launched, and what it took, beside it.

    checked recipe ─ walk.py ─► each stage's own estimate (`<package>/estimates.py`)
                                  │ rows, texts      flow.py    what the stages before leave behind
                                  │ tokens of texts  sizes.py
                                  └ rates            rates.py   given, finished, probed, assumed
    runs/<recipe>/estimates.json ─ ledger.py ─► beside the actual numbers: command, report, MLflow

Stages that are done and unchanged cost nothing. A stage without an estimate says so; it is never
counted as zero. Nothing here, and no module called `estimates`, can change what a stage computes,
so edits of them void no figures.
"""

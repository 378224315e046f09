"""Enrichments: what language models add to rows. One file a stage.

rationales.py   why the chosen response is preferred        pairs → + rationales
grades.py       four grades of each rationale, and a filter  pairs → pairs
samples.py      a policy's own answers to the prompts        rows → + responses
reference.py    log-probabilities under the reference        pairs → + ref_*_logprob

generation.py   settings and the pass that the stages with engines share
transcript.py   conversations as the plain text that prompt templates show
"""

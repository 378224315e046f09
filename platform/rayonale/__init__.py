"""rayonale: align language models from preferences.

Data flow: pairs → enrich → train → evaluate → report, with lineage under all of it.
"""

__version__ = "0.1.0"

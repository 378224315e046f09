"""The pass of `stream.py` through an OpenAI-compatible endpoint instead of engines."""

from __future__ import annotations

from dataclasses import asdict

from rayonale.generate.endpoint import EndpointClient, EndpointOptions
from rayonale.generate.stream import PassReport, Task, generate_here


def generate(
    rows: str,
    work: str,
    task: Task,
    options: EndpointOptions,
    *,
    identity: str,
    name: str,
) -> PassReport:
    """Run a task over a folder of rows; a killed run repeats at most `options.unit_rows` rows.

    What this run spent (requests, retries, tokens, cost) is in the report.

    Raises:
        EndpointRefused: 401, 403 or 404.
        BudgetSpent: `max_cost` is reached; the units that are done stay.
    """
    client = EndpointClient(options)
    try:
        report = generate_here(
            rows, work, task, client, identity=identity, name=name, unit_rows=options.unit_rows
        )
    finally:
        client.close()
    report.spent = {
        name: value for name, value in asdict(client.usage).items() if name != "prompt_tokens"
    }
    return report

"""Command lines: `jobs/<job>.py --flags` for one stage, with the settings that recipes use.

Every stage kind has the same shape of command: one flag per role that it reads (a folder), one
per setting (nested settings as `--engine.replicas 2`, lists and unions as JSON), `--out` for the
folder that runs are kept in, and `--name`. The flags are made from the stage's settings model, so
a recipe and a command line cannot drift apart.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, create_model
from pydantic_settings import BaseSettings, CliApp, SettingsError

from rayonale import cluster, execution, stages
from rayonale.lineage import tracking


def set_up_logging() -> None:
    """Log to the terminal, a line an event; libraries only from warnings on."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.getLogger("rayonale").setLevel(logging.INFO)


def stage_main(kind: str, argv: Sequence[str] | None = None) -> None:
    """Entry point of a job that runs one stage: parse flags, run, print where the output is."""
    set_up_logging()
    try:
        arguments = list(sys.argv[1:] if argv is None else argv)
        output = run_from_flags(kind, arguments)
    except ValidationError as error:
        told = "\n".join(
            f"  --{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()
        )
        sys.exit(f"{error.error_count()} problem(s) with the flags (see --help)\n{told}")
    except (ValueError, SettingsError) as error:
        sys.exit(f"error: {error}")
    print(output.uri)


def run_from_flags(kind: str, arguments: Sequence[str]) -> stages.StageOutput:
    """Run one stage from command-line flags.

    Raises:
        ValidationError, ValueError: bad flags or inputs.
    """
    from rayonale.generate.pool import Engines

    stage = stages.get(kind)
    command = CliApp.run(_flags(stage), cli_args=list(arguments))
    values = command.model_dump()
    out, name = values.pop("out"), values.pop("name") or kind
    inputs: dict[str, Any] = {}
    for role, reads in stage.reads.items():
        given = values.pop(f"reads_{role}")
        if given:
            inputs[role] = (
                [execution.open_output(u) for u in given]
                if reads.many
                else execution.open_output(given)
            )
    settings = stage.settings.model_validate(
        {field: values[field] for field in command.model_fields_set if field in values}
    )
    problems = stage.validate(settings)
    problems += [
        f"--{role} and --reads_{role} exclude each other: give one"
        for role in inputs
        if role in settings.model_fields_set
    ]
    if problems:
        raise ValueError("; ".join(problems))
    cluster.connect()
    out = cluster.lasting(out)
    with tracking.Tracker(name, out, source="", overrides=()) as tracker, Engines() as engines:
        return stages.run_stage(
            stage, settings, name=name, inputs=inputs, folder=out, engines=engines, tracker=tracker
        )


def _flags(stage: stages.Stage) -> type[BaseSettings]:
    """A settings model whose fields are the stage's settings, its roles, and `out`, `name`."""
    fields: dict[str, Any] = {
        name: (entry.annotation, entry) for name, entry in stage.settings.model_fields.items()
    }
    for role, reads in stage.reads.items():
        told = f"folder(s) to read as {role}: {reads.what}"
        if reads.many:
            fields[f"reads_{role}"] = (
                (list[str], Field([], description=told))
                if reads.optional
                else (list[str], Field(..., description=told))
            )
        elif reads.optional:
            fields[f"reads_{role}"] = (str | None, Field(None, description=told))
        else:
            fields[f"reads_{role}"] = (str, Field(..., description=told))
    fields["out"] = (str, Field("runs", description="folder or URI that runs are kept in"))
    fields["name"] = (str | None, Field(None, description="name of this run (default: the kind)"))

    class Flags(BaseSettings):
        model_config = ConfigDict(  # type: ignore[assignment,typeddict-unknown-key]
            extra="forbid",
            protected_namespaces=(),
            cli_kebab_case=False,
        )

    return create_model(
        f"{stage.kind}_flags",
        __base__=Flags,
        __doc__=(stage.run.__doc__ or "").split("\n")[0],
        **fields,
    )

"""What a deployment file says under `args`: the models that are served, keys and limits.

A file of two applications::

    applications:
      - name: policies
        import_path: serve.policies:app
        route_prefix: /
        args:
          policies: [{name: assistant, model: models:/dpo@champion}]
          oracle: {application: oracle}
          access: {keys_file: keys.txt}
      - name: oracle
        import_path: serve.oracle:app
        route_prefix: /oracle
        args: {oracle: {model: models:/reward/3}, access: {keys_file: keys.txt}}
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rayonale.evaluate.verdict_layouts import Layout
from rayonale.generate.settings import EngineOptions
from rayonale.stages import Settings

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Scale(Settings):
    """Replicas that come and go with the load.

    Attributes:
        min_replicas, max_replicas: at all times.
        target_ongoing_requests: that one replica is meant to have at a time.
    """

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=64, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Scale:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} > max_replicas {self.max_replicas}")
        return self


class Deployed(Settings):
    """A model that is run by replicas.

    Attributes:
        model: folder, hub name, `models:/name/version` or `models:/name@alias`.
        engine: how one replica runs it; `replicas` is their number unless `scale` is given.
        scale: replicas by load.
        follow_s: seconds between two looks at the registry's alias; 0 looks only at the start.
        pickled_weights: also load weights that are not safetensors (they may run code on loading).
    """

    model: str = Field(min_length=1)
    engine: EngineOptions = EngineOptions()
    scale: Scale | None = None
    follow_s: float = Field(default=5, ge=0)
    pickled_weights: bool = False

    @model_validator(mode="after")
    def _one_number_of_replicas(self) -> Deployed:
        if self.scale is not None and "replicas" in self.engine.model_fields_set:
            raise ValueError("scale and engine.replicas exclude each other: give one")
        return self


class Challenger(Settings):
    """A second model that gets a share of a policy's requests, on replicas of its own.

    Attributes:
        share: of the requests; a request with `user` always goes the same way.
    """

    model: str = Field(min_length=1)
    share: float = Field(gt=0, lt=1)


class Adapter(Settings):
    """A LoRA adapter (peft's format) on a policy's weights: request `model` is its name.

    Attributes:
        path: the adapter's folder, or a model folder of ours that has one in `adapter/`.
    """

    name: str = Field(pattern=NAME)
    path: str = Field(min_length=1)


class Judging(Settings):
    """How a judge is asked: as in the `judge` stage that its training data comes from.

    Attributes:
        pointwise, pairwise: templates for one response and for two.
        layout: how its judgements end.
        best, halves: scores go from 1 to `best`; halves are read too.
        ties: the pairwise template offers a tie.
    """

    pointwise: str = "judge_rubric"
    pairwise: str = "judge_rubric_pairwise"
    layout: Layout = "result"
    best: int = Field(default=5, ge=2, le=100)
    halves: bool = False
    ties: bool = False


class Policy(Deployed):
    """A policy.

    Attributes:
        name: what requests call it.
        judge: answer `/v1/judge` with it, too.
        adapters: served beside it by the same engine; loaded when first asked for.
        max_lora_rank: largest rank among them.
        stream_interval_ms: a stream is sent what has come at most this often; the first token is
            sent at once.
        stream_message_ms: what one such message may take of the service: with n streams each sends
            at most every n times this.
    """

    name: str = Field(pattern=NAME)
    judge: Judging | None = None
    challenger: Challenger | None = None
    adapters: tuple[Adapter, ...] = ()
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256] = 16
    stream_interval_ms: float = Field(default=50, ge=0)
    stream_message_ms: float = Field(default=8, ge=0)

    @model_validator(mode="after")
    def _adapters_stay_on_their_weights(self) -> Policy:
        if self.adapters and self.model.startswith("models:/") and "@" in self.model:
            raise ValueError(
                f"adapters belong to one version's weights, and {self.model} may become another; "
                "name a version (models:/name/3)"
            )
        return self


class ServedOracle(Deployed):
    """A reward model.

    Attributes:
        name: what answers call it.
        backend: `auto` asks vLLM, and Transformers where vLLM cannot load the model.
        rendered_text: serve the endpoints that take conversations as rendered text, in which
            control strings are control tokens (OpenRLHF's `/get_reward`; `/pooling` and
            `/classify` with text). Only for clients that are trusted with that.
    """

    name: str = Field(default="oracle", pattern=NAME)
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    rendered_text: bool = False


class OracleApplication(Settings):
    """The oracle of another application on the same cluster."""

    application: str = Field(pattern=NAME)


class Access(Settings):
    """Who may call.

    Attributes:
        keys_file: file of hashed keys (`jobs/manage_api_keys.py` writes it); read again when it
            changes.
        keys_env: environment variable with the same lines, separated by commas.
        open_on_loopback: no key is asked of callers on this machine's loopback address; nobody
            else is let in.
    """

    keys_file: str | None = None
    keys_env: str | None = None
    open_on_loopback: bool = False

    @model_validator(mode="after")
    def _one_way_in(self) -> Access:
        keys = self.keys_file is not None or self.keys_env is not None
        if keys == self.open_on_loopback:
            raise ValueError(
                "expected keys (keys_file, keys_env) or open_on_loopback: true, and not both"
            )
        return self


class Limits(Settings):
    """What one request, and all at a time, may ask for.

    Attributes:
        body_bytes: of one request.
        samples: largest `n` and `best_of`.
        conversations: in one request for rewards.
        in_flight: requests worked on or waiting at a time; more get 429.
        timeout_s: seconds until a request is given up with 504.
    """

    body_bytes: int = Field(default=1_000_000, ge=1_000)
    samples: int = Field(default=16, ge=1)
    conversations: int = Field(default=256, ge=1)
    in_flight: int = Field(default=512, ge=1)
    timeout_s: float = Field(default=600, gt=0)


class Sampled(Settings):
    """Requests that are kept, with their answers, as rows for later judging.

    Attributes:
        folder: local path or URI; Parquet in the layout of ranked lists.
        share: of the requests.
    """

    folder: str
    share: float = Field(default=1.0, gt=0, le=1)


class Service(Settings):
    """Arguments of an application.

    Attributes:
        policies: served by this application.
        oracle: served by this application, or by another one.
        registry: MLflow's tracking URI; the default is MLFLOW_TRACKING_URI, or the SQLite file of
            `./runs` where the application is built.
        picks: folder or URI for the pairs picked on the page at `/`.
        sampled: keep a share of the requests.
        endpoints: processes that take requests; `limits.in_flight` holds for each.
    """

    policies: tuple[Policy, ...] = ()
    oracle: ServedOracle | OracleApplication | None = None
    access: Access
    limits: Limits = Limits()
    registry: str | None = None
    picks: str | None = None
    sampled: Sampled | None = None
    endpoints: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Service:
        names = [policy.name for policy in self.policies]
        names += [adapter.name for policy in self.policies for adapter in policy.adapters]
        if len(set(names)) != len(names):
            raise ValueError(f"names of policies and adapters repeat: {sorted(names)}")
        # Deployments and models are told apart by these names.
        taken = {"endpoint", "oracle", *(f"{p.name}-challenger" for p in self.policies)}
        if isinstance(self.oracle, ServedOracle):
            taken.add(self.oracle.name)
        if found := sorted(taken & set(names)):
            raise ValueError(f"policies and adapters cannot be called {', '.join(found)} here")
        if not self.policies and not isinstance(self.oracle, ServedOracle):
            raise ValueError("nothing to serve: expected policies, or an oracle with a model")
        return self

"""Trained policies and oracles behind an endpoint.

    client ─► haproxy.py    in front, in a local session
           ─► boundary.py   keys, limits, errors, access log, metrics
           ─► api.py        the endpoint's schema (OpenAPI)
           ─► chat.py · scoring.py · picks.py      what each endpoint does
           ─► routing.py    which deployment; once more when its replica died
           ·  presence.py   whether it is still there
           ─► policy.py     an engine that answers   ┐ Ray Serve deployments
              oracle.py     an engine that scores    ┘
                 ├ relay.py         how a stream's pieces come back
                 └ served_model.py   follows a registry alias

`deployments.py` puts these together from `settings.py`; the applications are in the top-level
folder `serve/`.
"""

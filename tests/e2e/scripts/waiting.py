"""A user's script: launch, wait with the client's own patience (a look each 30 s), say what came out."""

import sys

from flytekit.configuration import Config
from flytekit.remote import FlyteRemote

name, version, endpoint = sys.argv[1:]
remote = FlyteRemote(
    Config.for_endpoint(endpoint, insecure=True) if endpoint else Config.for_sandbox(),
    default_project="flytesnacks",
    default_domain="development",
)
plan = remote.fetch_launch_plan(name=name, version=version)
execution = remote.execute(plan, inputs={"numbers": [1, 2, 3], "label": "abc"}, wait=True)
sys.stdout.write(f"{execution.is_done} {execution.outputs['total']} {execution.outputs['label']}\n")

"""Workflows over every kind of task that needs no cluster."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pandas as pd
from connectors import AddTwo, OfNoType, SlowJob  # type: ignore[import-not-found]
from flytekit import ContainerTask, Resources, Secret, current_context, kwtypes, task, workflow
from flytekit.core.base_task import TaskMetadata
from flytekit.core.task import Echo
from flytekit.exceptions.user import FlyteRecoverableException
from flytekit.extras.sqlite3.task import SQLite3Config, SQLite3Task
from flytekit.extras.tasks.shell import OutputLocation, ShellTask
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from pods import InPod  # type: ignore[import-not-found]

echo = Echo(name="plugged.echo", inputs={"a": int, "b": str})
slow_job = SlowJob(name="plugged.slow_job", metadata=TaskMetadata(retries=1))
add_two = AddTwo(name="plugged.add_two")
of_no_type = OfNoType(name="plugged.of_no_type")


@workflow
def echoed(a: int, b: str) -> tuple[int, str]:
    return echo(a=a, b=b)


@workflow
def slow(folder: str, order: str) -> str:
    return slow_job(folder=folder, order=order)


@workflow
def added(a: int, b: int) -> int:
    return add_two(a=a, b=b)


@workflow
def nobody(a: int) -> int:
    return of_no_type(a=a)


raw = ContainerTask(
    name="plugged.raw",
    image="example.org/has-no-environment:v1",
    input_data_dir="/var/inputs",
    output_data_dir="/var/outputs",
    inputs=kwtypes(number=int, ratio=float, flag=bool, text=str, file=FlyteFile, many=list[int]),
    outputs=kwtypes(
        number=int, ratio=float, flag=bool, text=str, file=FlyteFile, folder=FlyteDirectory, listing=str, again=str
    ),
    metadata_format=ContainerTask.MetadataFormat.JSON,
    command=[
        "sh",
        "-ec",
        "cd /var/inputs; for name in number ratio flag text; do cp $name /var/outputs/$name; done; "
        "tr a-z A-Z < file > /var/outputs/file; mkdir /var/outputs/folder; cp many/* /var/outputs/folder/; "
        "ls | sort | tr '\\n' ' ' > /var/outputs/listing; "
        'python -c \'import json; print(json.load(open("inputs.json"))["many"])\' > /var/outputs/again.txt',
    ],
)


@task
def written(text: str) -> FlyteFile:
    path = Path(current_context().working_directory) / "given.txt"
    path.write_text(text)
    return FlyteFile(str(path))


@workflow
def through_files(
    number: int, ratio: float, flag: bool, text: str, many: list[int]
) -> tuple[int, float, bool, str, FlyteFile, FlyteDirectory, str, str]:
    return raw(number=number, ratio=ratio, flag=flag, text=text, file=written(text=text), many=many)


templated = ContainerTask(
    name="plugged.templated",
    image="example.org/has-no-environment:v1",
    inputs=kwtypes(a=int, b=str),
    outputs=kwtypes(said=str),
    output_data_dir="/var/outputs",
    command=["sh", "-c", 'printf %s "$0 and $1" > /var/outputs/said', "{{.inputs.a}}", "{{.inputs.b}}"],
)


@workflow
def by_template(a: int, b: str) -> str:
    return templated(a=a, b=b)


def complaining(name: str, *command: str, **outputs: type) -> ContainerTask:
    return ContainerTask(
        name=f"plugged.{name}",
        image="example.org/has-no-environment:v1",
        outputs=outputs,
        output_data_dir="/var/outputs",
        command=list(command),
    )


wordless = complaining("wordless", "true", number=int)
wrong = complaining("wrong", "sh", "-c", "echo many > /var/outputs/number", number=int)
saying = complaining("saying", "sh", "-c", "echo 'no luck today' > /var/outputs/_ERROR", number=int)
absent = complaining("absent", "./no-such-command", number=int)
exiting = complaining("exiting", "sh", "-c", "echo last words; exit 3", number=int)


@workflow
def raw_without_output() -> int:
    return wordless()


@workflow
def raw_with_wrong_output() -> int:
    return wrong()


@workflow
def raw_that_says_why() -> int:
    return saying()


@workflow
def raw_without_command() -> int:
    return absent()


@workflow
def raw_that_exits() -> int:
    return exiting()


def podded(a: int) -> str:
    return f"{a} {os.environ['FROM_THE_POD']}"


podded = InPod(podded)


@workflow
def in_a_pod(a: int) -> str:
    return podded(a=a)


shelled = ShellTask(
    name="plugged.shelled",
    script="set -e; echo {inputs.text} > '{outputs.out}'; tr a-z A-Z < '{inputs.file}' >> '{outputs.out}'",
    inputs=kwtypes(text=str, file=FlyteFile),
    output_locs=[OutputLocation(var="out", var_type=FlyteFile, location="out.txt")],
)


@task
def content(file: FlyteFile) -> str:
    with open(file) as opened:
        return opened.read()


@workflow
def by_shell(text: str) -> str:
    return content(file=shelled(text=text, file=written(text=text)))


@task(requests=Resources(mem="100Mi"), limits=Resources(mem="100Mi"))
def eater(mib: int) -> int:
    eaten = bytearray(mib << 20)
    time.sleep(30)
    return len(eaten)


@workflow
def eating(mib: int) -> int:
    return eater(mib=mib)


def growing(mib: int) -> int:
    eaten = bytearray(mib << 20)
    time.sleep(2.5)
    return len(eaten) >> 20


growing = InPod(
    growing,
    {"aerodrome.retry.memory-factor": "8", "aerodrome.retry.memory-limit": "1Gi"},
    metadata=TaskMetadata(retries=2),
    limits=Resources(mem="200Mi"),
)


@workflow
def grown(mib: int) -> int:
    return growing(mib=mib)


def unlucky(marker: str) -> int:
    with open(marker, "a") as file:
        file.write(f"{time.time()}\n")
    if Path(marker).read_text().count("\n") < 3:
        raise FlyteRecoverableException("no luck")
    return 1


unlucky = InPod(
    unlucky, {"aerodrome.retry.backoff": "1s", "aerodrome.retry.jitter": "0"}, metadata=TaskMetadata(retries=2)
)


@workflow
def patient(marker: str) -> int:
    return unlucky(marker=marker)


def misconfigured() -> int:
    return 1


misconfigured = InPod(misconfigured, {"aerodrome.retry.backoff": "soon"})


@workflow
def with_a_bad_policy() -> int:
    return misconfigured()


SECRETS = [
    Secret(group="db", key="password", mount_requirement=Secret.MountType.FILE, env_var="DB_FILE"),
    Secret(group="api", key="token", mount_requirement=Secret.MountType.ENV_VAR, env_var="API_TOKEN"),
]


@task(secret_requests=SECRETS)
def keeper() -> list[int]:
    """The lengths of what it is given, by each way there is."""
    secrets = current_context().secrets
    ways = [
        secrets.get("db", "password"),
        Path(os.environ["DB_FILE"]).read_text(),
        secrets.get("api", "token"),
        os.environ["API_TOKEN"],
    ]
    return [len(each) for each in ways]


@workflow
def keeping() -> list[int]:
    return keeper()


@task(secret_requests=SECRETS)
def teller() -> int:
    password = current_context().secrets.get("db", "password")
    if password:
        raise ValueError(f"the password is {password}")
    return 1


@workflow
def telling() -> int:
    return teller()


@task(secret_requests=[Secret(group="db", key="nowhere")])
def lacking() -> int:
    return 1


@workflow
def without_secret() -> int:
    return lacking()


lengths = ContainerTask(
    name="plugged.lengths",
    image="example.org/has-no-environment:v1",
    outputs=kwtypes(length=int),
    output_data_dir="/var/outputs",
    secret_requests=SECRETS,
    command=["sh", "-c", 'printf %s "$_FSEC_API_TOKEN" | wc -c > /var/outputs/length'],
)


@workflow
def raw_keeping() -> int:
    return lengths()


query = SQLite3Task(
    name="plugged.query",
    query_template="select sum(n) as total from numbers where n > {{ .inputs.least }}",
    inputs=kwtypes(least=int),
    task_config=SQLite3Config(uri=os.environ.get("NUMBERS_DB", "/nonexistent.db")),
)


@task
def total(results: pd.DataFrame) -> int:
    return int(results["total"][0])


@workflow
def by_sql(least: int) -> int:
    return total(results=query(least=least))

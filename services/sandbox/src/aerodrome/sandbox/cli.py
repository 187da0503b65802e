"""The `aerodrome` command: the whole platform on one machine, and each service by itself.

Heavy modules are imported by the commands that need them, so that `--help` and `status` answer at once.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aerodrome.sandbox import instance
from aerodrome.sandbox.beginning import is_loopback, surely_embedded
from aerodrome.stdlib.errors import AerodromeError

if TYPE_CHECKING:
    from aerodrome.sandbox.config import SandboxConfig

_READY_FD = "AERODROME_READY_FD"
_START_TIMEOUT = 120.0
_STOP_TIMEOUT = 60.0

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where everything is kept: database, store, logs.  [default: ~/.local/share/aerodrome]",
)
config_option = click.option(
    "--config",
    "config_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="A YAML configuration file; may be repeated, later ones win.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aerodrome-sandbox", prog_name="aerodrome")
def main() -> None:
    """Aerodrome runs Flyte workflows: unmodified flytekit, one process, no containers.

    \b
    Examples:
      aerodrome up                            start the platform on http://localhost:30080
      aerodrome up --detach                   the same in the background; returns when it is ready
      pyflyte run --remote wf.py my_workflow  run a workflow on it
      aerodrome down                          stop it; the next `up` goes on where it was
    """


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), default=30080, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--insecure-bind",
    is_flag=True,
    help="Permit an address beyond this machine although nobody is asked who they are: "
    "whoever reaches the port can run commands here.",
)
@data_dir_option
@config_option
@click.option(
    "--python",
    type=click.Path(exists=True, path_type=Path),
    default=None,
    help="Python (or root of its environment) that runs tasks.  [default: the one that runs this command]",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="NAME=PATH",
    help="Run tasks of the container image NAME with the Python at PATH; may be repeated.",
)
@click.option(
    "--secrets-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Directory of the secrets that tasks may ask for: a file <group>/<key> for each, of mode 0600.  "
    "[default: only FLYTE_SECRET_<GROUP>_<KEY> of the environment]",
)
@click.option("--detach", is_flag=True, help="Run in the background; return once it is ready.")
def up(
    port: int,
    host: str,
    insecure_bind: bool,
    data_dir: Path | None,
    config_files: tuple[Path, ...],
    python: Path | None,
    images: tuple[str, ...],
    secrets_dir: Path | None,
    detach: bool,
) -> None:
    """Start the platform.

    \b
    Examples:
      aerodrome up
      aerodrome up --port 0 --data-dir ./scratch --detach
      aerodrome up --python ./venv/bin/python --image analysis=/opt/analysis/bin/python
    """
    _check_host(host, insecure_bind)
    where = (data_dir or instance.default_data_dir()).absolute()
    environments = dict(_image(text) for text in images)
    if detach:
        _detach(where, [argument for argument in sys.argv[1:] if argument != "--detach"])
        return
    _run(_up(where, host, port, config_files, python, environments, secrets_dir))


@main.command()
@data_dir_option
def down(data_dir: Path | None) -> None:
    """Stop the platform; what runs is taken up again by the next `up` on the same directory."""
    where = (data_dir or instance.default_data_dir()).absolute()
    running = instance.find(where)
    if running is None:
        click.echo(f"Nothing runs on {where}.")
        return
    os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT
    while time.monotonic() < deadline:
        if not instance.is_alive(running):  # by then it has let go of the directory, the port and the database
            click.echo("Stopped.")
            return
        time.sleep(0.05)
    raise click.ClickException(f"process {running.pid} has not ended within {_STOP_TIMEOUT:g} s; see {_log(where)}")


@main.command()
@data_dir_option
def status(data_dir: Path | None) -> None:
    """Say whether the platform runs, and where.  Exits with 3 if it does not."""
    where = (data_dir or instance.default_data_dir()).absolute()
    running = instance.find(where)
    if running is None:
        click.echo(f"not running (data directory {where})")
        sys.exit(3)
    state = "ready" if running.ready else "starting"
    click.echo(f"{state}: http://{running.endpoint}/console, process {running.pid}, data directory {where}")


@main.group()
def admin() -> None:
    """The control plane by itself."""


@admin.command("serve")
@config_option
def admin_serve(config_files: tuple[Path, ...]) -> None:
    """Serve registration, executions and the journal (gRPC 8089, HTTP 8088 by default)."""
    from aerodrome.admin.serving import serve

    _run(serve(config_files, {}))


@main.group()
def propeller() -> None:
    """The data plane by itself."""


@propeller.command("serve")
@config_option
def propeller_serve(config_files: tuple[Path, ...]) -> None:
    """Take executions from the control plane and run them (health and metrics on 10254 by default).

    It needs `admin.endpoint`, the storage of the control plane, and `propeller.runtime.directory`.  SIGTERM gives
    running tasks `propeller.runtime.grace` to end.
    """
    from aerodrome.propeller.main import serve

    _run(serve(config_files, {}))


@main.group()
def datacatalog() -> None:
    """The data catalog by itself."""


@datacatalog.command("serve")
@config_option
def datacatalog_serve(config_files: tuple[Path, ...]) -> None:
    """Keep results of tasks, and say who computes them (gRPC 8091 by default)."""
    from aerodrome.datacatalog.main import serve

    _run(serve(config_files, {}))


@main.group()
def scheduler() -> None:
    """The scheduler by itself."""


@scheduler.command("serve")
@config_option
def scheduler_serve(config_files: tuple[Path, ...]) -> None:
    """Fire launch plans on time (gRPC 8092 by default); any number of replicas, of which one leads."""
    from aerodrome.scheduler.main import serve

    _run(serve(config_files, {}))


@main.group()
def notifier() -> None:
    """The notifier by itself."""


@notifier.command("serve")
@config_option
def notifier_serve(config_files: tuple[Path, ...]) -> None:
    """Tell people and systems how executions ended (gRPC 8093 by default); any number of replicas."""
    from aerodrome.notifier.main import serve

    _run(serve(config_files, {}))


async def _up(
    data_dir: Path,
    host: str,
    port: int,
    config_files: tuple[Path, ...],
    python: Path | None,
    images: dict[str, Path],
    secrets_dir: Path | None,
) -> None:
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)

    def configure() -> SandboxConfig:
        from aerodrome.propeller.runtimes.secrets import SecretStore
        from aerodrome.sandbox.config import read
        from aerodrome.stdlib import logger

        config = read(
            config_files, data_dir=data_dir, host=host, port=port, python=python, images=images, secrets_dir=secrets_dir
        )
        logger.configure(config.admin.logger)
        SecretStore(config.propeller.secrets.secrets_prefix).check()
        return config

    def ready(bound: int) -> None:
        from aerodrome.stdlib.service import settle

        here = instance.announce(data_dir, host=host, port=bound, ready=True)
        endpoint = here.endpoint.replace("127.0.0.1", "localhost")
        click.echo(f"Aerodrome is ready: console http://{endpoint}/console, API {endpoint} (gRPC and HTTP)")
        if bound != 30080:
            click.echo(f"Point clients here: export FLYTE_PLATFORM_URL={endpoint} FLYTE_PLATFORM_INSECURE=true")
        settle()
        descriptor = os.environ.pop(_READY_FD, "")
        if descriptor:
            os.write(int(descriptor), b"ready")
            os.close(int(descriptor))

    with instance.exclusive(data_dir), _without_collecting():
        instance.announce(data_dir, host=host, port=port, ready=False)
        try:
            async with AsyncExitStack() as stack:
                # The database is made and started while the rest is imported: each takes about as long as the other.
                embedded = None
                if surely_embedded(config_files, secrets_dir, os.environ):
                    from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres

                    embedded = EmbeddedPostgres(data_dir / "postgres")
                    making = asyncio.create_task(embedded.make(), name="make the database")
                    stack.push_async_callback(_end_of, making)
                config = await asyncio.to_thread(configure)

                from aerodrome.sandbox.database import database

                opening = asyncio.create_task(
                    stack.enter_async_context(database(config, embedded)), name="open the database"
                )
                try:
                    platform = await asyncio.to_thread(importlib.import_module, "aerodrome.sandbox.platform")
                finally:
                    dsn = await opening
                await platform.Platform(config, dsn, ready).run()
        finally:
            instance.withdraw(data_dir)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """No search for garbage while there is hardly any: it takes a quarter of a start.  Being ready ends that too."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _end_of(making: asyncio.Task[None]) -> None:
    """Leave nothing half made.  What went wrong with it is told by whoever starts the database, if it comes to that."""
    await asyncio.wait([making])
    if not making.cancelled():
        making.exception()


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run until done, SIGINT or SIGTERM; an error that users can act on is a line, not a traceback."""
    import uvloop

    descriptor = os.environ.get(_READY_FD, "")
    if descriptor:
        os.set_inheritable(int(descriptor), False)

    async def guarded() -> None:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return

    try:
        uvloop.run(guarded())
    except* AerodromeError as errors:
        raise click.ClickException("; ".join(_messages(errors))) from None
    except* OSError as errors:
        raise click.ClickException("; ".join(_messages(errors))) from None


def _messages(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [message for inner in error.exceptions for message in _messages(inner)]
    return [str(error)]


def _detach(data_dir: Path, arguments: list[str]) -> None:
    running = instance.find(data_dir)
    if running is not None and running.ready:
        raise click.ClickException(
            f"{data_dir} belongs to a running instance (process {running.pid}, at {running.endpoint})"
        )
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    reader, writer = os.pipe()
    log = _log(data_dir)
    size = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "aerodrome.sandbox.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(writer,),
            env={**os.environ, _READY_FD: str(writer)},
        )
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        ready = _wait_for(pipe.fileno(), _START_TIMEOUT)
    said = log.read_bytes()[size:].decode(errors="replace")
    if not ready:
        if child.poll() is None:
            child.terminate()
        raise click.ClickException(f"it did not start:\n{said[-4000:].strip()}\n(all of it is in {log})")
    for line in said.splitlines():
        if line.startswith(("Aerodrome is ready", "Point clients here")):
            click.echo(line)


def _wait_for(descriptor: int, timeout: float) -> bool:
    import select

    readable, _, _ = select.select([descriptor], [], [], timeout)
    return bool(readable) and os.read(descriptor, 16) == b"ready"


def _log(data_dir: Path) -> Path:
    return data_dir / "aerodrome.log"


def _image(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise click.BadParameter(f"{text!r} is not of the form NAME=PATH", param_hint="--image")
    return name, Path(path).absolute()


def _check_host(host: str, insecure_bind: bool) -> None:
    if not is_loopback(host) and not insecure_bind:
        raise click.ClickException(
            f"{host} is beyond this machine, and nobody is asked who they are: whoever reaches the port can run "
            "commands here. Say --insecure-bind if that is what you want"
        )


if __name__ == "__main__":
    main(prog_name="aerodrome")

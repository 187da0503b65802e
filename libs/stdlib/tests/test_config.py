"""What configuration files, the environment and flags mean."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from aerodrome.stdlib.config import (
    ConfigError,
    Duration,
    LoggerConfig,
    Quantity,
    SecretText,
    Section,
    StorageConfig,
    TelemetryConfig,
    describe,
    format_duration,
    load,
    parse_duration,
    parse_quantity,
)
from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.known_settings import KNOWN, MEANINGLESS, below, normalize, table
from aerodrome.stdlib.logger import capture

DATA = Path(__file__).parent / "data"


class Shared(Section):
    logger: LoggerConfig = LoggerConfig()
    storage: StorageConfig = StorageConfig()
    otel: TelemetryConfig = TelemetryConfig()


class Queue(Section):
    type: str = "simple"
    batching_interval: Duration = timedelta(seconds=1)
    batch_size: int = -1


class Propeller(Section):
    workers: int = 2
    metadata_prefix: str = ""
    queue: Queue = Queue()
    metrics_keys: tuple[str, ...] = ("project", "domain")
    offset: Duration = timedelta(0)


class Postgres(Section):
    host: str = "localhost"
    port: int = 30001
    password: SecretText = SecretText("")


class Database(Section):
    aliases: ClassVar = {"host": "postgres.host", "port": "postgres.port", "password": "postgres.password"}
    postgres: Postgres = Postgres()
    max_open_connections: int = 100


class ClusterResources(Section):
    aliases: ClassVar = {"refresh": "refresh_interval"}
    refresh_interval: Duration = timedelta(minutes=1)
    template_path: str = ""


class Domain(Section):
    id: str
    name: str


class Resources(Section):
    cpu: Quantity = "2"
    memory: Quantity = "200Mi"


class TaskResources(Section):
    defaults: Resources = Resources()
    limits: Resources = Resources()


class K8s(Section):
    default_env_vars: dict[str, str] = Field(default_factory=dict)
    default_cpus: Quantity = "1000m"


class Plugins(Section):
    enabled_plugins: tuple[str, ...] = ()
    k8s: K8s = K8s()


class Server(Section):
    http_port: int = 8088
    grpc_port: int = 8089


class Service(Shared):
    aliases: ClassVar = {"application": "server"}
    server: Server = Server()
    propeller: Propeller = Propeller()
    database: Database = Database()
    domains: tuple[Domain, ...] = ()
    clusters_by_name: dict[str, Domain] = Field(default_factory=dict)
    task_resources: TaskResources = TaskResources()
    cluster_resources: ClusterResources = ClusterResources()
    plugins: Plugins = Plugins()


def write(path: Path, text: str, name: str = "config.yaml") -> Path:
    file = path / name
    file.write_text(text)
    return file


def read(path: Path, text: str, **more: Any) -> Service:
    return load(Service, [write(path, text)], environ=more.pop("environ", {}), **more)


class TestExamples:
    @pytest.mark.parametrize("model", [Shared, Service])
    def test_the_propellers_loads_and_shared_sections_nest(self, model: type[Shared]) -> None:
        config = load(model, [DATA / "propeller.yaml"], environ={})
        assert config.logger.level == 5
        assert config.logger.show_source
        assert config.storage.type == "minio"
        assert config.storage.container == "my-s3-bucket"
        assert config.storage.connection.access_key == "minio"
        assert config.storage.connection.secret_key.get_secret_value() == "miniostorage"
        assert config.storage.connection.disable_ssl

    def test_the_propellers_own_settings_are_read(self) -> None:
        config = load(Service, [DATA / "propeller.yaml"], environ={})
        assert config.propeller.workers == 4
        assert config.propeller.queue.batching_interval == timedelta(seconds=2)

    def test_the_admins_loads(self) -> None:
        with capture() as lines:
            config = load(Service, [DATA / "flyteadmin.yaml"], environ={})
        assert config.server.http_port == 8088
        assert config.database.postgres.port == 5432
        assert config.database.postgres.host == "postgres"
        assert [domain.id for domain in config.domains] == ["development", "staging", "production", "domain"]
        assert config.task_resources.limits.cpu == "2"
        assert parse_quantity(config.task_resources.limits.memory) == 2_000_000_000
        assert config.cluster_resources.refresh_interval == timedelta(minutes=5)
        (line,) = [line for line in lines if line["msg"] == "settings without meaning here"]
        assert "testing" in line["keys"]
        assert "flyteadmin" not in line["keys"]

    def test_both_load_together(self) -> None:
        config = load(Service, [DATA / "propeller.yaml", DATA / "flyteadmin.yaml"], environ={})
        assert config.propeller.workers == 4
        assert config.database.postgres.port == 5432

    def test_the_guides_plugin_and_cluster_examples_load(self, tmp_path: Path) -> None:
        config = read(
            tmp_path,
            """
            plugins:
              enabled-plugins: [container, spark, waitable, hiveExecutor, sidecar]
              logs: {kubernetes-enabled: true, kubernetes-url: "http://localhost:30082"}
              k8s:
                default-env-vars:
                  - FLYTE_AWS_ENDPOINT: "http://minio.flyte:9000"
                  - FLYTE_AWS_ACCESS_KEY_ID: minio
              spark:
                spark-config-default:
                  - spark.hadoop.fs.s3a.multipart.threshold: "536870912"
                  - spark.blacklist.enabled: "true"
              qubole: {quboleTokenPath: /x, resourceManagerType: redis, redisHostPath: r:6379, quboleLimit: 10}
              waitable: {console-uri: "http://localhost:30081/console"}
            clusters:
              - {name: c1, endpoint: e, enabled: true, auth: {type: file_path, tokenPath: /t, certPath: /c}}
              - {name: c2, endpoint: e, auth: {enabled: true, type: file_path, tokenPath: /t, certPath: /c}}
            """,
        )
        assert config.plugins.k8s.default_env_vars["FLYTE_AWS_ACCESS_KEY_ID"] == "minio"
        assert config.plugins.enabled_plugins[1] == "spark"


class TestKeys:
    @pytest.mark.parametrize("key", ["batching-interval", "batchingInterval", "BATCHING_INTERVAL", "batching_interval"])
    def test_spellings_are_one_key(self, tmp_path: Path, key: str) -> None:
        assert read(tmp_path, f"propeller: {{queue: {{{key}: 3s}}}}").propeller.queue.batching_interval == timedelta(
            seconds=3
        )
        assert Queue.model_validate({key: "3s"}).batching_interval == timedelta(seconds=3)

    def test_two_spellings_in_one_place_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="written twice"):
            read(tmp_path, "propeller: {metadata-prefix: a, metadataPrefix: b}")
        with pytest.raises(ConfigError, match="written twice"):
            read(tmp_path, "propeller: {workers: 1}\npropeller: {workers: 2}")

    def test_aliases_may_lead_deeper(self, tmp_path: Path) -> None:
        database = read(tmp_path, "database: {host: old, postgres: {port: 1}}").database
        assert (database.postgres.host, database.postgres.port) == ("old", 1)

    def test_an_unknown_key_is_named_with_its_line_and_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, "propeller:\n  workers: 1\n  metadata-prefx: x\nstorge: {}\n")
        assert caught.value.problems == (
            f"{tmp_path}/config.yaml:3: propeller.metadata-prefx is not a setting; "
            "did you mean propeller.metadata-prefix?",
            f"{tmp_path}/config.yaml:4: storge is not a setting; did you mean storage?",
        )
        assert isinstance(caught.value, InvalidArgument)

    def test_a_key_in_the_wrong_section_is_led_home(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"did you mean propeller\.workflow-reeval-duration"):
            read(tmp_path, "database: {workflow-reeval-duration: 1s}")

    def test_unknown_keys_in_lists_and_maps_are_found(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, "domains: [{id: a, name: b, colour: c}]\nclusters-by-name: {x: {id: a, name: b, size: 1}}")
        assert [problem.split(": ")[1].split(" ")[0] for problem in caught.value.problems] == [
            "domains.colour", "clusters-by-name.x.size",
        ]  # fmt: skip

    def test_a_known_key_without_meaning_is_one_warning(self, tmp_path: Path) -> None:
        with capture() as lines:
            read(tmp_path, "propeller: {max-ttl-hours: 23, leader-election: {enabled: true}}\nalsologtostderr: true")
        assert [line["keys"] for line in lines] == [
            ["alsologtostderr", "propeller.leader-election", "propeller.max-ttl-hours"]
        ]

    def test_sections_of_other_services_are_accepted_in_silence(self, tmp_path: Path) -> None:
        with capture() as lines:
            read(tmp_path, "webhook: {certDir: /x}\nmanager: {scan-interval: 1s}\nqueues: {executionQueues: []}")
        assert lines == []

    def test_sections_nested_below_propeller_yield_to_those_at_the_top(self, tmp_path: Path) -> None:
        config = read(
            tmp_path, "propeller: {storage: {type: mem, container: below}, workers: 3}\nstorage: {container: top}"
        )
        assert (config.storage.type, config.storage.container, config.propeller.workers) == ("mem", "top", 3)

    def test_an_alias_of_nothing_is_a_mistake_in_the_section(self) -> None:
        with pytest.raises(TypeError, match="no field"):
            type("Wrong", (Section,), {"aliases": {"a": "b"}, "__annotations__": {}})

    def test_a_section_refuses_unknown_keys_and_changes(self) -> None:
        with pytest.raises(ValidationError):
            Queue.model_validate({"tpye": "x"})
        with pytest.raises(ValidationError):
            setattr(Queue(), "batch_size", 1)  # noqa: B010 - as an assignment the type checker refuses it too


class TestValues:
    def test_maps_may_be_lists_of_single_pairs_and_keep_their_keys(self, tmp_path: Path) -> None:
        text = "plugins: {k8s: {default-env-vars: [FLYTE_AWS_ENDPOINT: 'http://x', other-Key: 1.10, YES: yes]}}"
        assert read(tmp_path, text).plugins.k8s.default_env_vars == {
            "FLYTE_AWS_ENDPOINT": "http://x", "other-Key": "1.10", "YES": "yes",
        }  # fmt: skip
        assert K8s.model_validate({"default_env_vars": [{"A": "b"}]}).default_env_vars == {"A": "b"}

    def test_text_stays_as_it_was_written(self, tmp_path: Path) -> None:
        config = read(tmp_path, "propeller: {metadata-prefix: 0755}\nstorage: {container: 2020-01-01}")
        assert config.propeller.metadata_prefix == "0755"
        assert config.storage.container == "2020-01-01"

    def test_an_empty_value_is_not_set(self, tmp_path: Path) -> None:
        config = read(tmp_path, "propeller:\n  workers:\n  queue:\nstorage:\ndatabase: {postgres: {password: ~}}")
        assert config == Service()

    def test_none_in_code_is_none(self) -> None:
        class Timed(Section):
            after: Duration | None = timedelta(1)

        assert Timed(after=None).after is None
        assert Timed.model_validate(Timed(after=None).model_dump(mode="json")).after is None

    def test_a_wrong_value_is_named_with_its_line(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, "propeller:\n  workers: many\n  queue:\n    batching-interval: soon\n")
        first, second = caught.value.problems
        assert first.startswith(f"{tmp_path}/config.yaml:2: propeller.workers: ")
        assert second.startswith(
            f"{tmp_path}/config.yaml:4: propeller.queue.batching_interval: 'soon' is not a duration"
        )

    def test_everything_wrong_is_said_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, "nonsense: 1\npropeller: {workers: x}\nstorage: {type: tape}")
        assert len(caught.value.problems) == 3

    def test_secrets_show_nowhere(self, tmp_path: Path) -> None:
        config = read(
            tmp_path,
            "storage: {connection: {secret-key: hidden, access-key: hidden}, stow: {config: {secret_key: hidden}}}",
        )
        assert config.storage.connection.secret_key.get_secret_value() == "hidden"
        assert "hidden" not in repr(config.storage.connection.secret_key)
        assert "hidden" not in str(describe(config))
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, "storage: {connection: {secret-key: [hidden]}}")
        assert "hidden" not in str(caught.value)

    def test_a_number_may_be_a_secret(self, tmp_path: Path) -> None:
        password = read(tmp_path, "database: {postgres: {password: 012345}}").database.postgres.password
        assert password.get_secret_value() == "012345"
        assert SecretText("x") == SecretText("x")
        assert Postgres.model_validate({"password": 5}).password.get_secret_value() == "5"

    @pytest.mark.parametrize("level", [7, -1, "loud", "", True])
    def test_log_levels_that_do_not_exist_are_refused(self, level: object) -> None:
        with pytest.raises(ValidationError):
            LoggerConfig.model_validate({"level": level})


class TestLayers:
    def test_later_files_win_and_maps_merge(self, tmp_path: Path) -> None:
        one = write(
            tmp_path, "propeller: {workers: 1, metadata-prefix: a}\nplugins: {enabled-plugins: [a, b]}", "1.yaml"
        )
        two = write(tmp_path, "propeller: {workers: 2}\nplugins: {enabledPlugins: [c]}", "2.yaml")
        config = load(Service, [one, two], environ={})
        assert (config.propeller.workers, config.propeller.metadata_prefix) == (2, "a")
        assert config.plugins.enabled_plugins == ("c",)

    def test_a_pattern_stands_for_its_matches_in_order(self, tmp_path: Path) -> None:
        for name, workers in (("b.yaml", 2), ("a.yaml", 1), ("c.txt", 3)):
            write(tmp_path, f"propeller: {{workers: {workers}}}", name)
        assert load(Service, [tmp_path / "*.yaml"], environ={}).propeller.workers == 2

    def test_the_environment_wins_over_files_and_flags_over_both(self, tmp_path: Path) -> None:
        environ = {"AERODROME_PROPELLER__WORKERS": "5", "AERODROME_PROPELLER__METADATAPREFIX": "e"}
        config = read(
            tmp_path,
            "propeller: {workers: 1, queue: {batch-size: 7}}",
            environ=environ,
            overrides={"propeller.workers": "6"},
        )
        assert (config.propeller.workers, config.propeller.metadata_prefix) == (6, "e")
        assert config.propeller.queue.batch_size == 7

    @pytest.mark.parametrize(
        "name", ["AERODROME_STORAGE__CONNECTION__ACCESS_KEY", "aerodrome_storage__connection__accesskey",
                 "STORAGE.CONNECTION.ACCESS_KEY", "STORAGE__CONNECTION__ACCESS_KEY",
                 "AERODROME_PROPELLER__STORAGE__CONNECTION__ACCESS_KEY"],
    )  # fmt: skip
    def test_environment_variables_are_written_in_these_forms(self, name: str) -> None:
        assert load(Service, environ={name: "k"}).storage.connection.access_key == "k"

    def test_structures_in_the_environment_and_in_flags_are_yaml(self) -> None:
        config = load(
            Service,
            environ={"AERODROME_DOMAINS": "[{id: a, name: A}]", "AERODROME_PLUGINS__ENABLED_PLUGINS": "x, y"},
            overrides={"plugins.k8s.default-env-vars": "{A: b}", "propeller.queue": {"type": "batch"}},
        )
        assert config.domains == (Domain(id="a", name="A"),)
        assert config.plugins.enabled_plugins == ("x", "y")
        assert config.plugins.k8s.default_env_vars == {"A": "b"}
        assert config.propeller.queue.type == "batch"

    def test_single_entries_of_a_map_can_be_set(self) -> None:
        environ = {"AERODROME_PLUGINS__K8S__DEFAULT_ENV_VARS__My_Key": "v"}
        assert load(Service, environ=environ).plugins.k8s.default_env_vars == {"My_Key": "v"}

    def test_variables_of_others_are_left_alone(self) -> None:
        others = {
            "PATH": "/bin",
            "AERODROME_POD": "x/y",
            "HOME": "/",
            "STORAGE__NONSENSE": "1",
            "A.B": "c",
            "__": "",
            ".": "",
        }
        assert load(Service, environ=others) == Service()

    def test_a_variable_of_ours_that_is_wrong_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match=r"AERODROME_PROPELLER__WORKRES.*did you mean propeller\.workers"):
            load(Service, environ={"AERODROME_PROPELLER__WORKRES": "1"})
        with pytest.raises(ConfigError, match=r"flag --propeller\.workers: propeller\.workers"):
            load(Service, environ={}, overrides={"propeller.workers": "x"})

    @pytest.mark.parametrize(
        ("text", "says"),
        [("a: [", "not valid YAML"), ("- a", "no sections"), ("just text", "no sections"), ("a: &x {b: *x}", "YAML"),
         ("? [a]\n: b", "plain word"), ("propeller: {workers: !!python/object:os.system x}", "YAML")],
    )  # fmt: skip
    def test_files_that_are_no_configuration_are_named(self, tmp_path: Path, text: str, says: str) -> None:
        with pytest.raises(ConfigError, match=says) as caught:
            read(tmp_path, text)
        assert "config.yaml" in str(caught.value)

    def test_missing_files_are_named_and_empty_ones_are_fine(self, tmp_path: Path) -> None:
        assert read(tmp_path, "") == Service()
        assert read(tmp_path, "# nothing but a comment") == Service()
        with pytest.raises(ConfigError, match=r"nothing\.yaml: there is no such file"):
            load(Service, [tmp_path / "nothing.yaml"], environ={})
        with pytest.raises(ConfigError, match="there is no such file"):
            load(Service, [tmp_path / "*.json"], environ={})

    def test_anchors_and_merges_work(self, tmp_path: Path) -> None:
        config = read(
            tmp_path,
            "task_resources:\n  defaults: &r {cpu: 1, memory: 1Gi}\n  limits:\n    <<: *r\n    memory: 2Gi\n",
        )
        assert config.task_resources.limits == Resources(cpu="1", memory="2Gi")


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("1h2m3s", 3723), ("300ms", 0.3), ("5m", 300), ("1.5h", 5400), ("0", 0), ("0s", 0), ("-1m30s", -90),
         ("10us", 0.00001), ("2µs", 0.000002), ("1000ns", 0.000001), (15, 15), (0.25, 0.25), ("30", 30), (".5s", 0.5)],
    )  # fmt: skip
    def test_go_durations_and_seconds_are_read(self, text: object, seconds: float) -> None:
        assert parse_duration(text) == timedelta(seconds=seconds)

    @pytest.mark.parametrize(
        "text", ["", "5 m", "m", "1d", "1h-2m", "soon", None, True, [], "9" * 400, "9" * 20 + "h", "nan", "inf", "1e5"]
    )
    def test_other_things_are_refused(self, text: object) -> None:
        with pytest.raises(ValueError):
            parse_duration(text)

    def test_a_moment_is_not_rounded_to_nothing(self) -> None:
        assert parse_duration("1ns") == timedelta(microseconds=1)

    @given(st.timedeltas())
    def test_what_is_written_is_read_back(self, value: timedelta) -> None:
        assert parse_duration(format_duration(value)) == value

    @given(st.timedeltas())
    def test_sections_round_trip(self, value: timedelta) -> None:
        queue = Queue(batching_interval=value)
        assert Queue.model_validate(queue.model_dump(mode="json")) == queue


class TestQuantities:
    @pytest.mark.parametrize(
        ("text", "value"),
        [("100m", "0.1"), ("2", "2"), ("200Mi", "209715200"), ("1.5Gi", "1610612736"), ("2G", "2e9"), ("1e3", "1000"),
         ("1E", "1e18"), ("1Ei", "1152921504606846976"), ("5n", "5e-9"), (".5", "0.5"), ("-1", "-1"), ("1E2", "100"),
         ("1.", "1"), ("3k", "3000"), ("7u", "7e-6")],
    )  # fmt: skip
    def test_kubernetes_quantities_have_values(self, text: str, value: str) -> None:
        assert parse_quantity(text) == Decimal(value)

    @pytest.mark.parametrize(
        "text", ["", "x", "1K", "1 Gi", "1gi", "--1", "1.2.3", "Mi", "1e", "1e999999999", "9" * 100, "1mi"]
    )
    def test_other_texts_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError) as caught:
            parse_quantity(text)
        assert isinstance(caught.value, InvalidArgument)
        with pytest.raises(ValidationError):
            Resources(cpu=text)

    def test_the_text_is_kept(self) -> None:
        assert Resources.model_validate({"cpu": 2, "memory": " 1.50Gi "}) == Resources(cpu="2", memory="1.50Gi")


class TestKnownSettings:
    def test_every_setting_of_the_shared_sections_is_known(self) -> None:
        def paths(model: type[Section], prefix: tuple[str, ...]) -> list[tuple[str, ...]]:
            found = []
            for name, field in model.model_fields.items():
                here = (*prefix, normalize(name))
                if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                    found.extend(paths(field.annotation, here))
                else:
                    found.append(here)
            return found

        ours = {("otel", "servicename"), ("otel", "exportinterval")}
        unknown = [path for path in paths(Shared, ()) if below(table(KNOWN), path) is None]
        assert set(unknown) <= ours

    def test_stars_stand_for_any_key(self) -> None:
        tree = table("a: b.* c.** d\n: e")
        assert below(tree, ["a", "b", "anything"]) == {}
        assert below(tree, ["a", "b", "anything", "more"]) is None
        assert below(tree, ["a", "c", "any", "depth", "at", "all"]) is not None
        assert below(tree, ["a", "x"]) is None
        assert below(tree, ["e"]) == {}

    def test_keys_without_meaning_are_known_and_normalised(self) -> None:
        for key in MEANINGLESS:
            assert normalize(key) == key
            assert key in table(KNOWN)


HEAVY = ("structlog", "aiohttp", "aiobotocore", "botocore", "opentelemetry.sdk", "grpc", "pydantic_settings", "asyncpg")


def test_importing_it_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, aerodrome.stdlib.config, aerodrome.stdlib.storage, aerodrome.stdlib.telemetry\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

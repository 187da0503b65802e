"""Every setting that Flyte 1 knows, by dotted path: what a configuration file may hold without being mistaken.

The table only decides between "known" and "a typing error"; what a setting means stands in the `Section` that reads it.
A file written for another service, or for the reference implementation, therefore loads everywhere.

One line holds a path, a colon, and what may stand below it; `*` is any one key (a free map), `**` is anything at all.
Lists are not part of a path: their items' keys follow directly.  Keys compare normalised (case, `-` and `_` removed).
Source: spec control-plane 14.1, 11.1 and 12, data-plane 8, datacatalog A.10 and D, and the examples and tables of the
administrator's guide.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

Tree: TypeAlias = "dict[str, Tree]"

HOISTED = frozenset({"logger", "storage", "event", "admin", "catalogcache", "tasks", "plugins", "secrets", "otel"})
"""Sections that may also be written below `propeller:`, as the printed example has them; they mean the same there."""

MEANINGLESS = frozenset(
    {
        "alsologtostderr", "config", "errors", "kubeconfig", "logbacktraceat", "logdir", "logtostderr", "master",
        "stderrthreshold", "testing", "v", "vmodule",
    }
)  # fmt: skip
"""Top-level keys, normalised, that no part of Aerodrome reads."""

KNOWN = """
: alsologtostderr config kubeconfig log_backtrace_at log_dir logtostderr master stderrthreshold v vmodule
: errors.show-source testing.**

logger: level show-source mute formatter.type

storage: type container enable-multicontainer containers sync-writes
storage: connection.endpoint connection.auth-type connection.access-key connection.secret-key connection.region
storage: connection.disable-ssl stow.kind stow.config.** limits.max-download-mbs limits.get-limit-megabytes
storage: cache.max-size-mbs cache.target-gc-percent default-http-client.headers.** default-http-client.timeout
storage: signed-url.stow-config-override.**

otel: type file.filename jaeger.endpoint otlpgrpc.endpoint otlphttp.endpoint sampler.parentSampler sampler.traceIdRatio

flyteadmin: roleNameKey metricsScope metricsKeys profilerPort metadataStoragePrefix eventVersion asyncEventsBufferSize
flyteadmin: maxParallelism labels.* annotations.* envs.* interruptible overwriteCache assumableIamRole
flyteadmin: k8sServiceAccount outputLocationPrefix useOffloadedWorkflowClosure useOffloadedInputs
flyteadmin: featureGates.* consoleUrl injectIdentityAnnotations identityAnnotationPrefix identityAnnotationKeys
flyteadmin: securityContext.** rawOutputDataConfig.** executionEnvAssignments.** testing.** prof.**

application: httpPort grpcPort grpcServerReflection grpcMaxRecvMsgSizeMBs secure readHeaderTimeoutSeconds metricsScope
application: kube-config master security.** grpc.** dataProxy.** gracefulShutdownTimeoutSeconds kubeClientConfig.**
server: httpPort grpcPort grpcServerReflection kube-config master metricsScope
server: grpc.port grpc.serverReflection grpc.maxMessageSizeBytes grpc.enableGrpcLatencyMetrics grpc.maxConcurrentStreams
server: security.secure security.ssl.certificateFile security.ssl.keyFile security.useAuth security.insecureCookieHeader
server: security.allowCors security.allowedOrigins security.allowedHeaders
server: security.auditAccess security.allowLocalhostAccess
server: dataProxy.upload.maxSize dataProxy.upload.maxExpiresIn dataProxy.upload.defaultFileNameLength
server: dataProxy.upload.storagePrefix dataProxy.download.maxExpiresIn
server: readHeaderTimeoutSeconds gracefulShutdownTimeoutSeconds
server: kubeClientConfig.qps kubeClientConfig.burst kubeClientConfig.timeout
server: thirdPartyConfig.** watchService.**

database: host readReplicaHost port dbname username password passwordPath options debug log-level
database: postgres.host postgres.readReplicaHost postgres.port postgres.dbname postgres.username postgres.password
database: postgres.passwordPath postgres.options postgres.debug sqlite.file
database: maxIdleConnections maxOpenConnections connMaxLifeTime enableForeignKeyConstraintWhenMigrating

remoteData: scheme region signedUrls.enabled signedUrls.durationMinutes signedUrls.signingPrincipal
remoteData: maxSizeInBytes inlineEventDataPolicy

domains: id name
task_resources.defaults: cpu memory gpu storage ephemeralStorage
task_resources.limits: cpu memory gpu storage ephemeralStorage
task_type_whitelist.*: project domain
registration: maxWorkflowNodes maxLabelEntries maxAnnotationEntries workflowSizeLimit
queues: executionQueues.dynamic executionQueues.attributes workflowConfigs.domain workflowConfigs.project
queues: workflowConfigs.workflowName workflowConfigs.tags
qualityOfService: tierExecutionValues.*.queueingBudget defaultTiers.*
namespace_mapping: template templateData.** mapping
clusters: name endpoint enabled inCluster auth.type auth.tokenPath auth.certPath auth.enabled
clusters: kubeClientConfig.qps kubeClientConfig.burst kubeClientConfig.timeout
clusters: clusterConfigs.name clusterConfigs.endpoint clusterConfigs.enabled clusterConfigs.inCluster
clusters: clusterConfigs.auth.type clusterConfigs.auth.tokenPath clusterConfigs.auth.certPath
clusters: clusterConfigs.auth.enabled
clusters: clusterConfigs.kubeClientConfig.qps clusterConfigs.kubeClientConfig.burst
clusters: clusterConfigs.kubeClientConfig.timeout labelClusterMap.*.id labelClusterMap.*.weight defaultExecutionLabel
clusterPools: clusterPoolAssignments.*.pool
cluster_resources: templatePath templateData.** refresh refreshInterval customData.** standaloneDeployment

scheduler: profilerPort metricsScope reconnectAttempts reconnectDelaySeconds
scheduler: eventScheduler.scheme eventScheduler.region eventScheduler.scheduleRole eventScheduler.targetName
scheduler: eventScheduler.scheduleNamePrefix eventScheduler.aws.** eventScheduler.local.**
scheduler: workflowExecutor.scheme workflowExecutor.region workflowExecutor.scheduleQueueName
scheduler: workflowExecutor.accountId workflowExecutor.aws.**
scheduler: workflowExecutor.local.adminRateLimit.tps workflowExecutor.local.adminRateLimit.burst
scheduler: workflowExecutor.local.useUTCTz
scheduler: server.** timeZone misfire.** retry.** lease.** concurrency callTimeout resync decisionsKept backfillSlots
notifications: type region aws.region aws.endpoint gcp.projectId publisher.topicName
notifications: reconnectAttempts reconnectDelaySeconds
notifications: processor.queueName processor.accountId
notifications: emailer.subject emailer.sender emailer.body emailer.emailServerConfig.**
externalEvents: enable enabled type aws.region gcp.projectId eventsPublisher.topicName eventsPublisher.eventTypes
externalEvents: reconnectAttempts reconnectDelaySeconds
cloudEvents: enable enabled type aws.region gcp.projectId kafka.** nats.** eventsPublisher.** cloudEventVersion
cloudEvents: reconnectAttempts reconnectDelaySeconds

auth: httpAuthorizationHeader grpcAuthorizationHeader disableForHttp disableForGrpc authorizedUris httpProxyURL
auth: userAuth.** appAuth.** secure tokenEndpointProxyPath
secrets: secrets-prefix env-prefix

admin: endpoint insecure insecureSkipVerify caCertFilePath maxBackoffDelay perRetryTimeout maxRetries
admin: maxMessageSizeBytes authType clientId clientSecretLocation clientSecretEnvVar scopes authorizationServerUrl
admin: tokenUrl
admin: authorizationHeader pkceConfig.** deviceFlowConfig.** command proxyCommand defaultServiceConfig
admin: httpProxyURL audience tokenRefreshWindow useAuth useAudienceFromAdmin

flyte.admin: seedProjects seedProjectsWithDetails.name seedProjectsWithDetails.description disabled disableScheduler
flyte.admin: disableClusterResourceManager
flyte.propeller: disabled disableWebhook
flyte.datacatalog: disabled
flyte: artifacts.** connector.**

datacatalog: storage-prefix metrics-scope profiler-port heartbeat-grace-period-multiplier max-reservation-heartbeat
datacatalog: disabled endpoint insecure
cacheservice: **

propeller: workers workflow-reeval-duration downstream-eval-duration max-workflow-retries max-streak-length
propeller: max-ttl-hours gc-interval metadata-prefix rawoutput-prefix limit-namespace kube-config master
propeller: queue.type queue.batching-interval queue.batch-size
propeller: queue.queue.type queue.queue.base-delay queue.queue.max-delay queue.queue.rate queue.queue.capacity
propeller: queue.sub-queue.type queue.sub-queue.base-delay queue.sub-queue.max-delay queue.sub-queue.rate
propeller: queue.sub-queue.capacity kube-client-config.qps kube-client-config.burst kube-client-config.timeout
propeller: leader-election.enabled leader-election.lease-duration leader-election.renew-deadline
propeller: leader-election.retry-period leader-election.lock-config-map.name leader-election.lock-config-map.namespace
propeller: node-config.max-node-retries-system-failures node-config.interruptible-failure-threshold
propeller: node-config.default-max-attempts node-config.ignore-retry-cause node-config.enable-cr-debug-metadata
propeller: node-config.default-deadlines.node-execution-deadline node-config.default-deadlines.node-active-deadline
propeller: node-config.default-deadlines.workflow-active-deadline node-execution-worker-count
propeller: array-node-config.event-version array-node-config.default-parallelism-behavior
propeller: array-node-config.use-map-plugin-logs array-node-config.max-delta-timestamp
propeller: literal-offloading-config.enabled literal-offloading-config.min-size-in-mb-for-offloading
propeller: literal-offloading-config.max-size-in-mb-for-offloading literal-offloading-config.supported-sdk-versions.*
propeller: event-config.raw-output-policy event-config.fallback-to-output-reference event-config.error-on-already-exists
propeller: include-shard-key-label include-project-label include-domain-label
propeller: exclude-shard-key-label exclude-project-label exclude-domain-label
propeller: cluster-id enable-admin-launcher create-flyteworkflow-crd metrics-prefix metrics-keys prof-port
propeller: publish-k8s-events enable-grpc-latency-metrics max-output-size-bytes max-size-in-mb-for-offloading
propeller: workflowStore.policy admin-launcher.tps admin-launcher.burst admin-launcher.cacheSize
propeller: admin-launcher.workers admin-launcher.cache-resync-duration
propeller: resourcemanager.type resourcemanager.resourceMaxQuota resourcemanager.redis.** resourcemanager.**
workflowStore: policy
admin-launcher: tps burst cacheSize workers cache-resync-duration
resourcemanager: type resourceMaxQuota redis.** namespacedCount

event: type file-path rate capacity max-retries base-scalar backoff-jitter
catalog-cache: type endpoint insecure max-cache-age use-admin-auth max-retries base-scalar backoff-jitter
catalog-cache: default-service-config cache-endpoint inline-cache
tasks: task-plugins.enabled-plugins task-plugins.default-for-task-types.* max-plugin-phase-versions
tasks: backoff.base-second backoff.max-duration barrier.** maxLogMessageLength

webhook: secretName serviceName servicePort listenPort certDir localCert secretManagerType secretManagerTypes
webhook: metrics-prefix awsSecretManager.** gcpSecretManager.** vaultSecretManager.** azureSecretManager.**
webhook: embeddedSecretManagerConfig.** disableCreateMutatingWebhookConfig imagePullSecrets.**
manager: pod-application pod-template-container-name pod-template-name pod-template-namespace scan-interval
manager: shard.type shard.shard-count shard.per-shard-mapping.** shard.**

plugins: enabled-plugins
plugins.logs: kubernetes-enabled kubernetes-url kubernetes-template-uri cloudwatch-enabled cloudwatch-log-group
plugins.logs: cloudwatch-region cloudwatch-template-uri gcp-project stackdriver-enabled stackdriver-logresourcename
plugins.logs: stackdriver-template-uri templates.** dynamic-log-links.** azure-log-templates.**
plugins.k8s: inject-finalizer delete-resource-on-finalize default-annotations.* default-labels.* default-env-vars.*
plugins.k8s: default-env-vars-from-env.* default-env-from-configmaps default-env-from-secrets default-cpus
plugins.k8s: default-memory default-tolerations.** default-node-selector.* default-affinity.**
plugins.k8s: interruptible-tolerations.**
plugins.k8s: interruptible-node-selector.* interruptible-node-selector-requirement.**
plugins.k8s: non-interruptible-node-selector-requirement.** resource-tolerations.** image-pull-policy scheduler-name
plugins.k8s: default-security-context.** default-pod-security-context.** default-pod-dns-config.**
plugins.k8s: enable-host-networking-pod default-pod-template-name default-pod-template-resync
plugins.k8s: create-container-error-grace-period create-container-config-error-grace-period
plugins.k8s: image-pull-backoff-grace-period pod-pending-timeout gpu-device-node-label
plugins.k8s: gpu-partition-size-node-label gpu-resource-name gpu-unpartitioned-node-selector-requirement.**
plugins.k8s: gpu-unpartitioned-toleration.** accelerator-devices.* accelerator-device-classes.**
plugins.k8s: add-tolerations-for-extended-resources update-base-backoff-duration update-backoff-retries
plugins.k8s: send-object-events enable-distributed-error-aggregation
plugins.k8s.co-pilot: name image default-input-path default-output-path input-vol-name output-vol-name cpu memory
plugins.k8s.co-pilot: timeout start-timeout storage
plugins.k8s-array: maxArrayJobSize maxErrorLength OutputAssembler.** ErrorAssembler.** namespaceTemplate
plugins.k8s-array: node-selector.* tolerations.** scheduler resourceConfig.primaryLabel resourceConfig.limit
plugins.k8s-array: remoteClusterConfig.** logs.** minSuccessRatio
plugins.catalogcache: reader.** writer.**
plugins.aws-batch: resync jobDefCache.** jobStoreConfig.** getRateLimiter.** defaultRateLimiter.** minRetries maxRetries
plugins.aws-batch: defaultTimeOut maxErrorStringLength roleAnnotationKey outputAssembler.** errorAssembler.** logs.**
plugins.aws-batch: resyncPeriod batchChunkSize defaultMaxErrorStringLength
plugins.aws: region accountId retries logLevel
plugins.spark: spark-config-default.* spark-history-server-url features.** logs.** default-plugin
plugins.ray: shutdownAfterJobFinishes ttlSecondsAfterFinished serviceType includeDashboard dashboardHost
plugins.ray: enableUsageStats defaults.** logs.** logsSidecar.** dashboardURLTemplate serviceAccount
plugins.ray: remoteClusterConfig.**
plugins.dask: logs.**
plugins.kf-operator: timeout
plugins: athena.** bigquery.** snowflake.** databricks.** redshift.** sagemaker.** hive.** presto.** openai.**
plugins: agent-service.** connector-service.** pytorch.** tensorflow.** mpi.** pod.** sidecar.** echo.** webapi.**
plugins.qubole: quboleTokenPath resourceManagerType redisHostPath redisHostKey quboleLimit
plugins.qubole: **
plugins.waitable: console-uri
union: **
artifacts: **
aerodrome: **
sandbox: **
runtime: **
console: **
notifier: **
journal: **
bus: **
"""


def normalize(key: str) -> str:
    """The form in which keys compare: lower case, without `-` and `_`."""
    return key.lower().replace("-", "").replace("_", "")


@functools.cache
def table(text: str = KNOWN) -> Tree:
    """The settings of `text` as a tree of normalised keys."""
    root: Tree = {}
    for prefix, leaf in _leaves(text):
        tree = root
        for part in f"{prefix}.{leaf}".strip(".").split("."):
            tree = tree.setdefault(normalize(part), {})
    return root


def below(tree: Mapping[str, Tree], path: Sequence[str]) -> Tree | None:
    """What may stand below `path`, whose parts are normalised; None if `path` itself is not known.

    `{"**": {}}` stands for anything.
    """
    current: Mapping[str, Tree] = tree
    for part in path:
        if part in current:
            current = current[part]
        elif "*" in current:
            current = current["*"]
        elif "**" in current:
            return {"**": {}}
        else:
            return None
    return dict(current)


def spellings(text: str = KNOWN) -> Mapping[str, str]:
    """Every dotted path of `text`, normalised, and how Flyte's documents spell it; for suggestions."""
    return {
        normalize(path): path
        for prefix, leaf in _leaves(text)
        for path in _and_its_parents(f"{prefix}.{leaf}".strip("."))
        if "*" not in path
    }


def _leaves(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        prefix, _, rest = line.partition(":")
        for leaf in rest.split():
            yield prefix.strip(), leaf


def _and_its_parents(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[: length + 1]) for length in range(len(parts)))

"""The error catalogue: for everything that can end a task, what it means, how it is recognised, and what to do next.

A failure says what happened; the catalogue adds the next step, so that a message ends with it.  An entry is found by
the failure's code and, where one code has several causes, by what its message says; the first that fits counts, so the
particular stand before the general.  docs/errors.md is made from this table.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from aerodrome.plugins.api import ErrorKind, Failure

NEXT_STEP: Final = "Next step:"
"""What the last paragraph of every error begins with."""
MAX_MESSAGE: Final = 100_000
"""Characters of a message; of a longer one the middle is left out."""
_SEARCHED: Final = 20_000
"""Characters at either end of a message in which a cause is looked for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that can end a task."""

    group: str
    code: str
    """As errors carry it; the parts before the last `|` (`RetriesExhausted|`) do not count, `*` stands for any text."""
    cause: str
    evidence: str
    """What the platform saw to say so."""
    next_step: str
    says: str = ""
    """A regular expression that the message has to contain."""
    kinds: tuple[ErrorKind, ...] = ()
    """Kinds of failures that it is about; none named means any."""

    def fits(self, failure: Failure, text: str) -> bool:
        """Whether it explains `failure`, of whose message `text` is searched."""
        if self.kinds and failure.kind not in self.kinds:
            return False
        if self.code != "*" and not _named(self.code, failure.code):
            return False
        return not self.says or re.search(self.says, text) is not None


def explain(failure: Failure) -> Entry:
    """The entry for a failure.  Every failure has one: the last entries fit anything of a kind."""
    text = failure.message
    if len(text) > 2 * _SEARCHED:
        text = f"{text[:_SEARCHED]}\n{text[-_SEARCHED:]}"
    return next(entry for entry in ENTRIES if entry.fits(failure, text))


def advised(failure: Failure, most: int = MAX_MESSAGE) -> Failure:
    """`failure` with a message of at most `most` characters (some 1,000 at least) that ends with the next step.

    Saying it again changes nothing.  What was aborted is left as it is: somebody wanted that.
    """
    if failure.code in NOT_FAILURES:
        return replace(failure, message=bounded(failure.message, most))
    step = explain(failure).next_step
    message = failure.message.rstrip()
    if message.rpartition("\n")[2].startswith(NEXT_STEP):
        return replace(failure, message=bounded(message, most))
    ending = f"\n\n{NEXT_STEP} {step}"
    return replace(failure, message=bounded(message, most - len(ending)) + ending)


def bounded(text: str, most: int = MAX_MESSAGE) -> str:
    """`text` in at most `most` characters (some 100 at least): head and tail, and how much is missing between."""
    if len(text) <= most:
        return text
    half = (most - 60) // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _named(pattern: str, code: str) -> bool:
    last = code.rpartition("|")[2]
    if pattern.endswith("*"):
        return last.startswith(pattern[:-1])
    return last == pattern


NOT_FAILURES: Final = frozenset({"Task Aborted", "NodeAborted"})
"""Codes of what was ended on request."""

_USER = (ErrorKind.USER, ErrorKind.UNKNOWN)
_CODE = "The task's own code"
_PROCESS = "The task's process"
_RESULTS = "What the task left"
_START = "Before the task could start"
_PLATFORM = "The platform and the machine"
_REMOTE = "Work done elsewhere"
_GRAPH = "The workflow around the task"

ENTRIES: Final[Sequence[Entry]] = (
    # -- how a process ends ----------------------------------------------------------------------------------------
    Entry(
        _PROCESS,
        "OOMKilled",
        "The task needed more memory than it may have, or than the machine has.",
        "The kernel counted an out-of-memory kill when the process got SIGKILL, its memory limit was reached "
        "and Python "
        "could not allocate, or the pod's status says OOMKilled.",
        "raise the task's memory (`requests=Resources(mem=...)`, `limits=Resources(mem=...)`, or "
        "`with_overrides` on the "
        "node) or let it work in smaller pieces; `aerodrome.retry.memory-factor` in its task config lets each "
        "retry ask "
        "for more by itself.",
    ),
    Entry(
        _PROCESS,
        "*",
        "The task's time for one attempt was up.",
        "The timer that was armed when the attempt began; its processes were ended.",
        "see in its log where the time went; raise `timeout` of the task (or `timeout` in `with_overrides`), or "
        "make it "
        "faster.",
        says=r"attempt \d+ (of item \d+ )?took longer than",
    ),
    Entry(
        _PROCESS,
        "TimedOut",
        "The node's time for all of its attempts was up.",
        "The timer that was armed when the node was first queued: twice its `timeout`.",
        "raise `timeout` of the task; it has to cover waiting for resources, and half of it the longest attempt.",
    ),
    Entry(
        _PROCESS,
        "Timeout",
        "A node of the workflow timed out.",
        "The node's own end.",
        "look at the node that is named: its log says where the time went; raise its `timeout` or make it faster.",
    ),
    Entry(
        _PROCESS,
        "*",
        "The command does not exist where the task runs.",
        "Exit code 127 of a shell.",
        "install the command in the environment that the task's image selects, or correct its name or PATH.",
        says=r"exited with code 127\b",
        kinds=_USER,
    ),
    Entry(
        _PROCESS,
        "*",
        "The command exists and cannot be executed.",
        "Exit code 126 of a shell.",
        "make the file executable, and see that its first line names an interpreter that is there.",
        says=r"exited with code 126\b",
        kinds=_USER,
    ),
    Entry(
        _PROCESS,
        "*",
        "The program crashed in native code.",
        "The process was ended by SIGSEGV, SIGBUS, SIGILL or SIGFPE.",
        "find the extension module that crashed: set PYTHONFAULTHANDLER=1 in the task's environment for a traceback; "
        "update it, or pin the version that worked.",
        says=r"was ended by SIG(SEGV|BUS|ILL|FPE)\b",
    ),
    Entry(
        _PROCESS,
        "*",
        "The program gave up by itself.",
        "The process was ended by SIGABRT, as by a failed assertion in C.",
        "read the last lines of its log: the library that called abort says why there.",
        says=r"was ended by SIGABRT\b",
    ),
    Entry(
        _PROCESS,
        "*",
        "Something asked the process to end.",
        "The process was ended by SIGTERM, SIGINT or SIGHUP.",
        "see who sends that signal; if it is the machine being drained, mark the task `interruptible` or give "
        "it retries.",
        says=r"was ended by SIG(TERM|INT|HUP)\b",
    ),
    Entry(
        _PROCESS,
        "*",
        "Somebody killed the process, and it was not for lack of memory as far as the kernel tells.",
        "The process was ended by SIGKILL, and the kernel counted no out-of-memory kill meanwhile.",
        "see who did: the machine's own log (`dmesg`) and its operator; if it was memory inside a container, raise the "
        "task's memory.",
        says=r"was ended by SIGKILL\b",
    ),
    Entry(
        _PROCESS,
        "*",
        "A signal ended the process.",
        "Its exit status names the signal.",
        "look up the signal that is named, and who sends it.",
        says=r"was ended by SIG[A-Z0-9]+\b",
    ),
    Entry(
        _PROCESS,
        "Interrupted",
        "The machine, not the task, ended the attempt, or nobody saw how it ended.",
        "The process vanished without an exit status, the node was shut down or taken away, or the platform stopped.",
        "nothing: it is retried from the system's budget; if that is used up, see what happens to the machine "
        "(`propeller.node-config.max-node-retries-system-failures` sets the budget).",
    ),
    # -- before it starts ------------------------------------------------------------------------------------------
    Entry(
        _START,
        "SecretNotFound",
        "A secret that the task asks for is not there.",
        "Neither the environment of the platform nor its secrets directory has it.",
        "put it where the message says, and start the workflow again.",
    ),
    Entry(
        _START,
        "SecretUnsafe",
        "A file that holds a secret can be read by others.",
        "The permissions of the file or of a directory above it in the secrets directory.",
        "take the permissions away (`chmod 600` for files, `chmod 700` for directories), and change the secret "
        "if others "
        "may have read it.",
    ),
    Entry(
        _START,
        "StartError",
        "The Python environment that the image selects is not there.",
        "The path that `--image` or `--python` gave does not exist or cannot be executed.",
        "create the environment, or select another one: `aerodrome up --image NAME=PATH`.",
        says="selects the Python environment",
    ),
    Entry(
        _START,
        "StartError",
        "The environment that the image selects has no flytekit that works.",
        "Importing flytekit there failed.",
        "install flytekit in that environment, or let the image name select another one (`--image NAME=PATH`).",
        says="cannot run pyflyte|has no flytekit",
    ),
    Entry(
        _START,
        "StartError",
        "The command is not installed where the task runs.",
        "Executing it failed: there is no such file on the PATH of the environment.",
        "install it on this machine or in the environment, or select an environment that has it (`--image NAME=PATH`).",
        says="there is no executable|cannot be executed",
    ),
    Entry(
        _START,
        "StartError",
        "The code of the workflow cannot be fetched or unpacked.",
        "The distribution that fast registration uploaded is gone or damaged.",
        "register the workflow again (`pyflyte register`), and do not delete uploads that launch plans still use.",
        says="code distribution",
    ),
    Entry(
        _START,
        "StartError",
        "The pod cannot be run as it is written.",
        "The runtime refused it; the message says why.",
        "correct what the message names in the task's container or pod.",
    ),
    Entry(
        _START,
        "UnsatisfiableResources",
        "The task asks for a device that this machine does not have.",
        "The resource requests of its primary container.",
        "remove the request, or run the task on a cluster that has the device.",
    ),
    Entry(
        _START,
        "InvalidImageName",
        "The name of the image is malformed.",
        "The kubelet's waiting reason.",
        "correct `container_image` of the task.",
    ),
    Entry(
        _START,
        "ImagePullBackOff",
        "The image cannot be pulled.",
        "The kubelet's waiting reason, for longer than the grace.",
        "see that the image and its tag exist and that the cluster may pull it (image pull secrets).",
    ),
    Entry(
        _START,
        "ErrImagePull",
        "The image cannot be pulled.",
        "The kubelet's waiting reason.",
        "see that the image and its tag exist and that the cluster may pull it (image pull secrets).",
    ),
    Entry(
        _START,
        "CreateContainer*",
        "The container cannot be created.",
        "The kubelet's waiting reason.",
        "correct what the message names: often a secret, a config map or a volume that is not there.",
    ),
    Entry(
        _START,
        "PodPendingTimeout",
        "No machine took the pod in time.",
        "The time since its last change of condition.",
        "ask for less, or add capacity; `plugins.k8s.pod-pending-timeout` sets the patience.",
    ),
    Entry(
        _START,
        "PluginNotFound",
        "Nothing here runs tasks of this type.",
        "No enabled plugin claims the type, no connector offers it, and it has no container that could simply be run.",
        "enable or install a plugin for the type, or configure a connector that offers it "
        "(`plugins.connector-service.connectors`); see the message for the names.",
    ),
    Entry(
        _START,
        "UnsupportedPlugin",
        "The plugin of this type does not work on this data plane.",
        "The plugin's shape.",
        "choose another plugin in `tasks.task-plugins.default-for-task-types`.",
    ),
    Entry(
        _START,
        "BadTaskSpecification",
        "The task's definition contradicts itself or names what is not there.",
        "Building its pod.",
        "correct the task as the message says, and register a new version.",
    ),
    Entry(
        _START,
        "PrimaryContainerNotFound",
        "The pod has no container of the name that its task calls primary.",
        "The pod's containers.",
        "give `primary_container_name` the name of one of the pod's containers.",
    ),
    Entry(
        _START,
        "FailedToBuildResource",
        "The task's command or resources cannot be formed from its inputs.",
        "Filling in its templates.",
        "correct the template or the input that the message names.",
    ),
    Entry(
        _START,
        "ResourceRequestsExceedLimits",
        "The task asks for more than the namespace's quota can ever give.",
        "The API server's answer.",
        "ask for less, or have the quota raised.",
    ),
    Entry(
        _START,
        "BadTaskFormat",
        "Kubernetes refuses the object.",
        "The API server's answer.",
        "correct the field that the message names.",
    ),
    Entry(
        _START,
        "EntityTooLarge",
        "The object is too large for Kubernetes.",
        "The API server's answer.",
        "pass large values as files, and shorten the environment and the arguments.",
    ),
    Entry(
        _START,
        "RuntimeFailure",
        "The platform may not create the object.",
        "The API server's answer.",
        "give propeller's service account the permission that the message names.",
    ),
    Entry(
        _START,
        "StartFailed",
        "The attempt could not be handed to the runtime.",
        "The runtime's answer.",
        "it is retried; if it stays, read the platform's log: usually the disk is full or the runtime is stopping.",
    ),
    # -- what it left ----------------------------------------------------------------------------------------------
    Entry(
        _RESULTS,
        "OutputsNotFound",
        "The task ended well and left no outputs, though it declares some.",
        "There is no outputs.pb in the attempt's output directory.",
        "let a raw container write each output to its output directory; a Python task that ends its process "
        "(`os._exit`, `sys.exit`) leaves none: return instead.",
    ),
    Entry(
        _RESULTS,
        "OutputSizeExceeded",
        "The outputs are too large to be passed as values.",
        "The size of outputs.pb against `storage.limits.maxDownloadMBs`.",
        "return large values as FlyteFile, FlyteDirectory or DataFrame, or raise `storage.limits.maxDownloadMBs`.",
    ),
    Entry(
        _RESULTS,
        "OutputsCorrupt",
        "The outputs are no literal map.",
        "Parsing outputs.pb.",
        "let nothing but flytekit write to the output prefix; look for a full disk or for code that writes there.",
    ),
    Entry(
        _RESULTS,
        "OutputsNotGenerated",
        "The task succeeded elsewhere and gave no outputs, though it declares some.",
        "The service's answer, and the attempt's output directory.",
        "return the outputs from the connector, or let the job write them to the output prefix.",
    ),
    Entry(
        _RESULTS,
        "ErrorFileBadFormat",
        "The error that the task reported cannot be read.",
        "Parsing error.pb.",
        "let nothing but flytekit write to the output prefix; the task's log has what it tried to say.",
    ),
    Entry(
        _RESULTS,
        "ErrorFileTooLarge",
        "The error that the task reported is larger than what is read.",
        "The size of error.pb.",
        "shorten the exception's message; the task's log has all of it.",
    ),
    Entry(
        _RESULTS,
        "ErrorFileNotFound",
        "The error that the task reported vanished.",
        "error.pb was seen and then gone.",
        "let nothing delete files below the metadata prefix while executions run.",
    ),
    Entry(
        _RESULTS,
        "Futures*",
        "The dynamic workflow that the task gave cannot be read.",
        "Parsing futures.pb.",
        "let nothing but flytekit write to the output prefix; use the same flytekit to register and to run.",
    ),
    Entry(
        _RESULTS,
        "DynamicWorkflow*",
        "The dynamic workflow that the task gave is not valid.",
        "Compiling futures.pb.",
        "correct what the message names in the dynamic task's body.",
    ),
    Entry(
        _RESULTS,
        "ResultsUnreadable",
        "What the attempt left could not be read.",
        "The storage's answers.",
        "see that the storage is reachable, and look at the platform's log.",
    ),
    Entry(
        _RESULTS,
        "InputDownloadFailed",
        "The inputs of a raw container could not be laid out as files.",
        "Writing them into its input directory.",
        "see which input the message names: its data has to exist, and its type to have a form as a file.",
    ),
    Entry(
        _RESULTS,
        "OutputUploadFailed",
        "What a raw container wrote is not what it declares.",
        "Reading the files in its output directory.",
        "write each output to a file of its name in the output directory, in the text form of its type.",
    ),
    Entry(
        _RESULTS,
        "RawContainerError",
        "A raw container says itself that it failed.",
        "The file _ERROR in its output directory.",
        "read the message, which is the content of that file.",
    ),
    # -- the task's own code ---------------------------------------------------------------------------------------
    Entry(
        _CODE,
        "*",
        "The code of the task, or a package that it imports, is not in its environment.",
        "ModuleNotFoundError or ImportError in the traceback.",
        "install the package in the environment that the task's image selects; if it is a module of your own, register "
        "from the folder above it, so that it travels with the workflow.",
        says=r"ModuleNotFoundError|No module named|ImportError:",
        kinds=_USER,
    ),
    Entry(
        _CODE,
        "*",
        "The task is not where registration found it.",
        "Loading the task by module and name failed.",
        "register again from the same folder, and keep the task at the top level of its module.",
        says=r"has no attribute .*\n?.*(load_task|loader|resolver)|task_resolver|load_object_from_module",
        kinds=_USER,
    ),
    Entry(
        _CODE,
        "*",
        "The task's code is not valid Python for the interpreter that runs it.",
        "SyntaxError in the traceback.",
        "correct the line, or let the image select a Python of the version that the code is for.",
        says=r"SyntaxError:|IndentationError:",
        kinds=_USER,
    ),
    Entry(
        _CODE,
        "*",
        "Python could not allocate memory.",
        "MemoryError in the traceback.",
        "raise the task's memory (`limits=Resources(mem=...)`) or let it work in smaller pieces.",
        says=r"MemoryError",
        kinds=_USER,
    ),
    Entry(
        _CODE,
        "*",
        "A value is not of the type that the task or the workflow declares.",
        "flytekit could not convert an input or an output.",
        "compare the annotation of the parameter or return value that is named with what is passed or returned.",
        says=r"TypeTransformerFailedError|Failed to convert (inputs|outputs)|USER:TypeError|type .* mismatch",
    ),
    Entry(
        _CODE,
        "*",
        "A number of an output has no form that the platform can pass on.",
        "NaN or an infinity where JSON is used.",
        "return finite numbers, or put them into a file or a DataFrame.",
        says=r"Out of range float values are not JSON compliant",
    ),
    Entry(
        _CODE,
        "SYSTEM",
        "Something around the task's code failed: reading its inputs or writing its results.",
        "flytekit reported it as a system error.",
        "see the last exception of the traceback; if it is about storage, check that the task may reach it, and "
        "give the "
        "task retries.",
    ),
    Entry(
        _CODE,
        "RecoverableFlyteException",
        "The task raised FlyteRecoverableException.",
        "Its error document.",
        "see why in the traceback; give the task more `retries` if it only needs another try.",
    ),
    Entry(
        _CODE,
        "USER:Recoverable",
        "The task raised FlyteRecoverableException.",
        "Its error document.",
        "see why in the traceback; give the task more `retries` if it only needs another try.",
    ),
    Entry(
        _CODE,
        "USER*",
        "The task's code raised an exception.",
        "The error document that flytekit wrote.",
        "correct what the last lines of the traceback name; raise FlyteRecoverableException where another "
        "attempt helps.",
    ),
    # -- elsewhere -------------------------------------------------------------------------------------------------
    Entry(
        _REMOTE,
        "ConnectorUnavailable",
        "The connector that runs this type of task does not answer.",
        "Its endpoint refused the connection or exceeded the timeout, again and again.",
        "start it, or correct its `endpoint` (`plugins.connector-service.connectors`).",
    ),
    Entry(
        _REMOTE,
        "TaskFailedWithError",
        "The connector refused or failed the task.",
        "Its answer.",
        "read its message, and the connector's own log.",
    ),
    Entry(
        _REMOTE,
        "AutoRefreshCacheFailed",
        "The state of a job elsewhere could not be read for too long.",
        "Errors of the service, one after the other.",
        "see that the service answers; the job was asked to end.",
    ),
    Entry(
        _REMOTE,
        "ResourceDeletedExternally",
        "The pod or the job of the attempt is not there any more.",
        "It was started and is gone.",
        "see who deletes pods of this namespace; the attempt is retried.",
    ),
    Entry(
        _REMOTE,
        "UnexpectedObjectDeletion",
        "Somebody else deletes the pod of the attempt.",
        "Its deletion timestamp.",
        "see who deletes pods of this namespace; the attempt is retried.",
    ),
    Entry(
        _REMOTE,
        "TooManyPluginPhaseVersions",
        "The plugin reported more changes than any task has.",
        "The count of the phase's versions.",
        "report it to the plugin's author.",
    ),
    # -- the graph -------------------------------------------------------------------------------------------------
    Entry(
        _GRAPH,
        "ArrayNodeFailed",
        "Too many items of a map task failed.",
        "The items' own ends.",
        "correct what the first failed items name; `min_success_ratio` lets some fail.",
    ),
    Entry(
        _GRAPH,
        "UserProvidedError",
        "A branch of the workflow ends in `fail`.",
        "The branch's conditions.",
        "see the message, which the workflow's author wrote.",
    ),
    Entry(
        _GRAPH,
        "MalformedBranchUserError",
        "No arm of a branch could be chosen.",
        "The branch's conditions.",
        "give the conditional an `else_`, and compare values of one type.",
    ),
    Entry(
        _GRAPH,
        "BindingResolution*",
        "An input of the node could not be formed.",
        "The node's bindings.",
        "see which value the message names: an upstream output is missing or has another shape.",
    ),
    Entry(
        _GRAPH,
        "BadSpecificationError",
        "The workflow's definition cannot be used.",
        "Reading its closure.",
        "register it again with a current flytekit.",
    ),
    # -- anything else ---------------------------------------------------------------------------------------------
    Entry(
        _PROCESS,
        "*",
        "The program ended with an error of its own.",
        "Its exit code.",
        "read the last lines of its log, which say what it could not do.",
        says=r"exited with code \d+",
        kinds=_USER,
    ),
    Entry(
        _PLATFORM,
        "InternalError",
        "A fault of the platform itself.",
        "An unexpected exception.",
        "report it with the platform's log; the execution can be recovered or relaunched.",
    ),
    Entry(
        _PLATFORM,
        "*",
        "The platform or something that it relies on failed.",
        "The message.",
        "see the platform's log and whether storage and machine are healthy, then recover or relaunch the execution.",
        kinds=(ErrorKind.SYSTEM,),
    ),
    Entry(
        _CODE,
        "*",
        "The task, or the service that ran it, reported this error by itself.",
        "Its own error.",
        "correct what the message names, then relaunch or recover the execution.",
    ),
)


# -- the page ---------------------------------------------------------------------------------------------------------

_HEAD = """\
# Errors, and what to do about them

This page is made from the catalogue by `python -m aerodrome.plugins.catalogue docs/errors.md`.

Every error of a task ends with a line "Next step: …". The table has all of them, with their causes and with what the
platform saw to say so. A code may stand behind `RetriesExhausted|`, when no attempt is left; where one code has several
causes, the message decides. Failures of kind USER spend the task's own `retries`; those of kind SYSTEM have a budget of
their own.
"""


def render() -> str:
    """The page, in Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from _HEAD.splitlines()
    for group in dict.fromkeys(entry.group for entry in ENTRIES):
        yield from ("", f"## {group}", "", "| Code | Cause | Evidence | Next step |", "|---|---|---|---|")
        for entry in ENTRIES:
            if entry.group == group:
                code = "any" if entry.code == "*" else f"`{entry.code}`"
                yield f"| {code} | {entry.cause} | {entry.evidence} | {_sentence(entry.next_step)} |".replace("\n", " ")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def main(arguments: Sequence[str]) -> int:
    """Write the page to the file that is named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m aerodrome.plugins.catalogue FILE\n")
        return 2
    Path(arguments[0]).write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A booted ComfyUI, as the tests see it: the ``comfy`` fixture."""

import asyncio
import copy
import importlib
import inspect
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from .objects import TestCapture, TestObject, put


@dataclass
class NodeError:
    """What went wrong in a prompt, where."""

    node: str | None
    message: str

    def __str__(self) -> str:
        return f"node {self.node}: {self.message}" if self.node else self.message


@dataclass
class RunResult:
    """``outputs``: what the history has for each output node; ``result["id"]`` is a short form.

    ``shown``: what the page that pressed Run was told to show, by node; nothing without a ``page``.
    ``captured``: what TestCapture nodes received. ``error`` is None when all went well.
    """

    outputs: dict[str, dict] = field(default_factory=dict)
    shown: dict[str, dict | None] = field(default_factory=dict)
    captured: dict[str, Any] = field(default_factory=dict)
    error: NodeError | None = None

    def __getitem__(self, node_id: str) -> dict:
        return self.outputs[node_id]


@dataclass(repr=False)
class ComfyUI:
    """``nodes`` maps node ids to classes, ``pack`` is our package as ComfyUI loaded it."""

    root: Path
    version: tuple[int, ...]
    base: Path
    pack: ModuleType
    nodes: dict[str, type]
    server: Any

    put = staticmethod(put)

    def __repr__(self) -> str:
        return f"ComfyUI {'.'.join(map(str, self.version))}"

    @property
    def output_dir(self) -> Path:
        return self.base / "output"

    @property
    def models_dir(self) -> Path:
        return self.base / "models"

    def module(self, name: str) -> ModuleType:
        """The pack's own ``name``, as in ``module("moga.layout")``: not the installed library."""
        return importlib.import_module(f".{name}", self.pack.__name__)

    def run(
        self,
        prompt: dict,
        *,
        check: bool = True,
        executor: Any = None,
        workflow: dict | None = None,
        page: str | None = None,
    ) -> RunResult:
        """Validate an API prompt and execute it, as pressing Run does.

        ``workflow``: the UI workflow behind it, which nodes can save in their files. ``page``: the
        id of a page that is connected; another id is a page that has seen nothing yet.

        Raises AssertionError with the words of the node unless ``check`` is False. Pass the same
        :meth:`executor` again to keep what nodes returned between two runs.
        """
        extra: dict[str, Any] = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        if page:
            extra["client_id"] = page
        result = asyncio.run(self._run(copy.deepcopy(prompt), executor or self.executor(), extra))
        if check and result.error:
            raise AssertionError(str(result.error))
        return result

    async def _run(self, prompt: dict, executor: Any, extra: dict) -> RunResult:
        import execution

        prompt_id = str(uuid.uuid4())
        valid, error, outputs, node_errors = await execution.validate_prompt(
            prompt_id, prompt, None
        )
        if not valid or node_errors:
            return RunResult(error=invalid(error, node_errors))
        TestCapture.received.clear()
        self.server.sent.clear()
        await executor.execute_async(prompt, prompt_id, extra, outputs)
        executed = [data for event, data in self.server.sent if event == "executed"]
        return RunResult(
            executor.history_result["outputs"],
            {data["display_node"]: data["output"] for data in executed},
            dict(TestCapture.received),
            None if executor.success else failed(executor),
        )

    def executor(self, lru: int = 0) -> Any:
        """A new PromptExecutor with an empty cache; ``lru`` as for ``--cache-lru``."""
        import execution

        kind = execution.CacheType.LRU if lru else execution.CacheType.CLASSIC
        if "cache_size" in inspect.signature(execution.PromptExecutor).parameters:  # up to 0.3.64
            return execution.PromptExecutor(self.server, kind, cache_size=lru)
        sizes = {"lru": lru, "ram": 0, "ram_inactive": 0}
        return execution.PromptExecutor(self.server, kind, cache_args=sizes)

    def call(self, node_id: str, **inputs: Any) -> tuple:
        """Outputs of one node. Widgets that aren't given have their defaults."""
        import torch

        cls = self.nodes[node_id]
        inputs = {**dict(defaults(cls)), **inputs}
        if hasattr(cls, "PREPARE_CLASS_CLONE"):
            target = cls.PREPARE_CLASS_CLONE(None)
            function = target.execute
        else:
            function = getattr(cls(), cls.FUNCTION)
        with torch.inference_mode():
            result = function(**inputs)
            if inspect.isawaitable(result):
                result = asyncio.run(waited(result))
        if isinstance(result, dict):
            return tuple(result.get("result", ()))
        return tuple(result) if isinstance(result, tuple) else tuple(result.result or ())

    def add_pack(self, folder: Path) -> None:
        """Load another custom node pack."""
        import nodes

        core = set(nodes.NODE_CLASS_MAPPINGS)
        if not asyncio.run(nodes.load_custom_node(str(folder), core)):
            raise RuntimeError(f"{folder} can't be loaded (see the log above)")

    def add_model(self, folder: str, filename: str, state_dict: dict, metadata=None) -> str:
        """Write a safetensors into the models folder of a type, as in "diffusion_models"."""
        import folder_paths
        from safetensors.torch import save_file

        path = Path(folder_paths.get_folder_paths(folder)[0]) / filename
        if not path.is_relative_to(self.base):
            raise ValueError(f"{path} is not in the test's own folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        state_dict = {key: value.contiguous() for key, value in state_dict.items()}
        save_file(state_dict, path, metadata)
        folder_paths.filename_list_cache.pop(folder, None)
        return filename

    def forget(self) -> None:
        """Let go of all objects and models, so that the next test starts clean."""
        import comfy.model_management

        TestObject.objects.clear()
        TestCapture.received.clear()
        comfy.model_management.unload_all_models()


def defaults(cls: type) -> Iterator[tuple[str, Any]]:
    """The value of each required widget of a new node."""
    for name, (kind, *rest) in cls.INPUT_TYPES().get("required", {}).items():
        options = rest[0] if rest else {}
        choices = kind if isinstance(kind, list) else options.get("options", ())
        if "default" in options:
            yield name, options["default"]
        elif choices:
            yield name, choices[0]


def invalid(error: dict | None, node_errors: dict) -> NodeError:
    """All words of validate_prompt's complaints in one."""
    for node_id, found in node_errors.items():
        reasons = [f"{e['message']}: {e['details']}" for e in found["errors"]]
        return NodeError(node_id, f"{found['class_type']}: {'; '.join(reasons)}")
    return NodeError(None, f"{error['message']}: {error['details']}")


def failed(executor: Any) -> NodeError:
    for event, data in executor.status_messages:
        if event == "execution_error":
            message = f"{data['node_type']}: {data['exception_type']}: {data['exception_message']}"
            print("".join(data["traceback"]), file=sys.stderr)  # pytest shows it with the failure
            return NodeError(data["node_id"], message.strip())
        if event == "execution_interrupted":
            return NodeError(data["node_id"], f"{data['node_type']}: interrupted")
    return NodeError(None, "the prompt failed without a message")


async def waited(result: Any) -> Any:
    return await result
